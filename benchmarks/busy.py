"""The speed of training beside other programs that keep no, one or two cores busy.

    python benchmarks/busy.py --torch-python torch-env/bin/python    # in about five minutes
    python benchmarks/busy.py --quick                                # tiny sizes: does it work?

The other programs are endless loops in Python, paused in between. Ours chooses its number of threads
(gluonlm/system/threads.py); beside it run ours with every fixed number, and PyTorch. All take turns
at each load, each with some seconds to get used to it that do not count. The figures are medians over
rounds, and of the ratio of ours to the best fixed number, by its median, in the same round. Recorded
in results/busy.json.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from step import MODES, NO_TORCH, Competitor, find_torch, spread
from step_worker import Work

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record
from gluonlm.system.runtime import usable_cores

LOADS = (0, 1, 2)  # other programs


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


def speeds(work: Work, pythons: dict[str, str], options: argparse.Namespace) -> dict:
    """Tokens per second by load, competitor and round."""
    measured = {load: {name: [] for name in pythons} for load in LOADS}
    with ExitStack() as stack:
        loops = [stack.enter_context(paused_loop()) for _ in range(max(LOADS))]
        competitors = []
        for name, python in pythons.items():
            competitors.append(Competitor(name, python, work))
            stack.callback(competitors[-1].close)
        for turn in range(options.rounds):
            for load in LOADS if turn % 2 else LOADS[::-1]:
                for loop in loops[:load]:
                    loop.send_signal(signal.SIGCONT)
                for one in competitors:
                    one.measure(options.settle)
                    answer = one.measure(options.seconds)
                    measured[load][one.name].append(answer["tokens"] / answer["seconds"])
                for loop in loops:
                    loop.send_signal(signal.SIGSTOP)
    return measured


def summary(measured: dict) -> dict:
    """Medians, and ours beside the best fixed number of threads."""
    loads = {}
    for load, by_name in measured.items():
        fixed = [values for name, values in by_name.items() if name.startswith("ours-")]
        best = max(fixed, key=statistics.median)  # not of each round: that would be the luckier one
        ratios = [ours / other for ours, other in zip(by_name["ours"], best, strict=True)]
        medians = {name: round(statistics.median(values)) for name, values in by_name.items()}
        loads[str(load)] = {"tokens_per_second": medians, "of_the_best_fixed": spread(ratios)}
    return loads


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--torch-python", default=os.environ.get("GLUONLM_TORCH_PYTHON"), metavar="PYTHON"
    )
    parser.add_argument("--mode", choices=(*MODES, "generate", "onnx"), default="sampled")
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--settle", type=float, default=3.0, help="seconds that do not count")
    parser.add_argument(
        "--out", type=Path, help="file to record in (default: results/busy.json, none with --quick)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    options = parser.parse_args(argv)
    if options.rounds < 2 or options.seconds <= 0:
        raise UserError(
            "--rounds must be at least 2 and --seconds more than 0, for a spread to be seen"
        )
    return options


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    options = parse(argv)
    # a text of 70,000 tokens, as Penn Treebank's validation text: each evaluation chooses anew
    how = {"precision": options.precision, "eval_segments": 100}
    work = Work(options.mode, 10_000, options.units, 2, 20, 35, **how)
    if options.quick:
        work = Work("train", 50, 16, layers=2, batch=4, bptt=5)
        options.rounds, options.seconds, options.settle = 2, 0.05, 0.05
    torch = find_torch(options.torch_python)
    if options.mode in ("generate", "onnx"):  # which only ours does
        torch = None
    elif torch is None:
        print(NO_TORCH, file=sys.stderr)
    fixed = {f"ours-{number}": sys.executable for number in sorted({1, usable_cores()})}
    pythons = {"ours": sys.executable, **fixed} | ({"torch": torch} if torch else {})
    loads = summary(speeds(work, pythons, options))
    for load, one in loads.items():
        shown = ", ".join(f"{name} {value}" for name, value in one["tokens_per_second"].items())
        ratio = one["of_the_best_fixed"]
        print(
            f"{load} busy: {shown} tokens/s; ours / best fixed number of threads: "
            f"{ratio['median']:.2f} ({ratio['low']:.2f} - {ratio['high']:.2f})"
        )
    out = options.out or (None if options.quick else RESULTS / "busy.json")
    return record(out, ["python", "benchmarks/busy.py", *argv], busy_programs=loads)


if __name__ == "__main__":
    run(main)
