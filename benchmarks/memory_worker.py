"""The memory of a process that is measured, and what both competitors of benchmarks/memory.py tell
after each epoch: standard library only.
"""

import json
import re
import resource
from pathlib import Path


def peak_bytes() -> int:
    """The memory that this process had at most."""
    # not ru_maxrss: it begins with what the process that started this one had
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def report(loss: float) -> None:
    """The memory that this process has now and had at most, and that the loss is a number."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now = pages * resource.getpagesize()
    print(json.dumps({"bytes": now, "peak_bytes": peak_bytes(), "loss": loss}), flush=True)
