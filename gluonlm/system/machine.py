"""Recorded results: what was measured, by which command, on which machine."""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gluonlm.system.errors import UserError
from gluonlm.system.files import write_output

RESULTS = Path(__file__).parents[2] / "results"


def machine_record() -> dict[str, str | int | None]:
    """Versions of python, numpy and mxnet (none is imported), processor, cores, date."""
    return {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "mxnet": version("mxnet") or version("mxnet-cu112"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return (
        names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    )


def read(path: Path) -> str:
    """A small system file without the newline at its end; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cpu_flags() -> set[str]:
    """The instruction sets of this CPU by their Linux names, empty where they cannot be read."""
    lines = read(Path("/proc/cpuinfo")).splitlines()
    return next(
        (set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set()
    )


def check_memory(need: int, what: str) -> None:
    """Raise a UserError when something needs more memory than there is."""
    available = available_memory()
    if need > available:
        raise UserError(
            f"{what} needs at least {need / 2**30:.3g} GiB of memory, and there are "
            f"{available / 2**30:.3g} GiB: lower --emsize, --nhid, --nlayers, --batch-size or "
            "--bptt"
        )


def available_memory() -> float:
    """Bytes that this process can still get, infinity where that cannot be known."""
    limits = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError, ValueError, ImportError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)  # ulimit -v
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        if limit != resource.RLIM_INFINITY:
            limits.append(limit - pages * resource.getpagesize())
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text())
        limits.append(most - int((group / "memory.current").read_text()))
    return max(0, min(limits))


def record(out: Path | None, command: Sequence[str], **figures: Any) -> dict[str, Any]:
    """What a benchmark measured, with its command and the machine; as JSON in ``out``.

    :raises UserError: when it cannot be written.
    """
    result = {"command": shlex.join(command), "machine": machine_record(), **figures}
    if out:
        write_output(out, json.dumps(result, indent=1) + "\n")
    return result


def recorded(folder: Path = RESULTS) -> dict[str, tuple[dict, dict]]:
    """All runs recorded in ``folder``: name -> (config.json, result.json)."""
    runs = {}
    for path in sorted(folder.glob("*/result.json")):
        runs[path.parent.name] = (
            json.loads((path.parent / "config.json").read_text()),
            json.loads(path.read_text()),
        )
    return runs
