"""Training by several workers: which columns each reads, and what they tell each other.

    python -m gluonlm.launch -n 2 --local -- --data ptb --tied          # starts the workers, see gluonlm.launch
    horovodrun -np 2 python -m gluonlm.train --kvstore horovod ...      # by Horovod, see gluonlm.parallel.ring

Each worker is a process with its own columns of the global batch. ``dist_sync``: in each step the workers' gradients
are averaged by ps-lite's servers and every worker makes the same update, so that the weights are those of one worker
with the whole batch. ``dist_async``: nobody waits; each worker makes its own update (with its own clipping) and the
servers add up what the workers have changed.

:class:`Alone` is the group of a single process. The others have its methods; all workers must call them in the same
order.
"""

import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import nd

from gluonlm.parallel.control import World
from gluonlm.system.errors import UserError

LOCAL = ("local", "device", "nccl")  # over the devices of one process
KVSTORES = (*LOCAL, "dist_sync", "dist_async", "horovod")
ASSEMBLY = 120.0  # seconds for workers and servers to find each other, once all are there


class Alone:
    """The only worker.

    :ivar rank: number of this worker; number 0 is the one that writes.
    """

    rank, size, asynchronous = 0, 1, False

    def columns(self, count: int) -> slice:
        """This worker's share of ``count`` columns; all shares together are all columns."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def exchange(self, what: str, value: Any) -> list:
        """The values that the workers give, in the order of their numbers: anything that JSON knows."""
        return [value]

    def start(self) -> None:
        """Connect to the servers; before that there is only :meth:`exchange`."""

    def average(self, arrays: Sequence[nd.NDArray]) -> None:
        """Replace each array by its mean over the workers if they take steps together."""

    def meet(self, weights: nd.NDArray) -> nd.NDArray:
        """The same weights for all workers: those of worker 0, or those that the servers have."""
        return weights

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and to save before the next step; the wishes of each worker."""
        return stop, save

    def share(self, arrays: dict[str, np.ndarray] | None, *rest: Any) -> tuple:
        """Worker 0's arrays and further values for all workers."""
        return arrays, *rest

    def gather(self, arrays: list[nd.NDArray]) -> list[nd.NDArray]:
        """The arrays of all workers in one list; each has as many of the same shapes."""
        return arrays

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


ALONE = Alone()


class Channel:
    """A worker's connection to the root, by which small values are exchanged."""

    def __init__(self, world: World, number: int):
        connection = socket.create_connection((world.root, world.port + 1), timeout=60)
        connection.settimeout(None)  # the node ends this process when the root or a worker has gone
        self.file = connection.makefile("rwb")
        self._send(kind="process", role="worker", number=number, host=None)

    def _send(self, **message: Any) -> None:
        self.file.write(json.dumps(message).encode() + b"\n")
        self.file.flush()

    def exchange(self, what: str, value: Any) -> list:
        """The values of all workers."""
        self._send(value=[what, value])
        return same_place(what, json.loads(self.file.readline())["values"])


def same_place(what: str, messages: list[list]) -> list:
    """The values in the messages [what, value] of all workers.

    :raises UserError: when another worker is at another place.
    """
    for number, (other, _) in enumerate(messages):
        if other != what:
            raise UserError(
                f"worker {number} tells its {other} when others tell their {what}: start all workers with the same "
                "command and the same gluonlm"
            )
    return [value for _, value in messages]


