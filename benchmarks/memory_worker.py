"""The memory of a process that is measured, and what both competitors of benchmarks/memory.py tell
after each epoch: standard library only.
"""

import contextlib
import io
import json
import multiprocessing
import re
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """The memory that this process had at most."""
    # not ru_maxrss: it begins with what the process that started this one had
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def in_new_process(function: Callable, *arguments: Any) -> Any:
    """What a function returns in a process of its own, which has a peak of its own."""
    context = multiprocessing.get_context("spawn")  # a forked one would begin with ours
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def usage(command: Callable, argv: list[str]) -> dict[str, float]:
    """What this process has needed by the end of a command; what the command prints is left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        command(argv)
    return {"processor_seconds": time.process_time(), "peak_mib": peak_bytes() / 2**20}


def report(loss: float) -> None:
    """The memory that this process has now and had at most, and that the loss is a number."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now = pages * resource.getpagesize()
    print(json.dumps({"bytes": now, "peak_bytes": peak_bytes(), "loss": loss}), flush=True)
