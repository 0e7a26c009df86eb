"""Stopping a run and going on exactly: where it stands, and the checkpoint that holds all of it.

>>> save_training(training)              # writes last.safetensors
>>> load_training(training)              # in another process: as if nothing had happened

``training`` is a :class:`gluonlm.training.loop.Training`.
"""

import contextlib
import json
import math
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from mxnet import nd

from gluonlm.config import option
from gluonlm.model.checkpoint import MODEL_FORMAT, set_parameters
from gluonlm.model.storage import read_arrays, reading
from gluonlm.system.errors import UserError
from gluonlm.system.runtime import prepare
from gluonlm.system.streams import counted
from gluonlm.system.typed import parse
from gluonlm.training.optim import Average, Schedule

MOVABLE = ("data", "epochs")  # settings that may change: the text itself is compared
KINDS = ("weight", "optimizer", "hidden", "average", "mask")  # of arrays in a checkpoint


@dataclass
class Progress:
    """Where a run stands: with the weights and the states, all that exact resumption needs."""

    epoch: int = 0
    batch: int = 0  # of the epoch, the next one
    step: int = 0
    loss_sum: float = 0.0  # over the epoch's tokens so far
    tokens: int = 0
    seconds: float = 0.0  # on the clock, of training and validation, all sessions together
    best_loss: float = math.inf
    best_epoch: int = -1
    log_bytes: int = 0
    valid_losses: list[float] = field(default_factory=list)  # of all epochs
    averaged_steps: int = 0
    pruned: int = 0  # weights of the best model that are pruned
    corpus: dict[str, str] = field(default_factory=dict)  # hashes of vocabulary and text
    settings: str = "{}"  # all of the run's, as JSON: config.json has no digest
    done: bool = False  # over before the last epoch, since more would not help
    threads: int = 0  # that compute (0: unknown): their number decides how sums are rounded


