"""Time and memory of a training step with the adaptive softmax against the full one, by vocabulary
size.

    python benchmarks/adaptive.py

The words of WikiText-2 (33,278) and WikiText-103 (267,735) by Zipf's frequencies; 400 features, 20
columns of 35 steps, tied. Timed are decoder, loss and their gradients, without recurrent layers.
Each case is measured in a process of its own. Records results/adaptive.json.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from memory_worker import peak_bytes

from gluonlm.cli import run
from gluonlm.system.machine import RESULTS, record

SPLITS = {33_278: (2800, 20_000), 267_735: (2800, 20_000, 76_000)}
SIZE, STEPS, COLUMNS = 400, 35, 20


def measure(vocabulary: int, splits: tuple[int, ...], steps: int) -> dict:
    """Milliseconds of the fastest step and peak memory of this process."""
    from mxnet import autograd, nd

    from gluonlm.model.rnn import RNNModel
    from gluonlm.model.softmax import decoder_loss

    model = RNNModel(vocabulary, emsize=SIZE, nhid=SIZE, nlayers=1, tied=True, splits=splits)
    model.initialize()
    random, fastest = np.random.default_rng(1), np.inf
    shares = 1 / (np.arange(vocabulary) + 2.7)
    features = nd.random.normal(scale=0.3, shape=(STEPS, COLUMNS, SIZE))
    features.attach_grad()
    for _ in range(steps):
        words = random.choice(vocabulary, size=(STEPS, COLUMNS), p=shares / shares.sum())
        started = time.perf_counter()
        with autograd.record():
            loss = decoder_loss(model, features, nd.array(words)).mean()
        loss.backward()
        nd.waitall()
        fastest = min(fastest, time.perf_counter() - started)
    return {
        "vocabulary": vocabulary,
        "splits": splits,
        "step_ms": round(1e3 * fastest, 1),
        "peak_mib": round(peak_bytes() / 2**20),
    }


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="the fastest counts")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "adaptive.json", help="file to record the figures in"
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        vocabulary, way = int(options.measure[0]), options.measure[1]
        figures = measure(vocabulary, SPLITS[vocabulary] if way == "split" else (), options.steps)
        print(json.dumps(figures))
        return figures
    runs = []
    for vocabulary in SPLITS:
        for way in ("full", "split"):
            command = [
                sys.executable,
                __file__,
                "--measure",
                str(vocabulary),
                way,
                "--steps",
                str(options.steps),
            ]
            runs.append(
                json.loads(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                )
            )
            print(json.dumps(runs[-1]), flush=True)
    return record(options.out, ["python", "benchmarks/adaptive.py", *argv], runs=runs)


if __name__ == "__main__":
    run(main)
