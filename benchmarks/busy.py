"""The speed of training beside other programs that keep no, one or two cores busy.

    python benchmarks/busy.py --torch-python torch-env/bin/python    # in about half an hour
    python benchmarks/busy.py --modes sampled --units 650            # one of them, in three minutes
    python benchmarks/busy.py --table                                # the recorded figures
    python benchmarks/busy.py --quick                                # tiny sizes: does it work?

The other programs are endless loops in Python, paused in between. Ours chooses its number of
threads (gluonlm/system/threads.py); beside it run ours with every fixed number, and PyTorch. All
take turns at each load, each with some seconds to get used to it that do not count. The figures are
medians over rounds, and of the ratio of ours to the best fixed number, by its median, in the same
round. Recorded in results/busy.json, where figures of other work stay.
"""

import argparse
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from step import (
    MODES,
    NO_TORCH,
    Competitor,
    checked,
    find_torch,
    read_record,
    spread,
    turns_parser,
    with_recorded,
)
from step_worker import Work

from gluonlm.cli import run
from gluonlm.system.machine import RESULTS, record
from gluonlm.system.runtime import usable_cores

LOADS = (0, 1, 2)  # other programs
ALL_MODES = (*MODES, "generate", "onnx")  # the last two word by word, which only ours does


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


def table(rows: list[dict]) -> str:
    """The results as Markdown."""
    loads = list(map(str, LOADS))
    heads = ["work", "units", *(f"beside {load}" for load in loads)]
    heads += [f"{name}, tokens/s" for name in ("ours", "PyTorch")]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        measured = [row["busy_programs"][load] for load in loads]
        cells = [row["mode"], str(row["units"])]
        cells += [f"{one['of_the_best_fixed']['median']:.2f}" for one in measured]
        for name in ("ours", "torch"):
            speeds = [one["tokens_per_second"].get(name) for one in measured]
            cells.append(", ".join(f"{speed:,}" for speed in speeds if speed))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def place(row: dict) -> tuple[int, int]:
    """Which row of the table a kind of work is."""
    return ALL_MODES.index(row["mode"]), row["units"]


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = turns_parser(__doc__, ALL_MODES, "results/busy.json")
    parser.set_defaults(units=[100, 200, 650], rounds=3, seconds=3.0)
    parser.add_argument("--settle", type=float, default=3.0, help="seconds that do not count")
    return checked(parser.parse_args(argv))


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    options = parse(argv)
    out = options.out or (None if options.quick and not options.table else RESULTS / "busy.json")
    if options.table:
        result = read_record(out)
        print(table(result["rows"]))
        return result
    if options.quick:
        options.modes, options.units = ["train"], [16]
        options.rounds, options.seconds, options.settle = 2, 0.05, 0.05
    torch, rows, command = find_torch(options.torch_python), [], ["python", "benchmarks/busy.py"]
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
    for mode in options.modes:
        for units in options.units:
            work = Work(mode, 10_000, units, 2, 20, 35, eval_segments=20)
            if options.quick:
                work = Work(mode, 50, units, layers=2, batch=4, bptt=5)
            pythons = {"ours": sys.executable}
            pythons |= {f"ours-{number}": sys.executable for number in sorted({1, usable_cores()})}
            pythons |= {"torch": torch} if torch and mode in MODES else {}
            loads = summary(speeds(work, pythons, options))
            rows.append({"mode": mode, "units": units, "busy_programs": loads})
            rows[-1]["command"] = shlex.join([*command, *argv])
            print(table(rows[-1:]), file=sys.stderr, flush=True)
            result = record(out, [*command, *argv], rows=with_recorded(rows, out, "rows", place))
    print(table(result["rows"]))
    return result


if __name__ == "__main__":
    run(main)
