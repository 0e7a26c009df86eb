"""Is a model that was trained in bfloat16 as good? The preset fast-cpu, in both precisions.

    python benchmarks/precision.py --data ptb austen     # four epochs, two seeds: an hour
    python benchmarks/precision.py --table               # what is recorded

All of a pair is the same but the rounding: text, seed, first weights, dropout masks, epochs. The
figure is the ratio of test perplexities, as the geometric mean over the seeds. Recorded in
results/precision.json, where other data sets stay as they are.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from gluonlm import train
from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record

PRECISIONS = ("float32", "bfloat16")


def trained(data: str, precision: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train a model; its perplexities on the validation and the test text."""
    given = {"data": data, "precision": precision, "seed": seed, "epochs": options.epochs}
    given |= {"emsize": options.units, "nhid": options.units}
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--{name}={value}" for name, value in given.items()]
        result = train.main(["--preset", "fast-cpu", *words, "--save", f"{folder}/run"])
    if not result.finished:
        raise UserError("stopped before the end: nothing of this data set is recorded")
    losses = {"valid": result.valid_loss, "test": result.test_loss}
    return {split: round(math.exp(loss), 3) for split, loss in losses.items()}


def compare(data: str, options: argparse.Namespace) -> dict:
    """Both precisions with each seed, and how much worse bfloat16 is: a ratio near 1."""
    perplexity = {
        precision: {seed: trained(data, precision, seed, options) for seed in options.seeds}
        for precision in PRECISIONS
    }
    ratios = {
        split: round(
            statistics.geometric_mean(
                perplexity["bfloat16"][seed][split] / perplexity["float32"][seed][split]
                for seed in options.seeds
            ),
            5,
        )
        for split in ("valid", "test")
    }
    return {
        "epochs": options.epochs,
        "units": options.units,
        "perplexity": perplexity,
        "bfloat16_over_float32": ratios,
    }


def table(results: dict[str, dict]) -> str:
    """The results as Markdown."""
    lines = ["| data | epochs | float32, test | bfloat16, test | ratio |", "|---|---|---|---|---|"]
    for data, one in results.items():
        reached = [
            ", ".join(f"{values['test']:.2f}" for values in one["perplexity"][precision].values())
            for precision in PRECISIONS
        ]
        ratio = one["bfloat16_over_float32"]["test"]
        lines.append(f"| {data} | {one['epochs']} | {' | '.join(reached)} | **{ratio:.4f}** |")
    return "\n".join(lines)


def gather(
    options: argparse.Namespace, command: list[str], compare: Callable, table: Callable
) -> dict:
    """Compare on each data set, record that beside the others' figures, and show the table."""
    before = json.loads(options.out.read_text()) if options.out.is_file() else {}
    results = before.get("data", {})
    for data in () if options.table else options.data:
        results[Path(data).stem] = compare(data, options)
        before = record(options.out, command, data=results)
    print(table(results))
    return before


def main(argv: list[str]) -> dict:
    """Train, compare and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["ptb", "austen"])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1111, 1112])
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json")
    parser.add_argument("--table", action="store_true", help="only show what --out holds")
    options = parser.parse_args(argv)
    return gather(options, ["python", "benchmarks/precision.py", *argv], compare, table)


if __name__ == "__main__":
    run(main)
