"""Speed of a training step of the Transformer against that of an LSTM with as many weights.

    python benchmarks/attention.py                # half a minute
    python benchmarks/attention.py --quick        # tiny sizes, to see that it works

The recorded runs' settings (preset ``fast-cpu``, a vocabulary of 10,000 words), both in one process
by turns; the figure is the median over rounds of the ratio of two neighbours in time. Records
results/attention.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import gluonlm  # isort: skip
import mxnet as mx
import numpy as np
from qrnn import by_turns, figures

from gluonlm.cli import run
from gluonlm.config import Config
from gluonlm.model.checkpoint import build_model
from gluonlm.model.softmax import SampledSoftmax
from gluonlm.presets import resolve
from gluonlm.system.machine import RESULTS, record
from gluonlm.training.optim import Updater
from gluonlm.training.step import Objective, train_step

LSTM = resolve("fast-cpu", {})
TRANSFORMER = resolve(
    "fast-cpu", {"model": "Transformer", "nhid": 400, "nhead": 4, "optimizer": "adam"}
)


def one_step(config: Config, vocab_size: int) -> Callable[[], None]:
    """A training step on random words, frequent ones more often."""
    model, random = build_model(config, vocab_size), np.random.default_rng(1)
    updater = Updater(model.trainables(), config.optimizer, 0.0)
    counts = 1e6 / np.arange(1, vocab_size + 1)
    objective = Objective(SampledSoftmax(counts, config.softmax_samples))
    shape = config.bptt + 1, config.batch_size
    ids = random.choice(vocab_size, size=shape, p=counts / counts.sum()).astype(np.int32)
    states = [model.begin_state(config.batch_size)]

    def once():
        nonlocal states
        _, states = train_step(
            model, updater, ids[:-1], ids[1:], states, 0.001, config.clip, objective
        )

    return once


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, help="default: results/attention.json")
    options = parser.parse_args(argv)
    mx.random.seed(1)
    vocab_size, rounds = (60, 2) if options.quick else (10_000, 60)
    ways = {"LSTM": one_step(LSTM, vocab_size), "Transformer": one_step(TRANSFORMER, vocab_size)}
    found = figures(by_turns(ways, rounds), "Transformer", "LSTM")
    print(found)
    out = options.out or (None if options.quick else RESULTS / "attention.json")
    facts = {"threads": gluonlm.RUNTIME.threads, "columns": LSTM.batch_size, "steps": LSTM.bptt}
    command = ["python", "benchmarks/attention.py", *argv]
    return record(out, command, **facts, times_as_long=found)


if __name__ == "__main__":
    run(main)
