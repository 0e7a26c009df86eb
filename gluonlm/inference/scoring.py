"""The probability of a text: one loop for every model; how a loss is shown.

    >>> evaluate(model, ids, dictionary, batch_size=10)    # mean loss, nats per token
    >>> surprise(model, ids, dictionary.start_id)          # of each token

A model is anything with ``begin_state(N)``, ``losses(ids, targets, state) -> (losses (T, N, ...),
state)`` and ``steps``, how many steps of a text it wants at once: a Predictor, an ONNX session, a
model with a continuous cache.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gluonlm.text.batches import evaluation_batches, evaluation_columns
from gluonlm.text.vocabulary import Dictionary

SURPRISE_STEPS = 32  # tokens scored at once: their logits are an array of 32 x V


@dataclass(frozen=True)
class Score:
    """The result of an evaluation."""

    tokens: int
    unknown: int
    loss: float  # nats per token

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits(self) -> float:
        return bits(self.loss)


def bits(loss: float) -> float:
    """A loss in nats as bits."""
    return loss / math.log(2)


def perplexity(loss: float) -> float:
    """exp(loss) for a mean loss in nats per token, infinity where it overflows."""
    return math.inf if loss >= 700 else math.exp(loss)


def storable(perplexity: float) -> float:
    """A perplexity for JSON, which has no infinity."""
    return min(perplexity, sys.float_info.max)


def unit_of(level: str) -> str:
    """What a loss is shown as."""
    return "bits per character" if level == "char" else "perplexity"


def displayed(loss: float, level: str) -> str:
    """A mean loss in nats in that unit."""
    return f"{bits(loss):.4f}" if level == "char" else f"{perplexity(loss):.2f}"


def named(loss: float, level: str) -> str:
    """The same with the unit's name before it."""
    return f"{unit_of(level)} {displayed(loss, level)}"


def per_unit(dictionary: Dictionary, split: str | None, nats: float) -> dict[str, float]:
    """A text's total loss per word and per character of prose, which levels can be compared by;
    empty where gluonlm.prepare, which counts them, has not made the data set. Where "words" are of
    thousands of characters, as in DNA, they have no perplexity that is a number."""
    if not (sizes := dictionary.about.get("sizes", {}).get(split)):
        return {}
    per_word, per_character = nats / sizes["words"], nats / sizes["characters"]
    units = {"perplexity_per_word": perplexity(per_word), "bits_per_character": bits(per_character)}
    return {name: value for name, value in units.items() if math.isfinite(value)}


def units_shown(units: dict[str, float], loss: float) -> str:
    """The measures by which words, subwords and characters can be compared, if there are any beside
    the perplexity of ``loss`` itself."""
    others = {name: v for name, v in units.items() if not math.isclose(v, perplexity(loss))}
    return "".join(f" | {name.replace('_', ' ')} {value:.4f}" for name, value in others.items())


def evaluate(model, ids: np.ndarray, dictionary: Dictionary, batch_size: int):
    """Mean negative log-likelihood in nats over every token of ``ids``; its exp is the perplexity.

    The text is cut in ``batch_size`` columns that are read side by side from a zero state. Returns
    a float, or an array (...) of a model that gives several losses per token. Raises a UserError
    when ``ids`` is empty.
    """
    return total_loss(model, ids, dictionary, batch_size) / len(ids)


def total_loss(
    model, ids: np.ndarray, dictionary: Dictionary, batch_size: int, columns: slice = slice(None)
):
    """The sum of :func:`evaluate`'s losses over some of its columns: each worker takes its own."""
    batch_size = evaluation_columns(ids, batch_size)
    width, total = len(range(batch_size)[columns]), 0.0
    if not width:  # there may be more workers than columns
        return total
    state = model.begin_state(width)
    for batch in evaluation_batches(ids, dictionary.start_id, batch_size, model.steps):
        inputs, targets, mask = (array[:, columns] for array in batch)  # (T, N)
        losses, state = model.losses(inputs, targets, state)  # (T, N, ...)
        total = total + np.tensordot(mask.astype(np.float64), losses, 2)
    return total if np.ndim(total) else float(total)


def surprise(model, ids: Sequence[int], start_id: int) -> np.ndarray:
    """How surprising each token of a text is after those before it: -ln p, nats, float64 (tokens,);
    before the text stands ``start_id``, such as ``dictionary.start_id`` to begin a sentence."""
    ids, state, nats = np.asarray(ids, np.int32), model.begin_state(1), [np.empty(0)]
    for inputs, targets, _ in evaluation_batches(ids, start_id, 1, SURPRISE_STEPS):
        losses, state = model.losses(inputs, targets, state)  # (T, 1)
        nats.append(losses[:, 0].astype(np.float64))
    return np.concatenate(nats)
