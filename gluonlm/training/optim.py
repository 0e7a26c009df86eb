"""What turns gradients into new weights: clipping, optimizers, learning-rate schedules.

Which ones there are is declared in :mod:`gluonlm.config`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import mxnet as mx
from mxnet import nd
from mxnet.gluon import Parameter

from gluonlm.config import OPTIMIZERS, SCHEDULES, Config
from gluonlm.system.threads import Threads
from gluonlm.training.loss_scale import LossScale
from gluonlm.training.session import SINGLE, Group, pack, unpack


def global_norm(arrays: Sequence[nd.NDArray]) -> float:
    """Euclidean norm of all arrays (on one device) as one vector, by BLAS: three times as fast
    as MXNet's ``multi_sum_sq``."""
    squares = [nd.dot(flat, flat) for flat in (array.reshape(-1) for array in arrays)]
    return math.sqrt(nd.add_n(*squares).asscalar())


def clip_scale(norm: float, max_norm: float) -> float:
    """The factor of ``gluon.utils.clip_global_norm`` (max_norm 0: no clipping); given to the
    optimizer it saves the pass over all gradients that clipping would cost."""
    return min(1.0, max_norm / (norm + 1e-8)) if max_norm else 1.0


@mx.optimizer.register
class PlainSGD(mx.optimizer.SGD):
    """MXNet's without momentum, by ``sgd_update``: half the time of its operator for many."""

    def update(self, index, weight, grad, state):
        factors = {"lr": self.lr, "wd": self.wd, "rescale_grad": self.rescale_grad}
        nd.sgd_update(weight, grad, out=weight, **factors)


class Updater:
    """An optimizer for parameters that live on one or several devices of one or several workers.

    Gradients are summed over the devices and averaged over the workers first, then clipped as one
    vector, then all make the same update; workers that do not wait for each other (``dist_async``)
    clip their own. :meth:`set_mask` keeps single weights at zero.

    :param optimizer: a name of :data:`gluonlm.config.OPTIMIZERS`. Weight decay is an L2 gradient,
        but AdamW decays the weights themselves (Loshchilov & Hutter 2019, arXiv:1711.05101).
    """

    def __init__(
        self,
        parameters: dict[str, Parameter],
        optimizer: str,
        wdecay: float,
        kvstore: str = "device",
        group: Group = SINGLE,
    ):
        self.parameters, self.group = parameters, group
        self.contexts = next(iter(parameters.values())).list_ctx()
        # workers wait for each other, whatever they do, and GPUs need no threads
        choose = self.contexts[0].device_type == "cpu" and group.world_size == 1
        self.threads = Threads(None if choose else 1)
        kind = OPTIMIZERS[optimizer]
        self.decoupled = wdecay if kind.decoupled else 0.0
        wd = 0.0 if kind.decoupled else wdecay
        self.optimizers = [mx.optimizer.create(kind.name, wd=wd) for _ in self.contexts]
        self.states = [
            {name: one.create_state(name, p.data(ctx)) for name, p in parameters.items()}
            for one, ctx in zip(self.optimizers, self.contexts, strict=True)
        ]
        self.scale: LossScale | None = None  # of the losses' gradients
        self.masks: dict[str, list[nd.NDArray]] = {}  # of a parameter, on each device
        self.kvstore = mx.kv.create(kvstore) if len(self.contexts) > 1 else None
        if self.kvstore:
            for name, parameter in parameters.items():
                self.kvstore.init(name, parameter.data(self.contexts[0]))

    def step(self, lr: float, clip: float, loss: nd.NDArray | None = None) -> float:
        """Update all weights from their gradients; returns the norm before clipping.

        A norm that is not finite leaves the weights as they are, for the caller to report; but with
        loss scaling an overflow is usual: the step is skipped, and its norm given as 0.

        :param loss: this worker's (1,), which becomes the mean over the workers.
        """
        self._reduce(loss)
        before = pack(self._weights()) if self.group.asynchronous else None
        norm = self._update(lr, clip)
        if before is not None:
            self._set_weights(self.group.add(pack(self._weights()) - before))
        return norm

    def head_gradients(self, heads: list[nd.NDArray]) -> list[nd.NDArray] | None:
        """Where back-propagation begins: the loss scale for each head, None for ones."""
        if not self.scale:
            return None
        return [nd.full(head.shape, self.scale.loss_scale, head.context) for head in heads]

    def synchronize(self) -> None:
        """Give all workers the same weights: before the first step, and before evaluation."""
        self._set_weights(self.group.synchronize(pack(self._weights())))

    def _reduce(self, loss: nd.NDArray | None) -> None:
        """Sum the gradients over the devices and average them and the loss over the workers."""
        if self.kvstore:
            for name, parameter in self.parameters.items():
                self.kvstore.pushpull(name, parameter.list_grad(), out=parameter.list_grad())
        self.group.all_reduce([*self._gradients(), *([] if loss is None else [loss])])
        if self.group.world_size > 1:
            for parameter in self.parameters.values():
                for other in parameter.list_grad()[1:]:
                    parameter.list_grad()[0].copyto(other)
        for name, masks in self.masks.items():  # before clipping: what cannot move does not count
            for gradient, mask in zip(self.parameters[name].list_grad(), masks, strict=True):
                gradient *= mask

    def _gradients(self) -> list[nd.NDArray]:
        """Those on the first device; of a sparse one its rows (K, E)."""
        gradients = [parameter.grad(self.contexts[0]) for parameter in self.parameters.values()]
        return [one.data if one.stype == "row_sparse" else one for one in gradients]

    def _weights(self, device: int = 0) -> list[nd.NDArray]:
        return [parameter.list_data()[device] for parameter in self.parameters.values()]

    def _set_weights(self, flat: nd.NDArray) -> None:
        for device in range(len(self.contexts)):
            unpack(flat, self._weights(device))

    def _update(self, lr: float, clip: float) -> float:
        norm = global_norm(self._gradients())
        factor = 1 / self.scale.loss_scale if self.scale else 1.0
        norm *= factor
        overflow = not math.isfinite(norm)
        if self.scale and self.scale.adapt(overflow):
            return 0.0
        if overflow:
            return norm
        for optimizer, states, ctx in zip(self.optimizers, self.states, self.contexts, strict=True):
            optimizer.set_learning_rate(lr)
            optimizer.rescale_grad = clip_scale(norm, clip) * factor
            for name, parameter in self.parameters.items():
                weight = parameter.data(ctx)
                if self.decoupled:
                    weight *= 1 - lr * self.decoupled
                optimizer.update(name, weight, parameter.grad(ctx), states[name])
        return norm

    def set_mask(self, name: str, mask: nd.NDArray) -> None:
        """Keep the weights of a parameter at zero where ``mask`` (its shape, 0 or 1) is zero; the
        optimizer forgets what it remembers of them, so that no update moves them again."""
        self.masks[name] = [mask.as_in_context(ctx) for ctx in self.contexts]
        for states, own in zip(self.states, self.masks[name], strict=True):
            for array in (self.parameters[name].data(own.context), *tensors(states[name])):
                array[:] = nd.where(own, array, nd.zeros_like(array))  # no product: no -0

    def state_arrays(self) -> dict[str, nd.NDArray]:
        """What it remembers on one device: Adam's two moments, nothing for SGD; the loss scale."""
        scale = {"loss_scale": nd.array(self.scale.state())} if self.scale else {}
        return scale | {
            f"{name}.{index}": array
            for name, state in self.states[0].items()
            for index, array in enumerate(tensors(state))
        }

    def load_state(self, arrays: dict[str, nd.NDArray], updates: int) -> None:
        """Put back what :meth:`state_arrays` gave after ``updates`` steps."""
        if self.scale:
            self.scale.load_state(arrays["loss_scale"])
            updates -= self.scale.skipped
        for optimizer, states in zip(self.optimizers, self.states, strict=True):
            # Adam's bias correction counts the updates of each parameter from here
            optimizer.begin_num_update = optimizer.num_update = updates
            for name, state in states.items():
                for index, array in enumerate(tensors(state)):
                    array[:] = arrays[f"{name}.{index}"]


