"""What a recorded result says about where it was measured."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path


def machine_record() -> dict[str, str | int | None]:
    """Versions of python, numpy and mxnet (without importing them), processor, usable cores, date."""
    return {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "mxnet": version("mxnet") or version("mxnet-cu112"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
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
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
