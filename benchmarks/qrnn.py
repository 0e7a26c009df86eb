"""Speed of the QRNN: ways to compute its pooling, its layer against our LSTM layer, and whole
training steps.

    python benchmarks/qrnn.py                # about three minutes
    python benchmarks/qrnn.py --quick        # tiny sizes, to see that it works

All in one process, the competitors by turns, forward and backward; a figure is the median over
rounds of the ratio of two neighbours in time, with quartiles. Beside each ratio stands what the
number of multiplications alone would give: per unit and step an LSTM layer needs 4 (I + H) and a
QRNN layer 3 I, or 6 I with window 2. Records results/qrnn.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import gluonlm  # isort: skip
import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from qrnn_pooling import CANDIDATES
from step import spread

from gluonlm.cli import run
from gluonlm.model.checkpoint import build_model
from gluonlm.model.qrnn import QRNNLayer
from gluonlm.model.rnn import RecurrentLayer
from gluonlm.presets import resolve
from gluonlm.system.machine import RESULTS, record
from gluonlm.training.optim import Updater
from gluonlm.training.step import Objective, train_step

COLUMNS = 20


def by_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after two that do not count."""
    seconds = {name: [] for name in ways}
    for _ in range(rounds + 2):
        for name, way in ways.items():
            nd.waitall()
            started = time.perf_counter()
            way()
            nd.waitall()
            seconds[name].append(time.perf_counter() - started)
    return {name: times[2:] for name, times in seconds.items()}


def figures(seconds: dict[str, list[float]], slow: str, fast: str) -> dict:
    """Milliseconds of each, and how much faster one is than the other."""
    ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    return {
        "ms": {name: round(1e3 * float(np.median(times)), 3) for name, times in seconds.items()}
    } | spread(ratios)


def poolings(steps: int, units: int, rounds: int) -> dict:
    """Each candidate, forward and backward; the loop's numbers are the right ones."""
    random = np.random.default_rng(1)
    gates, c0, head = (
        nd.array(random.normal(size=shape))
        for shape in ((steps, COLUMNS, 3 * units), (1, COLUMNS, units), (steps, COLUMNS, units))
    )
    gates.attach_grad()

    def way(name):
        pool = CANDIDATES[name](steps)

        def once():
            with autograd.record():
                outputs, _ = pool(gates, c0)
            outputs.backward(head)
            return outputs

        return once

    ways, right = {name: way(name) for name in CANDIDATES}, None
    for name in reversed(ways):  # the loop first
        answer = ways[name]().asnumpy(), gates.grad.asnumpy()
        right = right or answer
        for ours, theirs in zip(answer, right, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)
    seconds = by_turns(ways, rounds)
    others = {name: figures(seconds, name, "operator") for name in CANDIDATES if name != "operator"}
    return {
        "steps": steps,
        "units": units,
        "ms": next(iter(others.values()))["ms"],
        "operator_faster_than": {
            name: {k: one[k] for k in ("median", "low", "high")} for name, one in others.items()
        },
    }


def layers(steps: int, units: int, rounds: int) -> dict:
    """Our LSTM layer against QRNN layers of as many units, each with as many inputs as units."""
    inputs, head = (nd.random.normal(shape=(steps, COLUMNS, units)) for _ in range(2))
    inputs.attach_grad()
    blocks = {
        "lstm": RecurrentLayer("LSTM", units, units),
        "window 1": QRNNLayer(units, units, 1),
        "window 2": QRNNLayer(units, units, 2),
    }

    def way(block):
        block.initialize()
        block.hybridize(static_alloc=True)
        state = block.begin_state(COLUMNS)

        def once():
            with autograd.record():
                outputs, _ = block(inputs, state)
            outputs.backward(head)

        return once

    seconds = by_turns({name: way(block) for name, block in blocks.items()}, rounds)
    one, two = (figures(seconds, "lstm", name) for name in ("window 1", "window 2"))
    ms = one.pop("ms")
    two.pop("ms")
    return {
        "steps": steps,
        "units": units,
        "ms": ms,
        "faster_than_lstm": {"window 1": one, "window 2": two},
        "by_multiplications": {"window 1": round(8 / 3, 2), "window 2": round(8 / 6, 2)},
    }


def multiplications(config) -> int:
    """Of a training step's recurrent layers, per token: their weights, once in each direction and
    for the gradient."""
    model = build_model(config, 10)
    return 3 * sum(
        int(np.prod(p.shape)) for name, p in model.trainables().items() if ".layers." in name
    )


def training_steps(vocab_size: int, shrink: int, rounds: int) -> dict:
    """The published sizes, AWD-LSTM 3 x 1150 against AWD-QRNN 4 x 1550, with all their
    regularizers."""
    ways, counts = {}, {}
    for preset in ("awd", "qrnn"):
        sizes = {name: getattr(resolve(preset, {}), name) // shrink for name in ("emsize", "nhid")}
        config = resolve(preset, {**sizes, "batch_size": COLUMNS})
        ways[preset], counts[preset] = one_step(config, vocab_size), multiplications(config)
    seconds = by_turns(ways, rounds)
    return {
        "vocabulary": vocab_size,
        "steps": resolve("awd", {}).bptt,
        **figures(seconds, "awd", "qrnn"),
        "multiplications_of_the_layers_per_token": counts,
    }


def one_step(config, vocab_size: int) -> Callable[[], None]:
    """A training step on random words."""
    model = build_model(config, vocab_size)
    updater = Updater(model.trainables(), config.optimizer, config.wdecay)
    ids = (
        np.random.default_rng(1)
        .integers(0, vocab_size, (config.bptt + 1, COLUMNS))
        .astype(np.int32)
    )
    states = [model.begin_state(COLUMNS)]

    def once():
        nonlocal states
        objective = Objective(alpha=config.alpha, beta=config.beta)
        _, states = train_step(
            model, updater, ids[:-1], ids[1:], states, 0.1, config.clip, objective
        )

    return once


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument(
        "--out", type=Path, help="file to record the figures in (default: results/qrnn.json)"
    )
    options = parser.parse_args(argv)
    mx.random.seed(1)
    parts = {"poolings": [], "layers": []}
    published = [(70, 400), (35, 200)]
    grid = [(steps, 400) for steps in (10, 35, 140, 280)] + [
        (70, units) for units in (100, 200, 800)
    ]
    if options.quick:
        published, grid, options.rounds = [(5, 8)], [(1, 8)], 2
    for name, measure, sizes in (
        ("poolings", poolings, published),
        ("layers", layers, published + grid),
    ):
        for steps, units in sizes:
            parts[name].append(measure(steps, units, options.rounds))
            print(json.dumps(parts[name][-1]), flush=True)
    parts["training_step"] = training_steps(
        *((50, 50) if options.quick else (10_000, 1)), max(2, options.rounds // 2)
    )
    print(json.dumps(parts["training_step"]), flush=True)
    out = options.out or (None if options.quick else RESULTS / "qrnn.json")
    facts = {"threads": gluonlm.RUNTIME.threads, "columns": COLUMNS}
    return record(out, ["python", "benchmarks/qrnn.py", *argv], **facts, **parts)


if __name__ == "__main__":
    run(main)