class Together(Alone):
    """Workers that take each step together: kvstore ``dist_sync``.

    :param channel: for small values.

    The sum over three or more workers is rounded in the order in which their gradients arrive: the last bit of a
    weight may differ from run to run. With two it cannot.
    """

    kind = "dist_sync"

    def __init__(self, rank: int, size: int, channel: Channel | None = None):
        self.rank, self.size, self.channel = rank, size, channel
        self.wishes = self.agreed = (False, False)
        self.known: set[str] = set()
        self.kvstore = None

    def exchange(self, what, value):
        return self.channel.exchange(what, value)

    def start(self):
        with Deadline(
            ASSEMBLY,
            "the workers and servers do not reach each other: open the firewall between them",
        ):
            self.kvstore = mx.kv.create(self.kind)

    def average(self, arrays):
        flat = pack([*arrays, nd.array(self.wishes)])  # one message is the cheapest
        self._sum("step", flat)
        flat /= self.size
        unpack(flat, arrays)
        self.agreed = tuple(bool(wish) for wish in flat[-2:].asnumpy())

    def meet(self, weights):
        return (
            weights
            if self.size == 1
            else nd.array(self.share({"weights": weights.asnumpy()})[0]["weights"])
        )

    def agree(self, stop, save):
        stopping, saving = self.agreed
        self.wishes = (
            stop,
            save and not saving and self.rank == 0,
        )  # told to all with the next step's gradients
        return stopping, saving

    def share(self, arrays, *rest):
        kinds = (
            {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
            if self.rank == 0
            else None
        )
        kinds, *rest = self.exchange("state", [kinds, *rest])[0]
        own = [
            nd.array(arrays[name]) if self.rank == 0 else nd.zeros(shape)
            for name, (shape, _) in kinds.items()
        ]
        if own:
            flat = pack(own)
            self._sum(f"share{len(flat)}", flat)
            unpack(flat, own)
        dtypes = (
            dtype for _, dtype in kinds.values()
        )  # MXNet's sums are of float32, which has room for a byte
        found = (array.asnumpy().astype(dtype) for array, dtype in zip(own, dtypes, strict=True))
        return dict(zip(kinds, found, strict=True)), *rest

    def gather(self, arrays):
        everyone = [
            array.copy() if worker == self.rank else nd.zeros(array.shape, array.context)
            for worker in range(self.size)
            for array in arrays
        ]
        flat = pack(everyone)
        self._sum(f"gather{len(flat)}", flat)
        unpack(flat, everyone)
        return everyone

    def _sum(self, key: str, flat: nd.NDArray) -> None:
        """Replace a vector by its sum over the workers."""
        if key not in self.known:
            self.known.add(key)
            self.kvstore.init(key, nd.zeros_like(flat))
        self.kvstore.push(key, flat)
        self.kvstore.pull(key, out=flat)

    def __exit__(self, kind, error, trace):
        """End at once after an error: MXNet would wait for workers that no longer come."""
        if kind is not None:
            if issubclass(kind, UserError):
                print(f"error: {error}", file=sys.stderr)
            else:
                traceback.print_exception(kind, error, trace)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(2 if issubclass(kind, UserError) else 1)
        nd.waitall()
        self.kvstore = None  # MXNet now waits for the others and tells the servers to end


class Apart(Together):
    """Workers that do not wait for each other: kvstore ``dist_async``.

    The servers keep the weights and add to them. A worker's step is that of a single worker, divided by the number of
    workers; it then goes on from what the servers have, to which others may have added meanwhile. One step of each
    worker is to first order one step with the whole batch, but it depends on chance who sees what: no two runs are
    the same, and resuming is not exact.
    """

    kind, asynchronous = "dist_async", True

    def start(self):
        super().start()
        if self.rank == 0:  # MXNet sends it as a pickle, which runs code on the servers
            self.kvstore.set_optimizer(
                mx.optimizer.SGD(learning_rate=1.0)
            )  # weight -= what is pushed
        self.exchange("start", None)

    def average(self, arrays):
        pass

    def agree(self, stop, save):
        return stop, save and self.rank == 0

    def gather(self, arrays):
        """The own arrays, and zeros for those of workers that are elsewhere."""
        return [
            array if worker == self.rank else nd.zeros_like(array)
            for worker in range(self.size)
            for array in arrays
        ]

    def _sum(self, key, flat):
        key = f"{key}.{len(self.known)}"  # a new one, since the servers add to what they have
        self.known.add(key)
        self.kvstore.init(key, nd.zeros_like(flat))
        self.kvstore.push(key, -flat)
        nd.waitall()
        self.exchange(key, None)
        self.kvstore.pull(key, out=flat)

    def meet(self, weights):
        if "weights" in self.known:
            nd.waitall()
            self.exchange("weights", None)  # all that was added has arrived
            return self.add(nd.zeros_like(weights))
        self.known.add("weights")
        weights = super().meet(weights)
        self.kvstore.init("weights", weights)
        return weights

    def add(self, change: nd.NDArray) -> nd.NDArray:
        """Add this worker's part of a change to the weights; the weights that the servers then have."""
        weights = nd.empty(change.shape)
        self.kvstore.push("weights", change / -self.size)
        self.kvstore.pull("weights", out=weights)
        return weights


class Deadline:
    """A with-block that ends the process with a sentence when it takes longer: nothing else ends a call into MXNet."""

    def __init__(self, seconds: float, sentence: str):
        self.timer = threading.Timer(seconds, self._end)
        self.timer.daemon = True
        self.sentence = f"{sentence} ({seconds:g} seconds)"

    def _end(self) -> None:
        print(f"error: {self.sentence}", file=sys.stderr, flush=True)
        os._exit(2)

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_):
        self.timer.cancel()


def pack(arrays: Sequence[nd.NDArray]) -> nd.NDArray:
    """All elements of the arrays as one vector on the CPU."""
    return nd.concat(*(array.reshape(-1).as_in_context(mx.cpu()) for array in arrays), dim=0)


def unpack(flat: nd.NDArray, arrays: Sequence[nd.NDArray]) -> None:
    """Set arrays from the vector of all their elements."""
    start = 0
    for array in arrays:
        array[:] = (
            flat[start : start + array.size].reshape(array.shape).as_in_context(array.context)
        )
        start += array.size


def join(kvstore: str) -> Alone:
    """The group that this process belongs to.

    :param kvstore: one of ``KVSTORES``; those that begin with ``dist_`` are for processes that the launcher started.
    :raises UserError: when it did not, or when it did for another one.
    """
    launched = "GLUONLM_WORKER" in os.environ
    if launched and not kvstore.startswith(
        "dist_"
    ):  # each would be alone, and all would write the same run
        raise UserError(
            f"--kvstore {kvstore} is not for the workers of python -m gluonlm.launch: leave it out, or use dist_async"
        )
    if kvstore in LOCAL:
        return Alone()
    if kvstore == "horovod":
        from gluonlm.parallel.ring import join_ring

        return join_ring()
    if not launched:
        raise UserError(
            f"--kvstore {kvstore} needs several processes: start them with `python -m gluonlm.launch -n 2 --local -- "
            "...`, or let a job scheduler start that (see python -m gluonlm.launch --help)"
        )
    world, rank = World.of(os.environ), int(os.environ["GLUONLM_WORKER"])
    return (Together if kvstore == "dist_sync" else Apart)(
        rank, world.workers, Channel(world, rank)
    )
