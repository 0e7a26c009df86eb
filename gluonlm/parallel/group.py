"""Groups of several workers, which sum their gradients by MXNet's key-value store or by Horovod.

    python -m gluonlm.launch -n 2 --local -- --data ptb --kvstore dist_sync    # or dist_async
    horovodrun -np 4 -H a:2,b:2 python -m gluonlm.train --kvstore horovod --data wikitext-103

Each worker is a process with its own columns of the global batch. ``dist_sync`` and ``horovod``: in
each step the workers' gradients are averaged and all make the same update, so that the weights are
those of one worker with the whole batch. ``dist_async``: nobody waits; each worker makes its own
update (with its own clipping) and the servers add up what the workers have changed.
"""

import contextlib
import json
import os
import threading
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import nd

from gluonlm.parallel.supervisor import RESUME
from gluonlm.system.errors import UserError, exit_now
from gluonlm.training.session import LOCAL, Group, pack, unpack

KVSTORES = (*LOCAL, "dist_sync", "dist_async", "horovod")
ASSEMBLY = 120.0  # seconds for workers and servers to find each other, once all have been started
UNCONNECTED = (
    f"the workers and servers do not reach each other within {ASSEMBLY:g} seconds: open the "
    "firewall between them"
)


class SynchronousGroup(Group):
    """Workers that take each step together.

    A subclass has ``sum(key, flat)``, which replaces a vector by its sum over the workers.
    """

    def __init__(self, rank: int, world_size: int):
        self.rank, self.world_size = rank, world_size
        self.wishes = self.agreed = (False, False)  # to stop and to save
        self.silence = contextlib.ExitStack()

    def all_gather_object(self, what, value):
        own = np.frombuffer(json.dumps([what, value]).encode(), np.uint8)
        sizes = nd.zeros(self.world_size)
        sizes[self.rank] = len(own)
        self.sum("sizes", sizes)
        width = 1 << int(sizes.max().asscalar()).bit_length()  # few different lengths, few keys
        rows = nd.zeros((self.world_size, width))  # an element has room for a byte
        rows[self.rank, : len(own)] = own
        flat = rows.reshape(-1)
        self.sum("objects", flat)
        found = flat.asnumpy().astype(np.uint8).reshape(rows.shape)
        messages = [json.loads(bytes(row).rstrip(b"\0")) for row in found]
        for rank, (other, _) in enumerate(messages):
            if other != what:
                apart = f"worker {rank} tells its {other} when others tell their {what}"
                advice = "start all workers with the same command and the same gluonlm"
                raise UserError(f"{apart}: {advice}")
        return [value for _, value in messages]

    def sum_all(self, key: str, arrays: list[nd.NDArray]) -> None:
        """Replace each array by its sum over the workers, all in one message."""
        flat = pack(arrays)
        self.sum(key, flat)
        unpack(flat, arrays)

    def own_and_zeros(self, arrays: list[nd.NDArray]) -> list[nd.NDArray]:
        """Copies of the own arrays, and zeros for those of the other workers."""
        return [
            array.copy() if rank == self.rank else nd.zeros_like(array)
            for rank in range(self.world_size)
            for array in arrays
        ]

    def all_gather(self, arrays):
        everyone = self.own_and_zeros(arrays)
        self.sum_all("gather", everyone)
        return everyone

    def broadcast(self, arrays, *values):
        kinds = arrays and {name: (a.shape, a.dtype.name) for name, a in arrays.items()}
        kinds, *values = self.all_gather_object("state", [kinds, *values])[0]
        own = [
            nd.array(arrays[name]) if self.rank == 0 else nd.zeros(shape)
            for name, (shape, _) in kinds.items()
        ]
        if own:
            self.sum_all("broadcast", own)
        found = zip(kinds.items(), own, strict=True)
        return {name: array.asnumpy().astype(kind) for (name, (_, kind)), array in found}, *values

    def all_reduce(self, gradients):
        flat = pack([*gradients, nd.array(self.wishes)])  # one message is the cheapest
        self.sum("step", flat)
        flat /= self.world_size
        unpack(flat, gradients)
        self.agreed = tuple(bool(wish) for wish in flat[-2:].asnumpy())

    def all_reduce_flags(self, stop, save):
        stopping, saving = self.agreed
        # told to all with the next step's gradients
        self.wishes = (stop, save and not saving and self.rank == 0)
        return stopping, saving

    def synchronize(self, weights):
        weights = weights if self.rank == 0 else nd.zeros_like(weights)
        self.sum("weights", weights)
        return weights

    def __enter__(self):
        if self.rank:  # rank 0 speaks for all, until there is an error
            nowhere = self.silence.enter_context(open(os.devnull, "w"))
            self.silence.enter_context(contextlib.redirect_stdout(nowhere))
            self.silence.enter_context(contextlib.redirect_stderr(nowhere))
        return self

    def __exit__(self, kind, error, trace):
        self.silence.close()


class KVStoreGroup(SynchronousGroup):
    """Workers that sum on ps-lite's servers: kvstore ``dist_sync``.

    The sum of three or more is rounded in the order in which the gradients arrive: the last bit of
    a weight may differ from run to run.
    """

    def __init__(self, rank: int, world_size: int, kvstore: mx.kv.KVStore):
        super().__init__(rank, world_size)
        self.kvstore, self.known = kvstore, set()

    def sum(self, key, flat):
        key = f"{key}{flat.size}"
        if key not in self.known:
            self.known.add(key)
            self.kvstore.init(key, nd.zeros_like(flat))
        self.kvstore.push(key, flat)
        self.kvstore.pull(key, out=flat)

    def __exit__(self, kind, error, trace):
        super().__exit__(kind, error, trace)
        if kind is None:  # else MXNet would wait for workers that no longer come
            nd.waitall()
            self.kvstore = None  # MXNet now waits for the others and tells the servers to end


