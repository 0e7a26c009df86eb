"""The probability of a text: one loop for every model, whatever computes it.

    >>> evaluate(model, ids, dictionary, batch_size=10)    # mean loss, nats per token
    >>> surprise(model, ids, dictionary.start_id)          # of each token

A model is anything with ``begin_state(N)``, ``losses(ids, targets, state) -> (losses (T, N, ...),
state)`` and ``steps``, how many steps of a text it wants at once: a LanguageModel, a Predictor, an
ONNX session, a model with a continuous cache.
"""

import math
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
        """exp of the mean loss."""
        return math.exp(self.loss)

    @property
    def bits(self) -> float:
        """Mean loss in bits per token."""
        return self.loss / math.log(2)


def evaluate(model, ids: np.ndarray, dictionary: Dictionary, batch_size: int):
    """Mean negative log-likelihood in nats over every token of ``ids``; its exp is the perplexity.

    The text is cut in ``batch_size`` columns that are read side by side from a zero state.

    :return: a float; an array (...) of a model that gives several losses per token.
    :raises UserError: when ``ids`` is empty.
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
    """How surprising each token of a text is after those before it: -ln p, nats, float64 (tokens,).

    Its mean is the loss on the text, exp of that the perplexity; divided by ln 2 it is in bits.

    :param start_id: what stands before the text, ``dictionary.start_id`` to begin a sentence.
    """
    ids = np.asarray(ids, np.int64)
    inputs = np.concatenate([[start_id], ids[:-1]])[: len(ids), None]  # (T, 1)
    state, nats = model.begin_state(1), [np.empty(0)]
    for i in range(0, len(ids), SURPRISE_STEPS):
        part = slice(i, i + SURPRISE_STEPS)
        losses, state = model.losses(inputs[part], ids[part, None], state)
        nats.append(losses[:, 0].astype(np.float64))
    return np.concatenate(nats)
