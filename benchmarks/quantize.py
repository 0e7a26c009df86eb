"""INT8 against float32: words per second of evaluating and of writing one word at a time, paired;
and MXNet's kernels.

    python benchmarks/quantize.py                               # untrained models
    python benchmarks/quantize.py --run runs/ptb --sizes 650    # a trained one, and 650 units

``float32`` is what evaluate and generate do with a model as training wrote it (MXNet, and NumPy for
single rows of the decoder); ``float32 onnx`` is the same model in ONNX Runtime. In each round all
variants take turns on the same random words, in one process; a ratio is one of the same round, and
the median over rounds is what counts. The weights of an untrained model are random, which changes
no time.

The second part asks MXNet 1.9.1 for its own 8-bit kernels: its quantized LSTM, on this processor as
it is and with oneDNN held back from VNNI, each in a process of its own; and its fully connected
product beside ONNX Runtime's. Records results/quantize.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import gluonlm
from gluonlm.cli import run
from gluonlm.compress.calibrate import Statistics, fingerprint, measure
from gluonlm.compress.compare import COLUMNS, Variant, clock
from gluonlm.compress.quantization import parts_of, quantize_model
from gluonlm.config import Config
from gluonlm.inference.language_model import LanguageModel
from gluonlm.model.checkpoint import Trained, build_model, load_model
from gluonlm.model.quantized import Scheme
from gluonlm.onnx.layers import build
from gluonlm.onnx.session import OnnxModel, describe
from gluonlm.system.machine import RESULTS, record
from gluonlm.text.corpus import EOS, Dictionary

V = 10_000
VARIANTS = {
    "float32": Scheme("fp32"),
    "int8 dynamic": Scheme(),
    "int8 averaged": Scheme(activations="averaged"),
}


class Onnx:
    """A float32 model in ONNX Runtime, with the two things that a :class:`Variant` does."""

    def __init__(self, trained: Trained):
        graph = build(
            trained.config, quantize_model(trained.model, {}), describe(trained), losses=True
        )
        session = OnnxModel(graph.SerializeToString())
        self.model = LanguageModel(session, *session.description(), trained.path)

    def loss(self, ids: np.ndarray) -> float:
        """Mean loss in nats per token."""
        return self.model.evaluate(ids, COLUMNS)

    write = Variant.write


def random_model(units: int) -> Trained:
    """An untrained two-layer LSTM, tied, of so many units."""
    config = Config(emsize=units, nhid=units, tied=True)
    return Trained(
        build_model(config, V),
        Dictionary([EOS, *(f"w{i}" for i in range(1, V))]),
        config,
        "word",
        Path(),
    )


def times_faster(trained: Trained, rounds: int, tokens: int, words: int) -> dict:
    """Words per second of each variant, how many times float32's they are, and the bytes of its
    file."""
    random = np.random.default_rng(1)
    ids = random.integers(len(trained.dictionary), size=tokens).astype(np.int32)
    statistics = Statistics(
        fingerprint(trained.model), "random words", 700, measure(trained.model, ids[:700])
    )
    parts = parts_of(trained.model)
    variants = {
        name: Variant(trained, dict.fromkeys(parts, scheme), statistics, gluonlm.load)
        for name, scheme in VARIANTS.items()
    }
    sides = {**variants, "float32 onnx": Onnx(trained)}
    seconds: dict[str, list] = {name: [] for name in sides}
    for seed in range(rounds + 1):
        for name, side in sides.items():
            evaluated = clock(lambda side=side: side.loss(ids))
            seconds[name].append(
                (evaluated, clock(lambda side=side, seed=seed: side.write(words, seed)))
            )
    times = {
        name: np.array(values[1:]) for name, values in seconds.items()
    }  # (rounds, 2); the first has warmed up
    sizes = {name: variant.bytes for name, variant in variants.items()}
    return {
        "bytes": sizes,
        "bytes_of_float32": {
            name: round(size / sizes["float32"], 4) for name, size in sizes.items()
        },
        **{
            f"{work}_{what}": figures
            for column, (work, count) in enumerate((("evaluating", tokens), ("writing", words)))
            for what, figures in {
                "words_per_second": {
                    name: round(count / float(np.median(t[:, column]))) for name, t in times.items()
                },
                "times_float32": {
                    name: spread(times["float32"][:, column] / t[:, column])
                    for name, t in times.items()
                    if name != "float32"
                },
            }.items()
        },
    }


def spread(ratios: np.ndarray) -> dict[str, float]:
    """Median and extremes."""
    figures = {"median": np.median(ratios), "low": ratios.min(), "high": ratios.max()}
    return {name: round(float(figure), 2) for name, figure in figures.items()}


def mxnet_kernels() -> dict:
    """What benchmarks/quantize_mxnet.py finds, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("quantize_mxnet.py"))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--run", help="a trained model to measure too")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[200, 650], help="units of untrained models"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=2100, help="to evaluate in a round")
    parser.add_argument("--words", type=int, default=100, help="to write in a round")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "quantize.json", help="file to record the figures in"
    )
    options = parser.parse_args(argv)
    models = {f"untrained, {units} units": random_model(units) for units in options.sizes}
    if options.run:
        trained = load_model(options.run)
        models = {f"{trained.config.data}, {trained.config.nhid} units, trained": trained} | models
    figures = {}
    for name, trained in models.items():
        figures[name] = times_faster(trained, options.rounds, options.tokens, options.words)
        print(name, json.dumps(figures[name]), flush=True)
    kernels = mxnet_kernels()
    print(json.dumps(kernels))
    return record(
        options.out,
        ["python", "benchmarks/quantize.py", *argv],
        threads=gluonlm.RUNTIME.threads,
        vocabulary=V,
        models=figures,
        mxnet_kernels=kernels,
    )


if __name__ == "__main__":
    run(main)
