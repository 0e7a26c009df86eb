"""The loop of a competitor of benchmarks/step.py: set up, then measure for each line on stdin, idle
in between.

Standard library only: competitors run in environments of their own.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from memory_worker import peak_bytes


@dataclass(frozen=True)
class Work:
    """What all competitors do the same of: ``mode`` is "train", "sampled" or "evaluate".

    Ours also knows "generate" and "onnx", one word at a time.
    """

    mode: str
    vocab: int
    units: int
    layers: int
    batch: int
    bptt: int
    dropout: float = 0.2
    lr: float = 1.0
    clip: float = 0.25
    precision: str = "float32"  # of ours and of PyTorch's autocast
    eval_segments: int = 10  # batches of bptt steps in one evaluated text


def serve(
    set_up: Callable[[Work], tuple[Callable[[], tuple[int, float]], dict]],
    rate: Callable[[Work], float] | None = None,
) -> None:
    """Run a competitor: ``set_up(work)`` gives a function and facts such as versions, which are
    reported.

    The function does one portion of work, and returns its number of tokens and mean loss, computed
    to the end. ``rate(work)`` measures what the machine can do then, in operations per second.
    """
    work = Work(**json.loads(sys.argv[1]))
    portion, facts = set_up(work)
    for _ in range(3):
        portion()  # allocate, choose kernels
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:  # blocks without spinning
        seconds, tokens, started = float(line), 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds or not tokens:
            done, loss = portion()
            tokens += done
        finite = loss if math.isfinite(loss) else None
        answer = {"tokens": tokens, "seconds": elapsed, "peak_bytes": peak_bytes(), "loss": finite}
        print(json.dumps(answer | ({"flops": rate(work)} if rate else {})), flush=True)
