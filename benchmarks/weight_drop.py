"""What weight drop adds to a training step of an LSTM layer: ours and that of gluonnlp, and whether
each works.

    python benchmarks/weight_drop.py                              # in about three minutes
    python benchmarks/weight_drop.py --sizes 16 --rounds 2        # tiny, to see that it works

Forward and backward of one layer, 20 columns of 70 steps, hybridized. Each way takes turns with the
same layer without weight drop; the figure is the median over rounds of the ratio of two neighbours
in time. gluonnlp's works on Gluon's ``rnn.LSTM`` by another ``data`` method of its parameters.
Recorded in results/weight_drop.json.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import gluonlm  # noqa: F401  before mxnet: it prepares threads

# isort: split
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from step import spread

from gluonlm.cli import run
from gluonlm.model.rnn import RecurrentLayer
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record

RATE, STEPS, COLUMNS = 0.5, 70, 20
Forward = Callable[[nd.NDArray], nd.NDArray]


def ours(
    size: int, rate: float
) -> tuple[Forward, Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Our layer as a function, its raw hidden-to-hidden weights, and their gradient."""
    layer = RecurrentLayer("LSTM", size, size, rate)
    layer.initialize(mx.init.Uniform(0.1))
    layer.hybridize(static_alloc=True)
    state = layer.begin_state(COLUMNS)
    part = "h2h_weight"
    return (
        lambda inputs: layer(inputs, state)[0],
        lambda: layer.parts(layer.weights.data())[part].asnumpy(),
        lambda: layer.parts(layer.weights.grad())[part].asnumpy(),
    )


def of_gluonnlp(
    size: int, rate: float
) -> tuple[Forward, Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """The same with Gluon's layer and gluonnlp's weight drop."""
    from gluonnlp.model import apply_weight_drop

    layer = gluon.rnn.LSTM(size, input_size=size)
    layer.initialize(mx.init.Uniform(0.1))
    apply_weight_drop(layer, ".*h2h_weight", rate)
    layer.hybridize(static_alloc=True)
    state = layer.begin_state(COLUMNS)
    (weight,) = (
        parameter
        for name, parameter in layer.collect_params().items()
        if name.endswith("h2h_weight")
    )
    return (
        lambda inputs: layer(inputs, state)[0],
        lambda: weight.data().asnumpy(),
        lambda: weight.grad().asnumpy(),
    )


WAYS = {"ours": ours, "gluonnlp": of_gluonnlp}


def step(forward: Forward, inputs: nd.NDArray) -> np.ndarray:
    """One forward and backward pass; returns the outputs."""
    with autograd.record():
        outputs = forward(inputs)
        loss = (outputs**2).sum()
    loss.backward()
    nd.waitall()
    return outputs.asnumpy()


def checks(make: Callable, inputs: nd.NDArray) -> dict[str, bool]:
    """What weight drop must do: a mask for each segment, none in evaluation, and the gradient of
    its mask."""
    forward, weights, gradient = make(inputs.shape[-1], RATE)
    first, second = step(forward, inputs), step(forward, inputs)
    dropped = float((gradient() == 0).mean())
    evaluated = [forward(inputs).asnumpy() for _ in range(2)]
    before = weights()
    with autograd.train_mode():
        during = weights()
    return {
        "a_new_mask_each_segment": bool((first != second).any()),
        "gradient_is_zero_where_dropped": abs(dropped - RATE) < 0.1,
        # (one of millions of random weights may be 0 by chance)
        "no_mask_in_evaluation": bool(
            (evaluated[0] == evaluated[1]).all() and (before != 0).mean() > 0.99
        ),
        "data_gives_the_raw_weights_in_training": bool((before == during).all()),
    }


def measure(size: int, rounds: int) -> dict:
    """Times a layer takes with weight drop relative to without, in each way."""
    inputs = nd.random.normal(shape=(STEPS, COLUMNS, size))
    figures = {"size": size}
    for name, make in WAYS.items():
        forwards, ratios = [make(size, rate)[0] for rate in (RATE, 0.0)], []
        for turn in range(rounds + 1):
            seconds = {}
            for one in (0, 1) if turn % 2 else (1, 0):
                started = time.perf_counter()
                step(forwards[one], inputs)
                seconds[one] = time.perf_counter() - started
            ratios.append(seconds[0] / seconds[1])
        figures[name] = {
            "times_slower": spread(ratios[1:]),
            **checks(make, inputs),
        }  # the first round has warmed up
    return figures


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[400, 1150], help="units, and features of the input"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "weight_drop.json",
        help="file to record the figures in",
    )
    options = parser.parse_args(argv)
    if options.rounds < 2:
        raise UserError("--rounds must be at least 2, for a spread to be seen")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    mx.random.seed(1)
    runs = []
    for size in options.sizes:
        runs.append(measure(size, options.rounds))
        print(json.dumps(runs[-1]), flush=True)
    return record(options.out, ["python", "benchmarks/weight_drop.py", *argv], rate=RATE, runs=runs)


if __name__ == "__main__":
    run(main)
