"""Speed and peak memory of training and evaluation: gluonlm, MXNet as it comes, and PyTorch's
word-level example.

    python benchmarks/step.py --torch-python torch-env/bin/python  # or make bench: 20 minutes
    python benchmarks/step.py --quick                              # tiny sizes: does it work?
    python benchmarks/step.py --table                              # the recorded figures

All do the same work: two LSTM layers, tied, batch 20 x 35, on random words. In the mode "sampled"
ours trains with 1,000 sampled words per segment, as the preset fast-cpu does, and the others as
before, since they have nothing of the kind. Each competitor is a process that stays and sleeps
while others run; they take turns, so that whatever else the machine does meets all of them. The
figure is the median over rounds of the ratio of two neighbours in time. The limit is what the
products of matrices alone would allow at the fastest rate of one large product measured in the same
rounds. With --precision bfloat16 ours rounds, and PyTorch runs both as it does without and with its
autocast. Recorded in results/step.json, where settings that are not measured again stay as they
are.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from step_worker import Work

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record

MODES = ("train", "sampled", "evaluate")
NAMES = ("ours", "stock", "torch", "autocast")
HERE = Path(__file__).resolve().parent
CLEARED = ("OMP_", "KMP_", "GOMP_", "MXNET_", "OPENBLAS_", "MKL_", "MALLOC_", "LD_PRELOAD")
NO_TORCH = (
    "PyTorch is missing, so its column is too. Give it an environment of its own (any Python, any "
    "folder):\n"
    "    uv venv torch-env && uv pip install --python torch-env torch\n"
    "and name it: --torch-python torch-env/bin/python, or GLUONLM_TORCH_PYTHON=torch-env/bin/python"
)


def competitor_environment(name: str) -> dict[str, str]:
    """The environment without what the user has set for speed; only ours finds this package."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(CLEARED)}
    return environment | {"PYTHONPATH": str(HERE.parent) if name == "ours" else ""}


