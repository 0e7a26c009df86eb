"""Training by workers that Horovod has started: kvstore ``horovod``.

    make horovod                                                               # builds it, once
    horovodrun -np 4 -H a:2,b:2 python -m gluonlm.train --kvstore horovod --data wikitext-103

Horovod's workers add up their gradients among themselves, without servers: each passes sums on to the next in a ring.
What is added up, and what is made of the sum, is as with kvstore ``dist_sync``. It is horovodrun (or mpirun, if Horovod
was built with MPI) that starts the workers, reaches the other machines, ends all when one of them dies, and says which;
a worker that it does not end in time notices that sums no longer come about, and ends with a sentence.
"""

import contextlib
import json
import os
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import nd

from gluonlm.parallel.control import RESUME
from gluonlm.parallel.group import Together, same_place
from gluonlm.system.errors import UserError


class Ring(Together):
    """Workers that take each step together and add up their gradients by Horovod.

    :param horovod: the module ``horovod.mxnet``.
    """

    def __init__(self, horovod: Any):
        horovod.init()
        super().__init__(horovod.rank(), horovod.size())
        self.horovod, self.silence = horovod, contextlib.ExitStack()

    def start(self):
        pass  # they have found each other

    def exchange(self, what, value):
        own = np.frombuffer(json.dumps([what, value]).encode(), np.uint8)
        sizes = nd.zeros(self.size)
        sizes[self.rank] = len(own)
        self._sum("sizes", sizes)
        letters = nd.zeros((self.size, int(sizes.max().asscalar())))  # a row for each worker
        letters[self.rank, : len(own)] = own
        self._sum("letters", letters)
        rows = letters.asnumpy().astype(np.uint8)
        return same_place(what, [json.loads(bytes(row).rstrip(b"\0")) for row in rows])

    def _sum(self, key, flat):
        try:
            self.horovod.allreduce_(flat, average=False, name=key)
            flat.wait_to_read()
        except mx.MXNetError as error:
            reason = str(error).strip().splitlines()[-1].partition(". ")[0]
            raise UserError(
                f"another worker is gone or cannot be reached ({reason}): {RESUME}"
            ) from None

    def __enter__(self):
        if self.rank:  # the first speaks for all, until there is an error
            nowhere = self.silence.enter_context(open(os.devnull, "w"))
            self.silence.enter_context(contextlib.redirect_stdout(nowhere))
            self.silence.enter_context(contextlib.redirect_stderr(nowhere))
        return self

    def __exit__(self, kind, error, trace):
        self.silence.close()
        super().__exit__(kind, error, trace)
        self.horovod.shutdown()


def join_ring() -> Ring:
    """The group of the workers that horovodrun has started.

    :raises UserError: when Horovod is not installed, or this process was not started by it.
    """
    try:
        import horovod.mxnet as horovod
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"--kvstore horovod: cannot load Horovod ({reason}): build it with `make horovod`"
        ) from None
    group = Ring(horovod)
    if group.size == 1 and os.environ.get("HOROVOD_SIZE") != "1":
        raise UserError(
            "--kvstore horovod: Horovod has found no other worker; start them all with `horovodrun -np 2 python -m "
            "gluonlm.train ...` (or with mpirun, if Horovod was built with MPI)"
        )
    return group
