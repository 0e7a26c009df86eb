"""The continuous cache: a trained model that also looks up what followed when it was last in a similar state.

    python -m gluonlm.evaluate runs/ptb --cache                      # parameters known to suit the data set
    python -m gluonlm.evaluate runs/ptb --cache --theta 0.7 --lambdasm 0.2 --window 2000
    python -m gluonlm.evaluate runs/ptb --tune-cache                 # search them on the validation text

Grave, Joulin & Usunier 2017 (arXiv:1612.04426), equations 2 to 4. The cache holds the last W pairs (h_i, word that
followed). With a_i = softmax_i(theta h_t . h_i) over them, the next word is w with probability

    lambda (sum of a_i whose word is w) + (1 - lambda) p_model(w),

and with p_model(w) alone where the cache is empty: at the first token, or throughout for a window of 0. A window
longer than the text holds all of it. Nothing is trained.

Shapes: T steps, C features, K pairs in reach.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mxnet as mx
import numpy as np
from mxnet import nd

from gluonlm.model.rnn import RNNModel
from gluonlm.model.softmax import decoder_loss
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import Dictionary, evaluation_batches, evaluation_columns

STEPS = 256  # of the model at once
SCORES = 1 << 20  # of queries by pairs at once, at most: 4 MiB


@dataclass(frozen=True)
class CacheSettings:
    """How sharply the cache looks (theta), how much it is trusted (lambda) and how far it reaches (window)."""

    theta: float = 1.0
    lambdasm: float = 0.1
    window: int = 500

    def __post_init__(self):
        if not 0 <= self.theta < math.inf:
            raise UserError(f"--theta {self.theta}: must be at least 0 and finite")
        if not 0 <= self.lambdasm < 1:
            raise UserError(f"--lambdasm {self.lambdasm}: must be at least 0 and less than 1")
        if self.window < 0:
            raise UserError(f"--window {self.window}: must be at least 0")


# the AWD-LSTM toolkit's for its models
TUNED = {"ptb": CacheSettings(1.0, 0.1, 500), "wikitext-2": CacheSettings(0.662, 0.1279, 3785)}
THETAS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
LAMBDAS = (0.02, 0.05, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3)
WINDOWS = (100, 250, 500, 1000, 2000, 4000)


class Column:
    """The pairs of one stretch of text that is read in order, the last ``window`` of them."""

    def __init__(self, window: int, size: int):
        self.window = window
        self.keys, self.words = np.empty((0, size), np.float32), np.empty(0, np.int32)

    def read(
        self, features: np.ndarray, targets: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """What the next T steps find, a few steps at a time; then their own pairs are in the cache.

        :param features: (T, C) float32; :param targets: (T,) the words that follow.
        :return: yields which steps, h_t . h_i (steps, K), and the pairs' words (K,); the last of the K pairs is
            that of the step before the last, so that step s of n may look at pairs up to K - n + s only.
        """
        past = len(self.keys)
        self.keys, self.words = (
            np.concatenate([self.keys, features]),
            np.concatenate([self.words, targets]),
        )
        reach = min(self.window, past + len(features))
        # queries at once: many make a fast product, but with n of them n / 2 pairs in each row are out of sight
        size = min(max(64, reach // 4), max(1, SCORES // (reach + 1)))
        for begin in range(0, len(features), size):
            end = min(begin + size, len(features))
            pairs = slice(max(0, past + begin - self.window), past + end - 1 if self.window else 0)
            yield slice(begin, end), features[begin:end] @ self.keys[pairs].T, self.words[pairs]
        start = max(0, len(self.keys) - self.window)
        self.keys, self.words = self.keys[start:], self.words[start:]


def target_share(scores: np.ndarray, found: np.ndarray, theta: float, window: int) -> np.ndarray:
    """The attention on the right word at each step: sum of a_i over the pairs whose word is the target.

    :param scores: h_t . h_i (n, K) of :meth:`Column.read`; :param found: whether pair i's word is the target (n, K).
    :return: (n,) float32, NaN where there is no pair to look at.
    """
    rows = len(scores)
    reach = min(scores.shape[1], max(0, window + rows - 1 if window else 0))
    scores, found = scores[:, scores.shape[1] - reach :], found[:, found.shape[1] - reach :]
    if not reach:
        return np.full(rows, np.nan, np.float32)
    weights = np.float32(theta) * scores
    out_of_sight(weights, window)
    with np.errstate(
        invalid="ignore"
    ):  # the first step of a text sees nothing: -inf - -inf is the NaN we promise
        weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    places = np.flatnonzero(found)
    on_target = np.bincount(places // reach, weights.ravel()[places], minlength=rows)
    return (on_target / weights.sum(axis=1)).astype(np.float32)


def out_of_sight(scores: np.ndarray, window: int) -> None:
    """Set to -inf the scores (n, K) of pairs that are too old for a step, or its own or later ones.

    These are two triangles at the left and the right end, so that most of the scores need not be looked at.
    """
    rows, reach = scores.shape
    steps = np.arange(rows)[:, None]
    newest = reach - rows + steps  # the pair of the step before
    right = np.arange(max(0, reach - rows), reach)
    scores[:, right[0] :][right > newest] = -np.inf
    left = np.arange(min(rows, reach))
    scores[:, : len(left)][left <= newest - window] = -np.inf


def cache_losses(
    model: RNNModel,
    ids: np.ndarray,
    dictionary: Dictionary,
    thetas: Sequence[float],
    lambdas: Sequence[float],
    windows: Sequence[int],
    batch_size: int = 1,
    ctx: mx.Context | None = None,
) -> np.ndarray:
    """Mean loss in nats per token with each combination of parameters, in one pass over a text of any length.

    :param batch_size: columns the text is cut in; each has a cache of its own, so that more are faster and worse.
    :return: (thetas, lambdas, windows) float64.
    :raises UserError: when ``ids`` is empty.
    """
    batch_size = evaluation_columns(ids, batch_size)
    totals = np.zeros((len(thetas), len(lambdas), len(windows)))
    weight_of_cache = np.array(lambdas)[:, None]
    state, columns = model.begin_state(batch_size, ctx), None
    for data, target, mask in evaluation_batches(ids, dictionary.start_id, batch_size, STEPS):
        features, state = model.body(nd.array(data, ctx), state)  # (T, N, C)
        losses = decoder_loss(model, features, nd.array(target, ctx)).asnumpy()
        of_model = np.exp(
            -losses.reshape(target.shape).astype(np.float64)
        )  # (T, N) probability of each target
        features = features.asnumpy()
        columns = columns or [Column(max(windows), features.shape[-1]) for _ in range(batch_size)]
        for n, column in enumerate(columns):
            for steps, scores, words in column.read(
                np.ascontiguousarray(features[:, n]), target[:, n]
            ):
                found, p = words == target[steps, n][:, None], of_model[steps, n]
                for i, theta in enumerate(thetas):
                    for j, window in enumerate(windows):
                        share = target_share(scores, found, theta, window)
                        mixed = weight_of_cache * share + (1 - weight_of_cache) * p  # (lambdas, n)
                        logs = np.log(np.where(np.isnan(share), p, mixed))
                        totals[i, :, j] -= logs @ mask[steps, n]
    return totals / len(ids)


def evaluate_with_cache(
    model: RNNModel,
    ids: np.ndarray,
    dictionary: Dictionary,
    settings: CacheSettings,
    batch_size: int = 1,
    ctx: mx.Context | None = None,
) -> float:
    """Mean negative log-likelihood in nats over every token of ``ids`` under model and cache."""
    grid = ([settings.theta], [settings.lambdasm], [settings.window])
    return float(cache_losses(model, ids, dictionary, *grid, batch_size, ctx)[0, 0, 0])


def tune(
    model: RNNModel,
    ids: np.ndarray,
    dictionary: Dictionary,
    fixed: dict[str, float],
    batch_size: int = 1,
    ctx: mx.Context | None = None,
) -> tuple[CacheSettings, float]:
    """The settings with the least loss on ``ids`` out of a grid, and that loss.

    :param fixed: settings not to be searched, by name.
    """
    grid = {
        "theta": THETAS,
        "lambdasm": LAMBDAS,
        "window": tuple(w for w in WINDOWS if w < len(ids)) or (len(ids),),
    }
    grid |= {name: (value,) for name, value in fixed.items()}
    losses = cache_losses(model, ids, dictionary, *grid.values(), batch_size, ctx)
    best = np.unravel_index(losses.argmin(), losses.shape)
    values = {name: values[index] for (name, values), index in zip(grid.items(), best, strict=True)}
    return CacheSettings(**values), float(losses[best])
