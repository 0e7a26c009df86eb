"""Does it pay to multiply by a pruned matrix in sparse form? CSR against dense products, on random
weights.

    python benchmarks/sparse.py
    python benchmarks/sparse.py --sparsities 0.95 --rows 1 20

The products are those of a model of 400 units: the decoder (10,000 x 400) and the recurrent one of
an LSTM layer (1,600 x 400), with so many vectors at once: 1 to 20 in writing text, 700 in
evaluation. ``csr`` is MXNet's product of a CSR matrix and a dense one; ``dense`` is the fastest of
MXNet's FullyConnected, NumPy's matrix product and a NumPy product for each vector. All ways take
turns; a time is the median of its turns.

``predict`` is a whole step of a pruned model, a word for each of so many texts, by
:class:`gluonlm.inference.predictor.Predictor` with a dense decoder and with one in CSR form.
Records results/sparse.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gluonlm  # noqa: F401  prepares threads
from gluonlm.cli import run
from gluonlm.compress.pruning import Pruner, prunable, without_smallest
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.model.checkpoint import build_model
from gluonlm.model.rnn import RNNModel
from gluonlm.system.machine import RESULTS, record
from gluonlm.training.optim import Updater

UNITS, VOCABULARY = 400, 10_000
PRODUCTS = {"decoder": (VOCABULARY, UNITS), "recurrent": (4 * UNITS, UNITS)}


def pruned_matrix(shape: tuple[int, int], sparsity: float) -> np.ndarray:
    """Random weights without the smallest ones."""
    matrix = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    kept = without_smallest(matrix, np.ones(shape, bool), round(sparsity * matrix.size))
    return np.where(kept, matrix, 0).astype(np.float32)


def csr_product(matrix: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that multiplies the (R, C) matrix in CSR form by B vectors (B, C) -> (B, R)."""
    from mxnet import nd  # here: gluonlm sets the process up before mxnet is imported

    sparse = nd.array(matrix).tostype("csr")
    return lambda vectors: np.ascontiguousarray(
        nd.sparse.dot(sparse, nd.array(vectors.T)).asnumpy().T
    )


def ways(matrix: np.ndarray, vectors: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that multiply the (R, C) matrix by B vectors (B, C) in different ways -> (B, R)."""
    from mxnet import nd

    dense, sparse = nd.array(matrix), csr_product(matrix)

    def fully_connected():
        return nd.FullyConnected(
            nd.array(vectors), dense, no_bias=True, num_hidden=len(matrix)
        ).asnumpy()

    return {
        "csr": lambda: sparse(vectors),
        "fully_connected": fully_connected,
        "numpy": lambda: vectors @ matrix.T,
        "numpy_by_vector": lambda: np.matmul(matrix, vectors[..., None])[..., 0],
    }


def measure(product: str, sparsity: float, rows: int, seconds: float) -> dict:
    """Milliseconds of each way, and how many times faster CSR is than the fastest dense one."""
    matrix = pruned_matrix(PRODUCTS[product], sparsity)
    vectors = np.random.default_rng(2).normal(size=(rows, UNITS)).astype(np.float32)
    functions = ways(matrix, vectors)
    if rows > 50:
        functions.pop("numpy_by_vector")  # hopeless, and slow enough to eat the time of the others
    answers = {name: function() for name, function in functions.items()}
    for name, answer in answers.items():
        if not np.allclose(answer, answers["numpy"], rtol=1e-3, atol=1e-3):
            raise SystemExit(
                f"{name} and numpy differ by {np.abs(answer - answers['numpy']).max()}"
            )
    times = {name: [] for name in functions}
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times["csr"]) < 3:
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    best = min(
        (name for name in functions if name != "csr"), key=lambda name: np.median(times[name])
    )
    ratios = np.array(times[best]) / np.array(times["csr"])
    figures = {"product": product, "sparsity": sparsity, "vectors": rows, "dense": best}
    figures |= {
        f"{name}_ms": float(f"{1e3 * np.median(values):.3g}") for name, values in times.items()
    }
    return {
        **figures,
        "csr_times_as_fast_as_dense": round(float(np.median(ratios)), 2),
        "turns": len(ratios),
    }


class SparsePredictor(Predictor):
    """A predictor whose decoder is a CSR matrix for any number of texts."""

    def __init__(self, model: RNNModel):
        super().__init__(model)
        self.product = csr_product(self.decoder[0])

    def decode(self, features: np.ndarray) -> np.ndarray:
        return self.product(features.reshape(-1, features.shape[-1])).reshape(
            *features.shape[:2], -1
        )


def measure_predict(sparsity: float, texts: int, seconds: float) -> dict:
    """Milliseconds of a whole step of a pruned model with the sparse and with the dense decoder."""
    model = build_model(Config(emsize=UNITS, nhid=UNITS, tied=True), VOCABULARY)
    pruner = Pruner(model, Updater(model.trainables(), "sgd", 0.0))
    pruner.prune(dict.fromkeys(prunable(model), sparsity))
    sparse, dense = SparsePredictor(model), Predictor(model)
    dense.sparse_weight = None
    state, ids, times = sparse.begin_state(texts), np.arange(texts)[None], ([], [])
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times[0]) < 4:
        for predictor, durations in zip((sparse, dense), times):
            started = time.perf_counter()
            predictor.predict(ids, state)
            durations.append(time.perf_counter() - started)
    sparse_times, dense_times = (
        np.array(durations[1:]) for durations in times
    )  # the first plans the graph
    return {
        "product": "predict",
        "sparsity": sparsity,
        "vectors": texts,
        "csr_ms": float(f"{1e3 * np.median(sparse_times):.3g}"),
        "dense_ms": float(f"{1e3 * np.median(dense_times):.3g}"),
        "csr_times_as_fast_as_dense": round(float(np.median(dense_times / sparse_times)), 2),
        "turns": len(sparse_times),
    }


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 2, 5, 10, 20, 100, 700], help="vectors at once"
    )
    parser.add_argument(
        "--texts", type=int, nargs="+", default=[1, 20, 50], help="texts at once in predict"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for each figure, all ways together"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "sparse.json", help="file to record the figures in"
    )
    options = parser.parse_args(argv)
    runs = []
    for product in PRODUCTS:
        for sparsity in options.sparsities:
            for rows in options.rows:
                runs.append(measure(product, sparsity, rows, options.seconds))
                print(json.dumps(runs[-1]), flush=True)
    for sparsity in options.sparsities:
        for texts in options.texts:
            runs.append(measure_predict(sparsity, texts, options.seconds))
            print(json.dumps(runs[-1]), flush=True)
    return record(options.out, ["python", "benchmarks/sparse.py", *argv], runs=runs)


if __name__ == "__main__":
    run(main)
