"""Does it pay to multiply by a pruned matrix in sparse form? CSR against dense products, on random weights.

    python benchmarks/sparse.py
    python benchmarks/sparse.py --sparsities 0.95 --rows 1 20

The products are those of a model of 400 units: the decoder (10,000 x 400) and the recurrent one of an LSTM layer
(1,600 x 400), with so many vectors at once: 1 to 20 in writing text, 700 in evaluation. ``csr`` is MXNet's product of
a CSR matrix and a dense one; ``dense`` is the fastest of MXNet's FullyConnected, NumPy's matrix product and a NumPy
product for each vector. All ways take turns; a time is the median of its turns. Records results/sparse.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gluonlm  # noqa: F401  prepares threads
from gluonlm.cli import run
from gluonlm.pruning import without_smallest
from gluonlm.results import FOLDER, record

UNITS, VOCABULARY = 400, 10_000
PRODUCTS = {"decoder": (VOCABULARY, UNITS), "recurrent": (4 * UNITS, UNITS)}


def pruned_matrix(shape: tuple[int, int], sparsity: float) -> np.ndarray:
    """Random weights without the smallest ones."""
    matrix = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    kept = without_smallest(matrix, np.ones(shape, bool), round(sparsity * matrix.size))
    return np.where(kept, matrix, 0).astype(np.float32)


def ways(matrix: np.ndarray, vectors: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that multiply the (R, C) matrix by B vectors (B, C) in different ways -> (B, R)."""
    from mxnet import nd

    outputs = len(matrix)
    dense, sparse, rows = nd.array(matrix), nd.array(matrix).tostype("csr"), nd.array(vectors)
    columns = nd.array(vectors.T)

    return {
        "csr": lambda: nd.sparse.dot(sparse, columns).asnumpy().T,
        "fully_connected": lambda: nd.FullyConnected(rows, dense, no_bias=True, num_hidden=outputs).asnumpy(),
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
            raise SystemExit(f"{name} and numpy differ by {np.abs(answer - answers['numpy']).max()}")
    times = {name: [] for name in functions}
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times["csr"]) < 3:
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    best = min((name for name in functions if name != "csr"), key=lambda name: np.median(times[name]))
    ratios = np.array(times[best]) / np.array(times["csr"])
    figures = {"product": product, "sparsity": sparsity, "vectors": rows, "dense": best}
    figures |= {f"{name}_ms": float(f"{1e3 * np.median(values):.3g}") for name, values in times.items()}
    return {**figures, "csr_times_as_fast_as_dense": round(float(np.median(ratios)), 2), "turns": len(ratios)}


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 5, 10, 20, 100, 700], help="vectors at once")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure, all ways together")
    parser.add_argument("--out", type=Path, default=FOLDER / "sparse.json", help="file to record the figures in")
    options = parser.parse_args(argv)
    runs = []
    for product in PRODUCTS:
        for sparsity in options.sparsities:
            for rows in options.rows:
                runs.append(measure(product, sparsity, rows, options.seconds))
                print(json.dumps(runs[-1]), flush=True)
    return record(options.out, ["python", "benchmarks/sparse.py", *argv], runs=runs)


if __name__ == "__main__":
    run(main)