def tensors(state: object) -> tuple[nd.NDArray, ...]:
    """What an optimizer of MXNet's remembers of a parameter: nothing, an array, or several."""
    return () if state is None else state if isinstance(state, tuple) else (state,)


class Average:
    """The mean of the weights after each step: averaged SGD (Polyak & Juditsky 1992), as PyTorch's
    ``ASGD(lambd=0, t0=-1)``."""

    def __init__(self, parameters: dict[str, Parameter], steps: int = 0):
        self.parameters, self.steps = parameters, steps
        self.arrays = self._copy()

    def _copy(self) -> dict[str, nd.NDArray]:
        return {name: p.data(p.list_ctx()[0]).copy() for name, p in self.parameters.items()}

    def update(self) -> None:
        """Take the weights as they are into the mean."""
        self.steps += 1
        for name, mean in self.arrays.items():
            mean += (self.parameters[name].data(mean.context) - mean) / self.steps

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A with-block in which the parameters are the mean; afterwards they are what they were."""
        raw = self._copy()
        try:
            self._set(self.arrays)
            yield
        finally:
            self._set(raw)

    def _set(self, arrays: dict[str, nd.NDArray]) -> None:
        for name, parameter in self.parameters.items():
            parameter.set_data(arrays[name])


def stalled(losses: Sequence[float], newest: float, patience: int) -> bool:
    """Whether ``newest`` is above the least of ``losses`` but the last ``patience`` ones: what
    triggers NT-ASGD, algorithm 1 of Merity et al. 2018."""
    earlier = losses[: max(0, len(losses) - patience)]  # [:-patience] would be empty for 0
    return bool(earlier) and newest > min(earlier)


@dataclass
class Schedule:
    """The learning rate of each step, from a run's settings and its validation losses.

    It is a product: the initial rate; ``lr_factor`` for each plateau (as PyTorch's
    ReduceLROnPlateau); a tenth for each epoch of ``when`` that is past; ``decay`` per epoch; and
    the shape of ``schedule`` over the whole run. It never is below ``lr_min``.
    """

    config: Config
    plateau_scale: float = 1.0
    best: float = math.inf
    bad_epochs: int = 0

    def lr(self, epoch: int, fraction: float) -> float:
        """The learning rate in epoch ``epoch`` (from 0) when ``fraction`` of it is done."""
        config = self.config
        tenths = sum(epoch >= boundary for boundary in config.when)
        scale = self.plateau_scale * 0.1**tenths * config.decay**epoch
        scale *= SCHEDULES[config.schedule]((epoch + fraction) / config.epochs)
        return max(config.learning_rate * scale, config.lr_min)

    def end_epoch(self, valid_loss: float) -> bool:
        """Take note of an epoch's validation loss; True when the learning rate falls for it."""
        if valid_loss < self.best * (1 - self.config.lr_threshold):
            self.best, self.bad_epochs = valid_loss, 0
            return False
        self.bad_epochs += 1
        if self.config.schedule != "plateau" or self.bad_epochs <= self.config.lr_patience:
            return False
        self.plateau_scale, self.bad_epochs = self.plateau_scale * self.config.lr_factor, 0
        return True

    def state(self) -> dict[str, float]:
        """What changes during a run, for a checkpoint."""
        return {name: value for name, value in asdict(self).items() if name != "config"}
