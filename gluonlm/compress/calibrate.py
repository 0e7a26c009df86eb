"""How large the activations of a model get: measured on training text, saved, made ranges.

    >>> statistics = calibrate(trained)                       # reads the training text only
    >>> statistics.save(Path("runs/ptb/statistics.json"))
    >>> statistics.ranges["layer0"]["kl"]
    (-0.78, 0.81)

The signals are the vectors that matrices multiply: ``embedding`` (the input of the first layer),
``layer0``, ``layer1``, ... (a layer's outputs: its own next state, and the input of what follows)
and ``projection``. Three ranges of each:

- ``extremes``: the lowest and the highest value seen;
- ``averaged``: the lowest and the highest value of each sample, averaged over samples; a sample is
  one column of one segment. Rare large values are clipped, and the many others get finer steps;
- ``kl``: from -t to t within the extremes, with the threshold t at which the quantized histogram
  differs least from the measured one, in Kullback-Leibler divergence (Migacz 2017, GTC talk S7310;
  the search is MXNet's).
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx
import numpy as np

from gluonlm.compress.quantization import LEVELS
from gluonlm.model.checkpoint import Trained, read_json
from gluonlm.model.quantized import CLIPS, Ranges
from gluonlm.model.rnn import RNNModel
from gluonlm.model.storage import digest
from gluonlm.model.weights import named_arrays
from gluonlm.system.errors import UserError
from gluonlm.system.files import write_output
from gluonlm.system.typed import typed
from gluonlm.text.batches import batchify
from gluonlm.text.corpus import read_split

TOKENS, COLUMNS, STEPS = 10_000, 10, 35
BINS = 2049  # of the histogram, as its inventor has; the search's time grows with their square


@dataclass(frozen=True)
class Statistics:
    """The measured ranges of a model's signals."""

    model: str  # its fingerprint
    source: str  # the text
    tokens: int  # of it that were read
    ranges: dict[str, Ranges]  # [signal][clip]: low, high

    def save(self, path: Path) -> None:
        """Write the statistics as JSON."""
        write_output(path, (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode())


def read_statistics(path: Path, model: RNNModel) -> Statistics:
    """The statistics in a file; a UserError when they are missing, damaged or of another model."""
    try:
        statistics = typed(read_json(path), Statistics, "it")
        if any(set(clips) != set(CLIPS) for clips in statistics.ranges.values()):
            raise ValueError(f"a signal has other ranges than {', '.join(CLIPS)}")
        if statistics.model != fingerprint(model):
            raise ValueError("they are of a model with other weights")
        return statistics
    except ValueError as error:
        lacking = f"{path} has no statistics of this model's activations ({error})"
        raise UserError(f"{lacking}: measure them anew, without --statistics") from None


def fingerprint(model: RNNModel) -> str:
    """A number that changes with any of the model's weights."""
    return digest(named_arrays(model), {})[:16]


def calibrate(trained: Trained, tokens: int = TOKENS) -> Statistics:
    """Measure a trained model on the beginning of the text that it was trained on; no other text is
    opened. A UserError when that text is not here or shorter than a segment."""
    ids = read_split(trained.config.data, "train", trained.dictionary, trained.level)[:tokens]
    source, ranges = Path(trained.config.data).name, measure(trained.model, ids)
    return Statistics(fingerprint(trained.model), source, len(ids), ranges)


def measure(model: RNNModel, ids: np.ndarray) -> dict[str, Ranges]:
    """The ranges of all signals while the model reads a text (tokens,)."""
    segments: dict[str, list[np.ndarray]] = {}
    for name, values in signals(model, ids):
        segments.setdefault(name, []).append(values)
    return {name: ranges_of(arrays) for name, arrays in segments.items()}


def signals(
    model: RNNModel, ids: np.ndarray, ctx: mx.Context | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, values (T, N, C)) of each signal while the model reads a text (tokens,)."""
    columns = batchify(ids, COLUMNS)  # (L, N)
    body, state = model.body, model.begin_state(COLUMNS, ctx)
    for start in range(0, len(columns), STEPS):
        hidden, new_state = body.encoder(mx.nd.array(columns[start : start + STEPS], ctx)), []
        yield "embedding", hidden.asnumpy()
        for index, layer in enumerate(body.layers):
            before, state = state[: layer.state_count], state[layer.state_count :]
            hidden, layer_state = layer(hidden, before)
            new_state += layer_state
            yield f"layer{index}", hidden.asnumpy()
        if body.projection:
            yield "projection", body.projection(hidden).asnumpy()
        state = new_state


def ranges_of(segments: list[np.ndarray]) -> Ranges:
    """The range of a signal by each kind of clipping, from its values (T, N, C) in segments."""
    lows = np.concatenate([array.min(axis=(0, 2)) for array in segments])
    highs = np.concatenate([array.max(axis=(0, 2)) for array in segments])
    low, high = float(lows.min()), float(highs.max())
    threshold = kl_threshold(np.concatenate([array.ravel() for array in segments]))
    return {
        "extremes": (low, high),
        "averaged": (float(lows.mean()), float(highs.mean())),
        "kl": (max(low, -threshold), min(high, threshold)),
    }


def kl_threshold(values: np.ndarray) -> float:
    """The magnitude at which to clip for a histogram of 255 levels nearest to the values' own."""
    largest = float(np.abs(values).max())
    if largest == 0:
        return 0.0
    histogram = map(mx.nd.array, np.histogram(values, bins=BINS, range=(-largest, largest)))
    threshold, _ = mx.nd.contrib.calibrate_entropy(*histogram, num_quantized_bins=LEVELS)
    return float(threshold.asscalar())
