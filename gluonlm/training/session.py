"""Where a run is computed and how it is watched: what may change whenever it is resumed.

A :class:`Session` has devices and a :class:`Group` of workers, each of which reads its columns of
the batch. The group here has a single worker; those of several, in :mod:`gluonlm.parallel.group`,
have its methods, which all workers must call in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import nd

from gluonlm.system.errors import UserError

LOCAL = ("local", "device", "nccl")  # kvstores over the devices of one process


class Group:
    """The group of a single worker."""

    rank, world_size = 0, 1  # the number of this worker, of all; rank 0 is the one that writes
    asynchronous = False  # whether the workers take steps without waiting for each other

    def columns(self, count: int) -> slice:
        """This worker's share of ``count`` columns; all shares together are all columns."""
        first, last = (rank * count // self.world_size for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def all_gather_object(self, what: str, value: Any) -> list:
        """The values of all workers, in the order of their ranks: anything that JSON knows. By the
        name ``what`` workers at different places are noticed."""
        return [value]

    def all_gather(self, arrays: list[nd.NDArray]) -> list[nd.NDArray]:
        """The arrays of all workers in one list; each has as many of the same shapes."""
        return arrays

    def broadcast(self, arrays: dict[str, np.ndarray] | None, *values: Any) -> tuple:
        """Rank 0's arrays and further values for all workers."""
        return arrays, *values

    def all_reduce(self, gradients: Sequence[nd.NDArray]) -> None:
        """Replace each array by its mean over the workers if they take steps together."""

    def all_reduce_flags(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and to save before the next step: what any worker wants, for all."""
        return stop, save

    def synchronize(self, weights: nd.NDArray) -> nd.NDArray:
        """The same weights for all workers: those of rank 0, or those that the servers have."""
        return weights

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


SINGLE = Group()


@dataclass(frozen=True)
class Session:
    """Where a run is computed and how it is watched."""

    contexts: Sequence[mx.Context] = (mx.cpu(),)
    kvstore: str = "device"  # how gradients are summed over them
    group: Group = SINGLE
    log_interval: int = 200  # batches between two log records
    checkpoint_seconds: float = 60.0  # work at risk in a crash
    tensorboard: bool = False  # events of the log for TensorBoard

    def __post_init__(self):
        if isinstance(self.contexts, mx.Context) or not self.contexts:
            raise UserError("contexts must be a list of devices, such as [mx.cpu()]")
        if len(set(self.contexts)) < len(self.contexts):  # each would add its gradient twice
            raise UserError("contexts: a device is named twice, give each once")
        if self.log_interval < 1:
            raise UserError("log_interval must be at least 1 batch")

    @property
    def alone(self) -> bool:
        """Whether one worker computes on one processor, with no group to sum gradients over."""
        single = len(self.contexts) == 1 and self.group is SINGLE
        return single and self.contexts[0].device_type == "cpu"


ON_CPU = Session()


def pack(arrays: Sequence[nd.NDArray]) -> nd.NDArray:
    """All elements of the arrays as one vector on the CPU."""
    return nd.concat(*(array.reshape(-1).as_in_context(mx.cpu()) for array in arrays), dim=0)


def unpack(flat: nd.NDArray, arrays: Sequence[nd.NDArray]) -> None:
    """Set arrays from the vector of all their elements."""
    start = 0
    for array in arrays:
        part = flat[start : start + array.size].reshape(array.shape)
        array[:] = part.as_in_context(array.context)
        start += array.size