class AsynchronousGroup(KVStoreGroup):
    """Workers that do not wait for each other: kvstore ``dist_async``.

    The servers keep the weights. A worker adds its step, divided by the number of workers, and goes
    on from what the servers then have. One step of each is to first order one with the whole batch,
    but chance decides who sees what: no two runs are the same, and resuming is not exact.
    """

    asynchronous = True

    def __init__(self, rank: int, world_size: int, kvstore: mx.kv.KVStore):
        super().__init__(rank, world_size, kvstore)
        if rank == 0:  # MXNet sends it as a pickle, which runs code on the servers
            kvstore.set_optimizer(mx.optimizer.SGD(learning_rate=1.0))  # weight -= what is pushed
        kvstore._barrier()

    def sum(self, key, flat):
        key = f"{key}.{len(self.known)}"  # a new one, since the servers add to what they have
        self.known.add(key)
        self.kvstore.init(key, nd.zeros_like(flat))
        self.kvstore.push(key, -flat)
        self._wait_for_all()
        self.kvstore.pull(key, out=flat)

    def _wait_for_all(self) -> None:
        nd.waitall()  # all that this worker has pushed has arrived
        self.kvstore._barrier()

    all_gather = SynchronousGroup.own_and_zeros  # the others are elsewhere in the text

    def all_reduce(self, gradients):
        pass

    def all_reduce_flags(self, stop, save):
        return stop, save and self.rank == 0

    def synchronize(self, weights):
        if "weights" in self.known:
            self._wait_for_all()
            return self.add(nd.zeros_like(weights))
        self.known.add("weights")
        weights = super().synchronize(weights)
        self.kvstore.init("weights", weights)
        return weights

    def add(self, change: nd.NDArray) -> nd.NDArray:
        """Add this worker's part of a change to the weights; what the servers then have."""
        weights = nd.empty(change.shape)
        self.kvstore.push("weights", change / -self.world_size)
        self.kvstore.pull("weights", out=weights)
        return weights


class HorovodGroup(SynchronousGroup):
    """Workers that pass sums on in a ring: kvstore ``horovod``.

    horovodrun (or mpirun) has started them, and ends all when one of them dies; a worker that it
    does not end in time notices that sums no longer come about, and ends with a sentence.
    """

    def __init__(self, horovod: Any):
        horovod.init()  # the module horovod.mxnet
        super().__init__(horovod.rank(), horovod.size())
        self.horovod = horovod

    def sum(self, key, flat):
        try:
            self.horovod.allreduce_(flat, average=False, name=key)
            flat.wait_to_read()
        except mx.MXNetError as error:
            reason = str(error).strip().splitlines()[-1].partition(". ")[0]
            sentence = f"another worker is gone or cannot be reached ({reason}): {RESUME}"
            raise UserError(sentence) from None

    def __exit__(self, kind, error, trace):
        super().__exit__(kind, error, trace)
        if error is not None:  # Horovod would wait for workers that no longer come
            exit_now(error)
        nd.waitall()
        self.horovod.shutdown()


def join(kvstore: str) -> Group:
    """The group that this process belongs to by one of ``KVSTORES``; a UserError when started
    in another way."""
    launched, distributed = "GLUONLM_WORKER" in os.environ, kvstore.startswith("dist_")
    if launched and not distributed:  # each would be alone, and all would write the same run
        other = f"--kvstore {kvstore} is not for the workers of python -m gluonlm.launch"
        raise UserError(f"{other}: leave it out, or use dist_async")
    if kvstore == "horovod":
        return join_horovod()
    if not distributed:
        return Group()
    if not launched:
        how = "start them with `python -m gluonlm.launch -n 2 --local -- ...`"
        advice = f"{how}, or let a job scheduler start it (see --help)"
        raise UserError(f"--kvstore {kvstore} needs several processes: {advice}")
    # nothing else ends a call into MXNet
    deadline = threading.Timer(ASSEMBLY, exit_now, [UserError(UNCONNECTED)])
    deadline.daemon = True
    deadline.start()
    store = mx.kv.create(kvstore)
    deadline.cancel()
    kind = KVStoreGroup if kvstore == "dist_sync" else AsynchronousGroup
    return kind(int(os.environ["GLUONLM_WORKER"]), store.num_workers, store)


def join_horovod() -> HorovodGroup:
    """The group of the workers that horovodrun has started; a UserError when Horovod is not
    installed, or this process was not started by it."""
    try:
        import horovod.mxnet as horovod
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        lacking = f"--kvstore horovod: cannot load Horovod ({reason})"
        raise UserError(f"{lacking}: build it with `make horovod`") from None
    group = HorovodGroup(horovod)
    if group.world_size == 1 and os.environ.get("HOROVOD_SIZE") != "1":
        raise UserError(
            "--kvstore horovod: Horovod has found no other worker; start them all with `horovodrun "
            "-np 2 python -m gluonlm.train ...` (or with mpirun, if Horovod was built with MPI)"
        )
    return group