class StopRequest:
    """A with-block in which Ctrl-C and SIGTERM only ask to stop; the same once more ends at
    once. One of each is no haste: a job scheduler tells a worker to end, and tells the launcher,
    which passes it on.

    Outside the main thread, which alone may handle signals, nothing changes.
    """

    def __init__(self):
        self.asked, self.handlers = False, {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            signals = signal.SIGINT, signal.SIGTERM
            self.handlers = {number: signal.signal(number, self._ask) for number in signals}
        return self

    def __exit__(self, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self.asked = True
        signal.signal(number, self.handlers[number])
        if number == signal.SIGTERM:  # sent by a program, which needs no advice
            return
        # print may be what the signal has interrupted, and is not re-entrant
        with contextlib.suppress(OSError):  # a full disk, or a reader that has gone
            os.write(2, b"\nstopping after this step, then evaluating; Ctrl-C again ends at once\n")


def save_training(training) -> None:
    """Write all that :func:`load_training` needs into the run's folder."""
    progress, average, states = training.progress, training.average, training.states
    ctx, count = training.contexts[0], len(states[0])
    hidden = training.group.all_gather(sum(states, []))  # of all workers' devices
    parts = {
        "weight": {name: p.data(ctx) for name, p in training.model.trainables().items()},
        "optimizer": training.updater.state_arrays(),
        "hidden": {f"{i // count}.{i % count}": array for i, array in enumerate(hidden)},
        "average": average.arrays if average else {},
        "mask": training.pruner.state(),
    }
    if average:
        progress.averaged_steps = average.steps
    arrays = {f"{kind}.{name}": array for kind in KINDS for name, array in parts[kind].items()}
    said = {"progress": asdict(progress), "schedule": training.schedule.state()}
    training.run.save_state(arrays, {name: json.dumps(value) for name, value in said.items()})


def load_training(training) -> None:
    """Continue where the run's last checkpoint stands; rank 0 reads it for all. A UserError when
    there is none, or it does not fit this run's text, settings, devices and workers."""
    run, group = training.run, training.group
    arrays, said = group.broadcast(*(run.load_state() if group.rank == 0 else (None, None)))
    then, schedule = read_progress(training, said)
    check_same_settings(training, json.loads(then.settings))
    check_same_text(training, then.corpus)
    threads = prepare().threads
    if then.threads not in (0, threads):
        caution(training, f"with OMP_NUM_THREADS={then.threads}, and now it is {threads}")
    now = {"corpus": training.corpus.hashes, "settings": training.config.to_json()}
    training.progress = replace(then, threads=threads, **now)
    training.schedule = Schedule(training.config, **schedule)
    parts = {kind: {} for kind in KINDS}
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = array
    set_parameters(training.model, parts["weight"], run.last)
    training.updater.load_state(parts["optimizer"], training.progress.step)
    training.pruner.load_state(parts["mask"])
    if parts["average"]:
        ctx = training.contexts[0]
        training.average = Average(training.model.trainables(), training.progress.averaged_steps)
        training.average.arrays = {name: nd.array(a, ctx) for name, a in parts["average"].items()}
    load_hidden(training, parts["hidden"])
    if group.rank == 0 and math.isfinite(training.progress.best_loss):
        read_arrays(run.best, MODEL_FORMAT)  # missing or damaged: say so before it is wanted
    run.truncate_log(training.progress.log_bytes)


def caution(training, differs: str) -> None:
    """Say that resuming is not exact, and why."""
    effect = "the weights will not be exactly those of a run that was never stopped"
    print(f"caution: {training.run.folder} was trained {differs}: {effect}", file=sys.stderr)


def read_progress(training, said: dict[str, str]) -> tuple[Progress, dict[str, float]]:
    """Where the run and its schedule stood; a UserError when that cannot be."""
    with reading(training.run.last):
        then = parse(said["progress"], Progress)
        schedule = parse(said["schedule"], dict[str, float])
        if unknown := schedule.keys() - training.schedule.state().keys():
            raise ValueError(f"schedule: {min(unknown)} is unknown")
        parse(then.settings, dict[str, Any])
        if min(then.epoch, then.batch, then.step, then.averaged_steps) < 0:
            raise ValueError("progress: it stands before its beginning")
    return then, schedule


def check_same_settings(training, then: dict[str, Any]) -> None:
    """Raise a UserError when config.json has been edited since the run began."""
    now, run = json.loads(training.config.to_json()), training.run
    for name in sorted(now.keys() & then.keys() - {*MOVABLE}):
        if now[name] != then[name]:
            edited = f"{run.config_path} has {option(name)} {now[name]}"
            other = f"{run.folder} is trained with {then[name]}"
            advice = f"put that back, or try the new value with --finetune {run.folder}"
            raise UserError(f"{edited}, and {other}: {advice}")


def check_same_text(training, then: dict[str, str]) -> None:
    """Raise a UserError when the text or its vocabulary is not what the run began with."""
    now = training.corpus.hashes
    changed = [name for name, digest in then.items() if name in now and digest != now[name]]
    if changed:
        data, folder = training.config.data, training.run.folder
        other = f"the {changed[0]} of {data} is no longer what {folder} was trained on"
        raise UserError(f"{other}: put the old files back, or train a new model")


def load_hidden(training, arrays: dict[str, np.ndarray]) -> None:
    """Divide the hidden states of all columns, by device and index in the state such as "0.1", over
    the devices of all workers, however many."""
    states, group = training.states, training.group
    then, now = len(arrays) // len(states[0]), len(states) * group.world_size
    if then != now:
        devices = f"{counted(then, 'device')} (those of all workers together)"
        caution(training, f"on {devices} and these are {now}")
    for index in range(len(states[0])):
        whole = np.concatenate([arrays[f"{device}.{index}"] for device in range(then)], axis=1)
        own = whole[:, group.columns(whole.shape[1])]  # (1, n, C)
        for state, part in zip(states, np.split(own, len(states), axis=1), strict=True):
            state[index][:] = nd.array(part)
