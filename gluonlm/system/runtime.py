"""A fast MXNet: threads, OpenMP, BLAS, memory and CUDA libraries, set before mxnet is imported.

``import gluonlm`` calls :func:`prepare`. What the user has set in the environment wins, and what
cannot be set here is left as MXNet has it. ``python -m gluonlm.doctor`` says what was done.
"""

import ctypes
import math
import os
import resource
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gluonlm.system import gpu
from gluonlm.system.blas import Rates, serve_mxnet
from gluonlm.system.errors import UserError
from gluonlm.system.machine import cpu_flags, loads, read, usable_cpus, wheel_file
from gluonlm.system.memory import keep_memory

# How a thread of Intel's OpenMP waits for work: it spins for 0.1 ms, which bridges the gaps between
# operators, without giving its core away for the moment, then sleeps. By default it spins for
# 200 ms: the teams of MXNet's engine threads then take the cores from each other.
WAITING = {"KMP_BLOCKTIME": "100us", "KMP_USE_YIELD": "0"}
ADDRESSES, THREAD_ADDRESSES = 900 << 20, 16 << 20  # bytes: of MXNet's libraries, of a thread
MOST_THREADS = 4  # a processor: far more cannot be started, and OpenMP ends the process
TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
WAIT_VARIABLES = (*WAITING, "KMP_LIBRARY", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class Runtime:
    """What :func:`prepare` found and did."""

    threads: int
    threads_given: bool  # by the user, in OMP_NUM_THREADS
    openmp: str | None = None  # path of the OpenMP that serves all, None for the one MXNet brings
    blas: Rates | None = None  # of the two that can serve MXNet; None without a choice
    cuda_missing: tuple[str, ...] | None = None  # CUDA's libraries; None with the CPU build


@cache
def prepare() -> Runtime:
    """Set up the process for MXNet, once, before mxnet is imported; a UserError when MXNet would
    not find room."""
    given = asked_threads()
    if "mxnet" in sys.modules:
        warnings.warn(
            "mxnet was imported before gluonlm: import gluonlm first to get its speed", stacklevel=3
        )
        return Runtime(given or usable_cores(), given is not None)
    threads = set_threads()
    check_addresses(threads)
    if core := blas_core():
        os.environ.setdefault("OPENBLAS_CORETYPE", core)
    openmp = load_openmp()
    keep_memory()
    cuda_missing = gpu.load_libraries()
    return Runtime(threads, given is not None, openmp, serve_mxnet(threads), cuda_missing)


def set_threads() -> int:
    """Set the number of threads, of which MXNet takes half, and how they wait, unless the user has;
    returns the number."""
    threads = asked_threads()
    if threads is None:
        if said := os.environ.get("OMP_NUM_THREADS"):
            advice = "is not a number of threads and is ignored: unset it, or set one such as 2"
            warnings.warn(f"OMP_NUM_THREADS={said} {advice}", stacklevel=4)
        threads = max(1, usable_cores() // local_workers())
    if threads > (most := MOST_THREADS * (os.cpu_count() or 1)):
        advice = f"is more than this machine can run: {most} are used"
        warnings.warn(f"OMP_NUM_THREADS={threads} {advice}", stacklevel=4)
        threads = most
    os.environ["OMP_NUM_THREADS"] = str(threads)  # MXNet does not read lists such as 2,3
    if not any(os.environ.get(name) for name in WAIT_VARIABLES):
        os.environ.update(WAITING)
    return threads


def check_addresses(threads: int) -> None:
    """Raise a UserError when ``ulimit -v`` leaves so little that loading MXNet would crash."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    need = ADDRESSES + threads * THREAD_ADDRESSES
    if resource.RLIM_INFINITY != limit < need:
        left = f"ulimit -v leaves this process {limit >> 20} MiB of addresses"
        raise UserError(f"{left}, and MXNet alone takes {need >> 20}: allow it more")


def local_workers() -> int:
    """How many workers share this machine, by what horovodrun or gluonlm.launch has set, or 1."""
    if os.environ.get("DMLC_ROLE") in ("server", "scheduler"):  # which only add up: one thread
        return usable_cores()
    here = os.environ.get("HOROVOD_LOCAL_SIZE") or os.environ.get("GLUONLM_WORKERS_HERE")
    return int(here) if here and here.isdecimal() and int(here) else 1


def asked_threads() -> int | None:
    """The number of threads that the user has set in OMP_NUM_THREADS; None without a usable one."""
    # of a list such as 2,3 the others are for nested teams
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None


def usable_cores() -> int:
    """Physical cores this process may run on, within its containers' CPU limits."""
    return math.ceil(min(physical_cores(), cgroup_cpus()))


def physical_cores(topology: str = TOPOLOGY) -> int:
    """Number of physical cores within the affinity mask (hyper-threads of one core count once)."""
    cpus = usable_cpus()
    siblings = [read(Path(topology.format(cpu))) for cpu in cpus]
    return len(set(siblings)) if all(siblings) else len(cpus)


def cgroup_cpus(membership: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> float:
    """How many CPUs' time the control groups of this process allow, such as 1.5; infinity for all.

    Groups above count, too: within a container the mount's own root may be what holds the limit.
    """
    limits = [math.inf]
    for line in read(Path(membership)).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (Path(mount, name) for name in ("", "unified", controllers, "cpu")):
            group = root / path.lstrip("/")
            while group.is_relative_to(root):
                limits.append(group_limit(group))
                group = group.parent
    return min(limits)


def group_limit(group: Path) -> float:
    """The CPU limit in a control group's folder, of version 2 or 1."""
    quota, _, period = read(group / "cpu.max").partition(" ")
    if not quota:
        quota, period = read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")
    try:
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except ValueError:  # "max", or no such group
        return math.inf


def blas_core() -> str | None:
    """The core type that OpenBLAS is told.

    The 0.3.13 inside MXNet's wheel takes Intel CPUs younger than itself for a Prescott, a third of
    the speed; AMD's Zen 3 and 4 it knows. Its SkylakeX is the same as its Haswell, but NumPy's
    OpenBLAS obeys the same variable and does have AVX-512 kernels.
    """
    flags = cpu_flags()
    if "avx512f" in flags and "avx512bw" in flags:
        return "SkylakeX"
    return "Haswell" if "avx2" in flags and "fma" in flags else None


def load_openmp() -> str | None:
    """Make Intel's OpenMP serve the whole process, so that all of MXNet shares one; None without.

    An OpenMP that already serves all stays; one that only some library uses is promoted, since two
    of Intel's or LLVM's in one process end it.
    """
    if sys.platform != "linux":
        return None
    if serving := serving_openmp():
        return serving
    names = ("libiomp5.so", "libomp.so")
    present = [path for path in loaded_libraries() if Path(path).name.startswith(names)]
    library = present[0] if present else intel_openmp()
    return library if loads(library) else None


def intel_openmp() -> str | None:
    """The path of libiomp5.so from the wheel intel-openmp or from conda's package; None without."""
    conda = Path(sys.prefix, "lib", "libiomp5.so")
    return wheel_file("intel-openmp", conda.name) or (str(conda) if conda.exists() else None)


def serving_openmp() -> str | None:
    """The file whose OpenMP serves the whole process; None without one, or where /proc is not."""
    if not hasattr(process := ctypes.CDLL(None), "GOMP_parallel"):
        return None
    function = ctypes.cast(process.GOMP_parallel, ctypes.c_void_p).value
    for line in read(Path("/proc/self/maps")).splitlines():
        low, _, high = line.partition(" ")[0].partition("-")
        if int(low, 16) <= function < int(high, 16):
            return line.split(maxsplit=5)[-1]
    return None


def loaded_libraries() -> list[str]:
    """The files that are mapped into this process; empty where that cannot be read."""
    fields = [line.split(maxsplit=5) for line in read(Path("/proc/self/maps")).splitlines()]
    return sorted({field[5] for field in fields if len(field) == 6 and field[5].startswith("/")})
