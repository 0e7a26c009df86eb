"""How much slower a training step becomes when another program keeps one core busy.

    python benchmarks/busy.py --torch-python torch-env/bin/python  # in about four minutes
    python benchmarks/busy.py --quick                              # tiny sizes: does it work?

The other program is an endless loop in Python, paused in between. With two cores and work that is
divided evenly, a factor of 2 is what fair sharing of the busy core alone costs. Recorded in
results/busy.json.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from step import NO_TORCH, Competitor, find_torch, spread
from step_worker import Work

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record


@contextmanager
def paused_loop() -> Iterator[subprocess.Popen]:
    """A process that keeps a core busy once it is continued."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        loop.send_signal(signal.SIGSTOP)
        yield loop
    finally:
        loop.kill()
        loop.wait()


def slowdowns(competitors: list[Competitor], rounds: int, seconds: float) -> dict[str, list[float]]:
    """For each competitor and round, its speed alone divided by its speed beside the busy core."""
    ratios = {one.name: [] for one in competitors}
    with paused_loop() as loop:
        for turn in range(rounds):
            for one in competitors if turn % 2 else competitors[::-1]:
                alone = one.measure(seconds)
                loop.send_signal(signal.SIGCONT)
                beside = one.measure(seconds)
                loop.send_signal(signal.SIGSTOP)
                ratios[one.name].append(
                    alone["tokens"] / alone["seconds"] * beside["seconds"] / beside["tokens"]
                )
    return ratios


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--torch-python", default=os.environ.get("GLUONLM_TORCH_PYTHON"), metavar="PYTHON"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument(
        "--out", type=Path, help="file to record in (default: results/busy.json, none with --quick)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    options = parser.parse_args(argv)
    if options.rounds < 2 or options.seconds <= 0:
        raise UserError(
            "--rounds must be at least 2 and --seconds more than 0, for a spread to be seen"
        )
    work = Work("train", 10_000, 200, layers=2, batch=20, bptt=35)
    if options.quick:
        work, options.rounds, options.seconds = (
            Work("train", 50, 16, layers=2, batch=4, bptt=5),
            2,
            0.05,
        )
    torch = find_torch(options.torch_python)
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
    pythons = {"stock": sys.executable, "ours": sys.executable} | (
        {"torch": torch} if torch else {}
    )
    competitors: list[Competitor] = []
    try:
        for name, python in pythons.items():
            competitors.append(Competitor(name, python, work))
        slower = {
            name: spread(ratios)
            for name, ratios in slowdowns(competitors, options.rounds, options.seconds).items()
        }
    finally:
        for one in competitors:
            one.close()
    for name, ratio in slower.items():
        print(
            f"{name}: {ratio['median']:.2f} times slower ({ratio['low']:.2f} - {ratio['high']:.2f})"
        )
    out = options.out or (None if options.quick else RESULTS / "busy.json")
    return record(out, ["python", "benchmarks/busy.py", *argv], times_slower=slower)


if __name__ == "__main__":
    run(main)
