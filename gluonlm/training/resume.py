"""Stopping a run and going on exactly: where it stands, and the checkpoint that holds all of it.

>>> save_training(training)              # writes last.safetensors
>>> load_training(training)              # in another process: the weights go on as if nothing had happened
"""

import math
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from mxnet import nd

from gluonlm.model.checkpoint import set_parameters
from gluonlm.system.errors import UserError
from gluonlm.training.optim import Average, Schedule

if TYPE_CHECKING:
    from gluonlm.training.loop import Training

State = list[nd.NDArray]


@dataclass
class Progress:
    """Where a run stands: with the weights and the states, all that exact resumption needs."""

    epoch: int = 0
    batch: int = 0  # of the epoch, the next one
    step: int = 0
    loss_sum: float = 0.0  # over the epoch's tokens so far
    tokens: int = 0
    seconds: float = 0.0  # of training and validation, all sessions together
    best_loss: float = math.inf
    best_epoch: int = -1
    log_bytes: int = 0
    valid_losses: list[float] = field(default_factory=list)  # of all epochs
    averaged_steps: int = 0
    pruned: int = 0  # weights of the best model that are pruned
    corpus: dict[str, str] = field(default_factory=dict)  # hashes of vocabulary and text
    done: bool = False  # finetuning is over before the last epoch when it no longer helps


class StopRequest:
    """A with-block in which Ctrl-C and SIGTERM only ask to stop; a second one ends the process at once."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> "StopRequest":
        self.handlers = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self.asked = True
        self.__exit__()


def save_training(training: "Training") -> None:
    """Write all that :func:`load_training` needs into the run's folder."""
    progress, average, states = training.progress, training.average, training.states
    arrays = {
        f"weight.{name}": p.data(training.contexts[0])
        for name, p in training.model.trainables().items()
    }
    arrays |= {
        f"optimizer.{name}": array for name, array in training.updater.state_arrays().items()
    }
    hidden = training.group.all_gather(
        [array for state in states for array in state]
    )  # of all workers' devices
    arrays |= {
        "hidden.{}.{}".format(*divmod(i, len(states[0]))): array for i, array in enumerate(hidden)
    }
    if average:
        arrays |= {f"average.{name}": array for name, array in average.arrays.items()}
        progress.averaged_steps = average.steps
    arrays |= {f"mask.{name}": array for name, array in training.pruner.state().items()}
    training.run.save_state(arrays, asdict(progress), training.schedule.state())


def load_training(training: "Training") -> None:
    """Continue where the run's last checkpoint stands; worker 0 reads it for all.

    :raises UserError: when there is none, or it does not fit this run's text, settings, devices and workers.
    """
    run, model, worker = training.run, training.model, training.group
    arrays, progress, schedule = worker.broadcast(
        *(run.load_state() if worker.rank == 0 else (None, None, None))
    )
    if "position" in progress:  # a checkpoint of the first version
        progress["batch"] = progress.pop("position") // training.config.bptt
    hashes = training.corpus.hashes
    if changed := [
        name for name, then in progress.get("corpus", {}).items() if then != hashes[name]
    ]:
        raise UserError(
            f"the {changed[0]} of {training.config.data} is no longer what {run.folder} was trained on: put the old "
            "files back, or train a new model"
        )
    training.progress = Progress(**progress | {"corpus": hashes})
    training.schedule = Schedule(training.config, **schedule)
    group = {kind: {} for kind in ("weight", "optimizer", "hidden", "average", "mask")}
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        group[kind][rest] = array
    set_parameters(model, group["weight"], run.last)
    training.updater.load_state(group["optimizer"], training.progress.step)
    training.pruner.load_state(group["mask"])
    if group["average"]:
        training.average = Average(model.trainables(), training.progress.averaged_steps)
        ctx = training.contexts[0]
        training.average.arrays = {
            name: nd.array(array, ctx) for name, array in group["average"].items()
        }
    load_hidden(training, group["hidden"])
    run.truncate_log(training.progress.log_bytes)


def load_hidden(training: "Training", arrays: dict[str, np.ndarray]) -> None:
    """Divide the hidden states of all columns over the devices of all workers, however many.

    :param arrays: by device and index in the state, such as "0.1".
    """
    states, group = training.states, training.group
    then, now = len(arrays) // len(states[0]), len(states) * group.world_size
    if then != now:
        print(
            f"caution: {training.run.folder} was trained on {then} device{'s' * (then > 1)} (those "
            f"of all workers together) and these are {now}: the weights will not be exactly those "
            "of a run that was never stopped",
            file=sys.stderr,
        )
    for index in range(len(states[0])):
        whole = np.concatenate([arrays[f"{device}.{index}"] for device in range(then)], axis=1)
        own = whole[:, group.columns(whole.shape[1])]  # (1, n, C)
        for state, part in zip(states, np.split(own, len(states), axis=1), strict=True):
            state[index][:] = nd.array(part)
