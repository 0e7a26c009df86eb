"""Recorded results: what was measured, by which command, on which machine."""

import contextlib
import ctypes
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import shlex
import time
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
        "cores": len(usable_cpus()),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def wheel_file(package: str, name: str) -> str | None:
    """The path of a file in an installed wheel; None if there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files(package) or []
        paths = [Path(file.locate()).resolve() for file in files if file.name == name]
        return next((str(path) for path in paths if path.is_file()), None)


def loads(path: str | None) -> bool:
    """Load a library for the whole process; False if it is not there, or another processor's."""
    try:
        return bool(path and ctypes.CDLL(path, ctypes.RTLD_GLOBAL))
    except OSError:
        return False


def usable_cpus() -> set[int]:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def others_seconds() -> float:
    """How long other programs have computed on the processors that this one may run on, added up;
    not a number where that cannot be known."""
    names = {f"cpu{number}" for number in usable_cpus()}
    lines = [line.split() for line in read(Path("/proc/stat")).splitlines()]
    # user, nice, system, idle, iowait, irq, softirq, steal
    busy = [line[1:4] + line[6:9] for line in lines if line[0] in names]
    ticks = sum(int(number) for one in busy for number in one) if busy else math.nan
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def read(path: Path) -> str:
    """A small system file without the newline at its end; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cpu_info(field: str) -> str:
    """What Linux says of the first processor; empty where that cannot be read."""
    lines = [line.partition(":") for line in read(Path("/proc/cpuinfo")).splitlines()]
    return next((value.strip() for name, _, value in lines if name.strip() == field), "")


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    return cpu_info("model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The instruction sets of this CPU by their Linux names; empty where they cannot be read."""
    return set(cpu_info("flags").split())


def check_memory(need: int, what: str, advice: str) -> None:
    """Raise a UserError when something needs more bytes of memory than there are."""
    available = available_memory()
    if need > available:
        least, there = (f"{size / 2**30:.3g}" for size in (need, available))
        lacking = f"{what} needs at least {least} GiB of memory, and there are {there}"
        raise UserError(f"{lacking}: {advice}")


def available_memory() -> float:
    """Bytes that this process can still get, infinity where that cannot be known."""
    limits = [math.inf]
    if free := re.search(r"MemAvailable: *(\d+) kB", read(Path("/proc/meminfo"))):
        limits.append(1024 * int(free[1]))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)  # ulimit -v
    if limit != resource.RLIM_INFINITY and (pages := read(Path("/proc/self/statm"))):
        limits.append(limit - int(pages.split()[0]) * resource.getpagesize())
    group = Path("/sys/fs/cgroup")
    if (most := read(group / "memory.max")).isdigit():  # else "max"
        limits.append(int(most) - int(read(group / "memory.current") or 0))
    return max(0, min(limits))


def record(out: Path | None, command: Sequence[str], **figures: Any) -> dict[str, Any]:
    """What a benchmark measured, with its command and the machine; as JSON in ``out``. A UserError
    when it cannot be written."""
    result = {"command": shlex.join(command), "machine": machine_record(), **figures}
    if out:
        write_output(out, json.dumps(result, indent=1) + "\n")
    return result


def recorded(folder: Path = RESULTS) -> dict[str, tuple[dict, dict]]:
    """All runs recorded in ``folder``: name -> (config.json, result.json)."""
    return {
        path.parent.name: tuple(
            json.loads((path.parent / name).read_text()) for name in ("config.json", path.name)
        )
        for path in sorted(folder.glob("*/result.json"))
    }
