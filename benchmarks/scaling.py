"""Speed of data-parallel training on this machine: from one worker to two, and what the cost model
says.

    python benchmarks/scaling.py                      # about four minutes
    python benchmarks/scaling.py --quick --rounds 1   # tiny sizes, to see that it works

Always the same model and global batch on random words, in runs of gluonlm.train that take turns:
``one`` worker of one thread; ``one_of_two_threads``; ``half`` of the batch by one worker;
``served``, one worker whose gradients go through a server; ``two`` workers of one thread each, with
half of the columns each. The constants of the cost model (section 8 of
notebooks/13_scaling_out.ipynb) come from the first, third and fourth; its prediction for the fifth
is recorded beside the measurement. Recorded in results/scaling.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record
from gluonlm.training.run import read_log

BATCH, STEPS = 20, 35
LAUNCH = ["-m", "gluonlm.launch", "--local"]
SETTINGS = {  # what runs, threads of each worker, columns
    "one": (["-m", "gluonlm.train"], 1, BATCH),
    "one_of_two_threads": (["-m", "gluonlm.train"], 2, BATCH),
    "half": (["-m", "gluonlm.train"], 1, BATCH // 2),
    "served": ([*LAUNCH, "-n", "1", "--"], 1, BATCH),
    "two": ([*LAUNCH, "-n", "2", "--"], 1, BATCH),
}


def write_text(folder: Path, words: int, tokens: int) -> None:
    """A random text in which every word occurs."""
    draw = np.random.default_rng(0)
    train = np.concatenate([np.arange(words), draw.integers(words, size=max(0, tokens - words))])
    for split, ids in (
        ("train", draw.permutation(train)),
        ("valid", np.arange(200)),
        ("test", np.arange(200)),
    ):
        (folder / f"{split}.txt").write_text(" ".join(f"w{word}" for word in ids) + "\n")


def measure(name: str, folder: Path, turn: int, units: int, interval: int) -> tuple[float, int]:
    """Run one setting; seconds per step without the first interval, and the number of
    parameters."""
    program, threads, columns = SETTINGS[name]
    save = folder / f"{name}{turn}"
    sizes = ["--emsize", str(units), "--nhid", str(units), "--tied", "--batch-size", str(columns)]
    length = ["--epochs", "1", "--max-batches", str(4 * interval), "--log-interval", str(interval)]
    ended = subprocess.run(
        [sys.executable, *program, "--data", str(folder), "--save", str(save), *sizes, *length],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise UserError(f"{name} ended with code {ended.returncode}: {ended.stderr.strip()}")
    speeds = [one["tokens_per_second"] for one in read_log(save / "log.jsonl", "interval")]
    parameters = json.loads((save / "result.json").read_text())["parameters"]
    return columns * STEPS / statistics.median(speeds[1:]), parameters


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Least, median and greatest ratio of neighbours in time."""
    values = [round(a / b, 3) for a, b in zip(over, under, strict=True)]
    return {"low": min(values), "median": round(statistics.median(values), 3), "high": max(values)}


def fit(whole: float, half: float, served: float, size: float) -> dict[str, float]:
    """The model's constants: seconds of a step with one worker over the whole batch, over half of
    it, and over all of it with the gradient (``size`` bytes) sent to a server and fetched again."""
    column = max(0.0, whole - half) / (BATCH / 2)
    bandwidth = 2 * size / max(served - whole, 1e-9)
    return {"fixed": whole - column * BATCH, "column": column, "size": size, "bandwidth": bandwidth}


def predicted(cost: dict[str, float], workers: int) -> float:
    """Seconds of a step of some workers with one server, which moves all their gradients."""
    exchange = 2 * workers * cost["size"] / cost["bandwidth"]
    return cost["fixed"] + cost["column"] * BATCH / workers + exchange


def main(argv: list[str]) -> dict:
    """Measure, compare with the model, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, help="file to record in (default: results/scaling.json)"
    )
    options = parser.parse_args(argv)
    words, units, interval = (50, 8, 2) if options.quick else (10_000, 200, 7)
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as place:
        write_text(Path(place), words, BATCH * (4 * interval * STEPS + STEPS + 1))
        for turn in range(options.rounds):
            for name in SETTINGS:
                one, parameters = measure(name, Path(place), turn, units, interval)
                seconds[name].append(one)
                print(f"{name}: {1000 * one:.0f} ms a step", flush=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    cost = fit(median["one"], median["half"], median["served"], 4 * parameters)
    figures = {
        "batch": BATCH,
        "steps": STEPS,
        "units": units,
        "words": words,
        "parameters": parameters,
        "seconds_per_step": {
            name: [round(one, 5) for one in values] for name, values in seconds.items()
        },
        "two_workers_faster_than_one": ratios(seconds["one"], seconds["two"]),
        "two_threads_faster_than_one": ratios(seconds["one"], seconds["one_of_two_threads"]),
        "cost": {name: float(f"{value:.4g}") for name, value in cost.items()},
        "predicted": {"two": round(predicted(cost, 2), 5)},
    }
    print(json.dumps(figures, indent=1))
    out = options.out or (None if options.quick else RESULTS / "scaling.json")
    return record(out, ["python", "benchmarks/scaling.py", *argv], **figures)


if __name__ == "__main__":
    run(main)
