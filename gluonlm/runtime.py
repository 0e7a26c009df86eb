"""Gives the user a fast MXNet: threads, OpenMP, BLAS and memory, all set before mxnet is imported.

``import gluonlm`` calls :func:`prepare`; nothing else is needed. What the user has set in the environment wins.
"""

import ctypes
import os
import platform
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

# glibc's mallopt parameters (malloc.h). Without them each large temporary is mapped, faulted in and unmapped anew.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30


@dataclass(frozen=True)
class Runtime:
    """What :func:`prepare` found and did."""

    threads: int
    openmp: str | None  # path of the OpenMP library that was loaded for all, None for the one MXNet brings
    blas_core: str | None  # the CPU kind that OpenBLAS was told
    pooled_memory: bool
    mxnet_was_first: bool  # mxnet was imported before: nothing could be set


def physical_cores() -> int:
    """Number of physical cores this process may run on (hyper-threads of one core count once)."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    siblings = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus]
    if not all(path.exists() for path in siblings):
        return len(cpus)
    return len({path.read_text() for path in siblings})


def cpu_flags() -> set[str]:
    """The instruction sets of this CPU by their Linux names, empty where they cannot be read."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def blas_core() -> str | None:
    """The OpenBLAS core type for this CPU: its 0.3.13, inside MXNet's wheel, knows no CPU younger than itself."""
    flags = cpu_flags()
    if "avx512f" in flags:
        return "SkylakeX"
    return "Haswell" if "avx2" in flags else None


def load_openmp() -> str | None:
    """Load Intel's OpenMP for the whole process, so that all of MXNet shares one thread pool; None if not installed."""
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    if not library.exists():
        return None
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return str(library)


def keep_memory() -> bool:
    """Make glibc's malloc keep up to 1 GiB of freed memory for reuse; False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    return all(libc.mallopt(parameter, KEEP_BYTES) for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))


def prepare() -> Runtime:
    """Set up the process for MXNet; call before mxnet is imported. Calling it again changes nothing."""
    if "mxnet" in sys.modules:
        warnings.warn("mxnet was imported before gluonlm: import gluonlm first to get its speed", stacklevel=3)
        return Runtime(int(os.environ.get("OMP_NUM_THREADS", "0")), None, None, False, True)
    os.environ.setdefault("OMP_NUM_THREADS", str(physical_cores()))
    core = blas_core()
    if core:
        os.environ.setdefault("OPENBLAS_CORETYPE", core)
    return Runtime(
        threads=int(os.environ["OMP_NUM_THREADS"].split(",")[0]),
        openmp=load_openmp(),
        blas_core=os.environ.get("OPENBLAS_CORETYPE"),
        pooled_memory=keep_memory(),
        mxnet_was_first=False,
    )
