"""Speed of the continuous cache against two loops over tokens, on the same features, and that all
agree.

    python benchmarks/cache.py
    python benchmarks/cache.py --tokens 5000 --windows 2000

The features and words are random; only the cache is timed, not the model under it. ``one_hot`` is
the loop of the AWD-LSTM toolkit and of gluon-nlp's CacheCell: the words of the window as a (W, V)
matrix of one-hot rows, summed under the attention for each token. ``lean`` is the same loop with
one matrix-vector product and one scatter a token. Each runs on the last tokens of the text only,
with a full window. Records results/cache.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import gluonlm  # noqa: F401  prepares threads
from gluonlm.cli import run
from gluonlm.inference.neural_cache import History, target_share
from gluonlm.system.machine import RESULTS, record

VOCABULARY, STEPS = 10_000, 256


def lean(features, words, of_model, theta, share, window, first) -> np.ndarray:
    """Probability of each word from ``first`` on, token by token."""
    probabilities = np.empty(len(words) - first)
    for t in range(first, len(words)):
        scores = theta * (features[t - window : t] @ features[t])
        weights = np.exp(scores - scores.max())
        mixed = np.zeros(VOCABULARY)
        np.add.at(mixed, words[t - window : t], share * weights / weights.sum())
        probabilities[t - first] = mixed[words[t]] + (1 - share) * of_model[t]
    return probabilities


def one_hot(features, words, of_model, theta, share, window, first) -> np.ndarray:
    """The same with the words as one-hot rows."""
    rows = np.zeros((len(words), VOCABULARY), np.float32)
    rows[np.arange(len(words)), words] = 1
    probabilities = np.empty(len(words) - first)
    for t in range(first, len(words)):
        scores = theta * (features[t - window : t] @ features[t])
        weights = np.exp(scores - scores.max())
        pointed = ((weights / weights.sum())[:, None] * rows[t - window : t]).sum(axis=0)
        probabilities[t - first] = share * pointed[words[t]] + (1 - share) * of_model[t]
    return probabilities


def vectorized(features, words, of_model, theta, share, window, first) -> np.ndarray:
    """The same by gluonlm.inference.neural_cache."""
    column, shares = History(window, features.shape[1]), np.empty(len(words), np.float32)
    column.keys, column.words = features[first - window : first], words[first - window : first]
    for begin in range(first, len(words), STEPS):
        part = slice(begin, begin + STEPS)
        for steps, scores, past in column.attend(features[part], words[part]):
            shares[part][steps] = target_share(
                scores, past == words[part][steps][:, None], theta, window
            )
    return share * shares[first:] + (1 - share) * of_model[first:]


def measure(window: int, tokens: int, size: int, repeats: int) -> dict:
    """Tokens per second of each way for a window, best of the repeats."""
    random = np.random.default_rng(1)
    total = window + tokens
    features = random.normal(scale=0.2, size=(total, size)).astype(np.float32)
    words = (random.zipf(1.3, size=total) % VOCABULARY).astype(np.int32)
    arguments = features, words, random.uniform(1e-6, 0.1, size=total), 1.0, 0.1, window
    counts = {vectorized: tokens, lean: tokens // 4, one_hot: 40}  # the slower, the fewer
    seconds, answers = dict.fromkeys(counts, np.inf), {}
    for way in tuple(counts) * repeats:
        started = time.perf_counter()
        answers[way] = way(*arguments, total - counts[way])
        seconds[way] = min(seconds[way], time.perf_counter() - started)
    figures = {"window": window, "tokens": tokens, "features": size}
    speeds = {way: counts[way] / seconds[way] for way in counts}
    for way, speed in speeds.items():
        figures[f"{way.__name__}_tokens_per_second"] = round(speed)
    for way in (lean, one_hot):
        error = np.abs(np.log(answers[way]) - np.log(answers[vectorized][-counts[way] :])).max()
        if error > 1e-4:
            raise SystemExit(f"{way.__name__} and vectorized differ by {error} nats")
        figures[f"times_faster_than_{way.__name__}"] = round(speeds[vectorized] / speeds[way], 1)
    return figures


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=400, help="features per token")
    parser.add_argument("--windows", type=int, nargs="+", default=[500, 3785])
    parser.add_argument("--repeats", type=int, default=5, help="the fastest counts")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "cache.json", help="file to record the figures in"
    )
    options = parser.parse_args(argv)
    runs = []
    for window in options.windows:
        runs.append(measure(window, options.tokens, options.size, options.repeats))
        print(json.dumps(runs[-1]), flush=True)
    return record(options.out, ["python", "benchmarks/cache.py", *argv], runs=runs)


if __name__ == "__main__":
    run(main)