class Competitor:
    """A process that does portions of work when told to."""

    def __init__(self, name: str, python: str, work: Work):
        if name in ("stock", "torch"):
            work = replace(work, precision="float32")
        kind, _, threads = name.partition("-")  # "ours-1": ours with one thread
        script = HERE / f"step_{'torch' if kind == 'autocast' else kind}.py"
        command = [python, str(script), json.dumps(asdict(work))]
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=competitor_environment(kind) | ({"OMP_NUM_THREADS": threads} if threads else {}),
        )
        self.facts = self._answer()

    def measure(self, seconds: float) -> dict:
        """Work for so long; returns tokens, seconds, peak_bytes and loss."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        answer = self._answer()
        if answer["loss"] is None:
            raise UserError(
                f"{self.name}: the loss is not a finite number, the figures mean nothing"
            )
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise UserError(
                f"the competitor {self.name} ended with code {self.process.wait()}: see its "
                f"message above"
            )
        return json.loads(line)


def compare(work: Work, pythons: dict[str, str], rounds: int, seconds: float) -> dict:
    """Measure one setting with all competitors."""
    competitors: list[Competitor] = []
    try:
        for name, python in pythons.items():
            competitors.append(Competitor(name, python, work))
        answers = {one.name: [] for one in competitors}
        for turn in range(rounds):
            for one in competitors if turn % 2 else competitors[::-1]:
                answers[one.name].append(one.measure(seconds))
    finally:
        for one in competitors:
            one.close()
    limit = max(a["flops"] for a in answers["ours"]) / operations_per_token(work)
    speeds = {
        name: [a["tokens"] / a["seconds"] for a in measured] for name, measured in answers.items()
    }
    ratios = {
        name: spread(
            [ours / theirs for ours, theirs in zip(speeds["ours"], speeds[name], strict=True)]
        )
        for name in speeds
        if name != "ours"
    }
    return {
        **asdict(work),
        "tokens_per_second": {
            name: round(statistics.median(values), 1) for name, values in speeds.items()
        },
        "rounds_tokens_per_second": {
            name: [round(value, 1) for value in values] for name, values in speeds.items()
        },
        "ours_faster_than": ratios,
        "limit_tokens_per_second": round(limit, 1),
        "peak_mib": {
            name: round(measured[-1]["peak_bytes"] / 2**20) for name, measured in answers.items()
        },
        "facts": {one.name: one.facts for one in competitors},
    }


def operations_per_token(work: Work) -> int:
    """Multiplications and additions in products of matrices: of the LSTM's four gates, and of the
    full decoder.

    Training takes each product three times: forward, and the gradients of either factor.
    """
    recurrent = work.layers * 2 * 4 * work.units * (work.units + work.units)
    return (recurrent + 2 * work.units * work.vocab) * (1 if work.mode == "evaluate" else 3)


def spread(ratios: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(low, 3),
        "high": round(high, 3),
    }


def table(settings: list[dict]) -> str:
    """The results as Markdown."""
    measured = {name for one in settings for name in one["tokens_per_second"]}
    names = [name for name in NAMES if name in measured]
    others = [name for name in names if name != "ours"]
    heads = ["", "units", "V", *(f"{name}, tokens/s" for name in names)]
    heads += [f"ours / {name} (quartiles)" for name in others] + ["limit, tokens/s"]
    heads += [f"{name}, MiB" for name in names]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in settings:
        mode = one["mode"] + " bfloat16" * (precision_of(one) == "bfloat16")
        cells = [mode, f"{one['units']}", f"{one['vocab']:,}"]
        speeds = one["tokens_per_second"]
        cells += [f"{speeds[name]:,.0f}" if name in speeds else "" for name in names]
        for name in others:
            if name not in speeds:
                cells.append("")
                continue
            ratio = one["ours_faster_than"][name]
            cells.append(f"**{ratio['median']:.2f}** ({ratio['low']:.2f} - {ratio['high']:.2f})")
        full = (
            one["mode"] != "sampled"
        )  # the sampled softmax does less than the products that are counted
        cells += [f"{one['limit_tokens_per_second']:,.0f}" if full else ""]
        peaks = one["peak_mib"]
        cells += [f"{peaks[name]:,}" if name in peaks else "" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def place(one: dict) -> tuple:
    """Which row of the table a setting is."""
    order = MODES.index(one["mode"]), precision_of(one) == "bfloat16"
    return *order, one["units"], one["vocab"]


def compared_with(one: dict) -> set[str]:
    """The competitors of a setting; autocast is one in bfloat16 only."""
    return set(one["tokens_per_second"]) - {"autocast"}


def precision_of(one: dict) -> str:
    """The precision of ours; rows from before there was a choice say nothing of it."""
    return one.get("precision", "float32")


def read_record(path: Path) -> dict:
    """What ``path`` holds; a UserError when it is not there."""
    if not path.is_file():
        raise UserError(f"{path} is not there: measure first, without --table")
    return json.loads(path.read_text(encoding="utf-8"))


def with_recorded(
    rows: list[dict], path: Path | None, name: str, place: Callable[[dict], tuple]
) -> list[dict]:
    """What was measured now, and what ``path`` holds under ``name`` of other places; in order."""
    older = read_record(path)[name] if path and path.is_file() else []
    known = {place(row): row for row in [*older, *rows]}
    return [known[key] for key in sorted(known)]


def find_torch(given: str | None) -> str | None:
    """The Python that has PyTorch, None if none was named.

    :raises UserError: when the named one has no PyTorch.
    """
    if not given:
        return None
    python = shutil.which(given)
    if (
        python is None
        or subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
    ):
        raise UserError(
            f"--torch-python {given}: this Python has no torch or is not there: name one that has"
        )
    return python


def turns_parser(doc: str, modes: tuple[str, ...], record: str) -> argparse.ArgumentParser:
    """The options of a benchmark whose competitors take turns, without their numbers."""
    parser = argparse.ArgumentParser(description=doc.partition("\n\n")[0])
    add = parser.add_argument
    add("--torch-python", default=os.environ.get("GLUONLM_TORCH_PYTHON"), metavar="PYTHON")
    add("--modes", nargs="+", choices=modes, default=list(modes))
    add("--units", type=int, nargs="+")
    add("--rounds", type=int)
    add("--seconds", type=float, help="per competitor and round")
    add("--out", type=Path, help=f"file to record in (default: {record}, none with --quick)")
    add("--table", action="store_true", help="only show what is recorded in --out")
    add("--quick", action="store_true", help="tiny sizes, to see that it works")
    return parser


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options; a UserError when the rounds would show no spread."""
    if options.rounds < 2 or options.seconds <= 0:
        enough = "--rounds must be at least 2 and --seconds more than 0"
        raise UserError(f"{enough}, for a spread to be seen")
    return options


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = turns_parser(__doc__, MODES, "results/step.json")
    parser.set_defaults(units=[200, 650], rounds=7, seconds=4.0)
    sizes = {"default": [10_000, 33_278], "help": "Penn Treebank, WikiText-2"}
    parser.add_argument("--vocab", type=int, nargs="+", **sizes)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    return checked(parser.parse_args(argv))


def main(argv: list[str]) -> dict:
    """Measure all settings, print the table, and record."""
    options = parse(argv)
    if options.table:
        result = read_record(options.out or RESULTS / "step.json")
        print(table(result["settings"]))
        return result
    if options.quick:
        options.units, options.vocab, options.rounds, options.seconds = [16], [50], 2, 0.05
    batch, bptt = (4, 5) if options.quick else (20, 35)
    torch = find_torch(options.torch_python)
    # in this order and its reverse by turns, ours always runs right before or after each of the
    # others
    pythons = {"stock": sys.executable, "ours": sys.executable} | (
        {"torch": torch} if torch else {}
    )
    if torch and options.precision == "bfloat16":
        pythons["autocast"] = torch
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
    settings, command = [], ["python", "benchmarks/step.py", *argv]
    for mode in options.modes:
        for units in options.units:
            for vocab in options.vocab:
                work = Work(mode, vocab, units, 2, batch, bptt, precision=options.precision)
                compared = compare(work, pythons, options.rounds, options.seconds)
                settings.append(compared | {"command": shlex.join(command)})
                ratios = {
                    name: ratio["median"]
                    for name, ratio in settings[-1]["ours_faster_than"].items()
                }
                print(
                    f"{mode} {units} units, V = {vocab}: ours is faster by {ratios}",
                    file=sys.stderr,
                    flush=True,
                )
    print(table(settings))
    if torch is None:
        print("\nNo column for PyTorch: see the message above.")
    out = options.out or (None if options.quick else RESULTS / "step.json")
    if out:
        same, known = compared_with(settings[0]), with_recorded(settings, out, "settings", place)
        settings = [one for one in known if compared_with(one) == same]
    return record(out, command, torch=torch is not None, settings=settings)


if __name__ == "__main__":
    run(main)
