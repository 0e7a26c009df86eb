"""What both competitors of benchmarks/memory.py tell after each epoch: standard library only."""

import json
import resource
from pathlib import Path


def report(loss: float) -> None:
    """The memory that this process has now and had at most, and that the loss is a number."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now = pages * resource.getpagesize()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"bytes": now, "peak_bytes": peak, "loss": loss}), flush=True)
