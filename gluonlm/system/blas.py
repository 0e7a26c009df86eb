"""A current BLAS for MXNet, whose own is of 2021: half the speed on processors with AVX-512.

The wheel scipy-openblas32 holds a current OpenBLAS under names of its own. ``blas.c`` defines
MXNet's ``cblas_sgemm`` with it, is compiled once, and is loaded before mxnet. Which of the two is
used is decided by a short measurement on this machine, which is kept. ``GLUONLM_BLAS=mxnet`` leaves
MXNet its own; so does a missing wheel or C compiler.
"""

import ctypes
import hashlib
import importlib.util
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gluonlm.system.errors import UserError
from gluonlm.system.files import write_atomically
from gluonlm.system.machine import cpu_model, version, wheel_file
from gluonlm.system.native import compiled, own_cache

SOURCE = Path(__file__).with_name("blas.c")
WHEEL = "scipy-openblas32"
SHAPE = 700, 4096, 256  # of the measured product: batch 20 x 35, a part of a decoder
ROUNDS = 8
WORTH = 0.85  # of MXNet's speed: with the wheel's, no result depends on the number of threads
BY_ROWS, PLAIN = 101, 111  # of cblas.h


@dataclass(frozen=True)
class Rates:
    """GFLOP/s of a product of matrices by either library, on all threads."""

    wheel: float
    mxnet: float

    @property
    def preferred(self) -> bool:
        """Whether the wheel serves MXNet: unless it is clearly slower."""
        return self.wheel > WORTH * self.mxnet

    def __str__(self) -> str:
        own, ours = f"MXNet's own, {self.mxnet:.0f}", f"that of {WHEEL}, {self.wheel:.0f}"
        first, second = (ours, own) if self.preferred else (own, ours)
        return f"{first} GFLOP/s; {second}"


def serve_mxnet(threads: int) -> Rates | None:
    """Let the wheel's OpenBLAS serve MXNet if it is faster here; the rates, None without a choice.
    OpenMP and the number of threads must be set, and mxnet not yet imported."""
    if sys.platform != "linux" or os.environ.get("GLUONLM_BLAS") == "mxnet":
        return None
    if hasattr(ctypes.CDLL(None), "cblas_sgemm"):  # the user has loaded one for all
        return None
    own, wheel = mxnet_openblas(), wheel_file(WHEEL, "libscipy_openblas.so")
    if not own or not wheel:
        return None
    try:
        shim, library = ctypes.CDLL(str(compiled(SOURCE))), ctypes.CDLL(wheel)
        library.scipy_openblas_set_num_threads(1)
        shim.gluonlm_use(library.scipy_cblas_sgemm, library.scipy_cblas_sdot)
        rates = kept_rates(threads, shim, own)
        if rates.preferred:
            ctypes.CDLL(shim._name, ctypes.RTLD_GLOBAL)
    except (UserError, OSError, AttributeError):  # no compiler, or another processor's library
        return None
    return rates


def mxnet_openblas() -> Path | None:
    """The OpenBLAS inside MXNet's wheel; None if there is none."""
    spec = importlib.util.find_spec("mxnet")
    path = Path(spec.origin).with_name("libopenblas.so.0") if spec and spec.origin else None
    return path if path and path.is_file() else None


def kept_rates(threads: int, shim: ctypes.CDLL, own: Path) -> Rates:
    """What was measured before in the same surroundings, or is measured now."""
    core, mxnet = os.environ.get("OPENBLAS_CORETYPE"), version("mxnet") or version("mxnet-cu112")
    surroundings = [cpu_model(), threads, core, shim._name, mxnet, version(WHEEL)]
    key = hashlib.sha256(json.dumps(surroundings).encode()).hexdigest()[:16]
    path = own_cache() / f"blas-{key}.json"
    try:
        return Rates(**{name: float(rate) for name, rate in json.loads(path.read_text()).items()})
    except (OSError, ValueError, TypeError, AttributeError):  # not there, or not what was written
        rates = measure(shim, ctypes.CDLL(str(own)))
    write_atomically(path, json.dumps(asdict(rates)).encode())
    return rates


def measure(shim: ctypes.CDLL, own: ctypes.CDLL) -> Rates:
    """Both libraries by turns, the best of some rounds of each: some 50 ms."""
    m, n, k = SHAPE
    a, b, c = ((ctypes.c_float * size)() for size in (m * k, k * n, m * n))
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    best = {shim: math.inf, own: math.inf}
    for _ in range(ROUNDS):
        for library in best:
            started = time.perf_counter()
            library.cblas_sgemm(BY_ROWS, PLAIN, PLAIN, m, n, k, one, a, k, b, n, zero, c, n)
            best[library] = min(best[library], time.perf_counter() - started)
    wheel, mxnet = (round(2 * m * n * k / seconds / 1e9, 1) for seconds in best.values())
    return Rates(wheel, mxnet)
