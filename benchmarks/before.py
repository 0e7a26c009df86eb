"""Is a step slower than it was? This tree against another commit, by turns.

    git worktree add /tmp/before d340bde
    python benchmarks/before.py /tmp/before           # in about two minutes
    python benchmarks/before.py /tmp/before --avx2    # as on a processor without AVX-512

With --avx2 both BLAS and oneDNN are told to use their kernels for AVX2 only. The figure is the
median over rounds of the ratio of neighbours in time; beside it stand the peaks of memory. Recorded
in results/before.json, one entry for each kind of kernels.
"""

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from step import HERE, MODES, Competitor, competitor_environment, spread
from step_worker import Work

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record

AVX2 = {"OPENBLAS_CORETYPE": "Haswell", "DNNL_MAX_CPU_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


class Tree(Competitor):
    """The step of one source tree in its process."""

    def __init__(self, folder: Path, work: Work, kernels: dict[str, str]):
        self.name = str(folder)
        settings = asdict(work)
        del settings["precision"]  # float32, whether the tree has a choice or not
        environment = competitor_environment("ours") | {"PYTHONPATH": str(folder)} | kernels
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "benchmarks" / "step_ours.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.facts = self._answer()


def compare(before: Path, work: Work, options: argparse.Namespace) -> dict:
    """Tokens per second of both trees, the ratio, and the peaks of memory."""
    speeds, peaks = {"now": [], "before": []}, {}
    with ExitStack() as stack:
        trees = {"now": HERE.parent, "before": before}
        competitors = {}
        for name, folder in trees.items():
            competitors[name] = Tree(folder, work, AVX2 if options.avx2 else {})
            stack.callback(competitors[name].close)
        for turn in range(options.rounds):
            for name in list(speeds)[:: 1 if turn % 2 else -1]:
                answer = competitors[name].measure(options.seconds)
                speeds[name].append(round(answer["tokens"] / answer["seconds"], 1))
                peaks[name] = round(answer["peak_bytes"] / 2**20)
    ratios = [now / then for now, then in zip(speeds["now"], speeds["before"], strict=True)]
    return {
        "rounds_tokens_per_second": speeds,
        "now_over_before": spread(ratios),
        "peak_mib": peaks,
    }


def main(argv: list[str]) -> dict:
    """Measure all settings, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("before", type=Path, help="folder of the other commit")
    parser.add_argument("--avx2", action="store_true", help="no AVX-512 for either")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--units", type=int, nargs="+", default=[200])
    parser.add_argument("--vocab", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "before.json")
    options = parser.parse_args(argv)
    if not (options.before / "benchmarks" / "step_ours.py").is_file():
        raise UserError(f"{options.before}: there is no benchmarks/step_ours.py: name a work tree")
    kernels = json.loads(options.out.read_text())["kernels"] if options.out.is_file() else {}
    commit = subprocess.run(
        ["git", "-C", str(options.before), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    measured = {}
    for mode in options.modes:
        for units in options.units:
            work = Work(mode, options.vocab, units, layers=2, batch=20, bptt=35)
            measured[f"{mode}, {units} units"] = one = compare(options.before, work, options)
            ratio, peaks = one["now_over_before"], one["peak_mib"]
            print(f"{mode}, {units} units: now / before {ratio}, peaks {peaks} MiB", flush=True)
    kernels["AVX2" if options.avx2 else "all"] = {"before": commit, "measured": measured}
    # where the other commit lies is nothing to a reader
    shown = ["FOLDER" if word == str(options.before) else word for word in argv]
    command = ["python", "benchmarks/before.py", *shown]
    return record(options.out, command, kernels=kernels)


if __name__ == "__main__":
    run(main)
