"""What the digest costs: loading a model with and without its check, by turns.

    python benchmarks/loading.py                       # in half a minute; results/loading.json

Each pair is one load with the check and one without, in changing order, of a model of random
weights; a ratio is that of a pair.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import gluonlm  # isort: skip
from gluonlm.cli import run
from gluonlm.config import Config
from gluonlm.model import storage
from gluonlm.model.checkpoint import Trained, build_model, save_model
from gluonlm.system.machine import RESULTS, record
from gluonlm.text.vocabulary import Dictionary

SIZES = ((200, 10_000), (650, 10_000), (1500, 10_000), (650, 33_278))  # units, vocabulary


def main(argv: list[str]) -> dict:
    """Measure models of several sizes, print and record what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=15, help="of each size (default: 15)")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="only so many of the sizes")
    parser.add_argument("--out", type=Path, default=RESULTS / "loading.json")
    options = parser.parse_args(argv)
    rows = [measured(units, vocab, options.pairs) for units, vocab in SIZES[: options.sizes]]
    for row in rows:
        print(
            f"{row['units']:>5} units, {row['vocab']:>6} words, {row['megabytes']:6.1f} MB: "
            f"{1000 * row['without']:6.1f} ms without, {1000 * row['with']:6.1f} ms with the "
            f"digest, ratio {row['ratio']:.3f}"
        )
    return record(options.out, ["python", "benchmarks/loading.py", *argv], rows=rows)


def measured(units: int, vocab: int, pairs: int) -> dict[str, float]:
    """The seconds of a load with the check and without it, and the median of the pairs' ratios."""
    config = Config(emsize=units, nhid=units, tied=True)
    words = Dictionary(f"word{number}" for number in range(vocab))
    check = storage.digest
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_model(Trained(build_model(config, vocab), words, config, "word", path))
        with storage.safe_open(path, framework="numpy") as file:
            proof = file.metadata()["digest"]
        checks = {"with": check, "without": lambda packed, metadata: proof}
        seconds = {name: [] for name in checks}
        for pair in range(pairs + 1):
            for name in sorted(checks, reverse=bool(pair % 2)):
                storage.digest = checks[name]
                began = time.perf_counter()
                gluonlm.load(path)
                seconds[name].append(time.perf_counter() - began)
        storage.digest = check
        megabytes = path.stat().st_size / 1e6
    seconds = {name: found[1:] for name, found in seconds.items()}  # the first reads the disk
    ratios = [one / other for one, other in zip(seconds["with"], seconds["without"], strict=True)]
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    facts = {"units": units, "vocab": vocab, "megabytes": megabytes, "pairs": pairs}
    return {**facts, **medians, "ratio": statistics.median(ratios)}


if __name__ == "__main__":
    run(main)
