"""The continuous cache: a model also looks up what followed when it was last in a similar state.

    python -m gluonlm.evaluate runs/ptb --cache                  # parameters that suit the data set
    python -m gluonlm.evaluate runs/ptb --cache --theta 0.7 --lambdasm 0.2 --window 2000
    python -m gluonlm.evaluate runs/ptb --tune-cache             # search them on validation text

Grave, Joulin & Usunier 2017 (arXiv:1612.04426), equations 2 to 4. The cache holds the last W
entries (h_i, word that followed). With the attention a_i = softmax_i(theta h_t . h_i) over them,
the next word is w with probability

    lambda (sum of a_i whose word is w) + (1 - lambda) p_model(w),

and with p_model(w) alone where the cache is empty: at the first token, or throughout for a window
of 0. A window longer than the text holds all of it. Nothing is trained.

Shapes: T steps, N columns, C features, K entries in the window.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

import mxnet as mx
import numpy as np

from gluonlm.inference.predictor import Predictor
from gluonlm.inference.scoring import evaluate
from gluonlm.model.rnn import RNNModel
from gluonlm.system.errors import UserError
from gluonlm.text.vocabulary import Dictionary

STEPS = 256  # of the model at once
SHARPEST = 1e6  # theta: far less takes the nearest entry alone, and float32 has an end
SCORES = 1 << 20  # of queries by entries at once, at most: 4 MiB


@dataclass(frozen=True)
class CacheSettings:
    """How sharply the cache looks (theta), how far it is trusted (lambda) and reaches (window)."""

    theta: float = 1.0
    lambdasm: float = 0.1
    window: int = 500

    def __post_init__(self):
        if not 0 <= self.theta <= SHARPEST:
            raise UserError(f"--theta {self.theta}: must be at least 0 and at most {SHARPEST:g}")
        if not 0 <= self.lambdasm < 1:
            raise UserError(f"--lambdasm {self.lambdasm}: must be at least 0 and less than 1")
        if self.window < 0:
            raise UserError(f"--window {self.window}: must be at least 0")


# the AWD-LSTM toolkit's for its models
TUNED = {"ptb": CacheSettings(1.0, 0.1, 500), "wikitext-2": CacheSettings(0.662, 0.1279, 3785)}


@dataclass(frozen=True)
class Grid:
    """Values of the parameters whose combinations are evaluated, all in one pass over the text."""

    theta: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
    lambdasm: tuple[float, ...] = (0.02, 0.05, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3)
    window: tuple[int, ...] = (100, 250, 500, 1000, 2000, 4000)


Looked = tuple[slice, np.ndarray, np.ndarray]


class History:
    """The cache of one column of text: its last ``window`` entries, each a key (C,) and a word."""

    def __init__(self, window: int, size: int):
        self.window = window
        self.keys, self.words = np.empty((0, size), np.float32), np.empty(0, np.int32)

    def attend(self, features: np.ndarray, targets: np.ndarray) -> Iterator[Looked]:
        """What the next T steps look up, a few at a time; then they are entries themselves.

        :param features: (T, C) float32, the queries; :param targets: (T,) the words that follow.
        :return: yields which steps, the scores h_t . h_i (steps, K), and the entries' words (K,);
            the last entry is that of the step before the last, so that step s of n may look at
            entries up to K - n + s only.
        """
        past = len(self.keys)
        self.keys = np.concatenate([self.keys, features])
        self.words = np.concatenate([self.words, targets])
        reach = min(self.window, past + len(features))
        # queries at once: many make a fast product, but of n of them half the scores are masked
        size = min(max(64, reach // 4), max(1, SCORES // (reach + 1)))
        for begin in range(0, len(features), size):
            end = min(begin + size, len(features))
            newest = past + end - 1 if self.window else 0
            entries = slice(max(0, past + begin - self.window), newest)
            yield slice(begin, end), features[begin:end] @ self.keys[entries].T, self.words[entries]
        start = max(0, len(self.keys) - self.window)
        self.keys, self.words = self.keys[start:], self.words[start:]


def target_share(scores: np.ndarray, matches: np.ndarray, theta: float, window: int) -> np.ndarray:
    """The attention on the right word at each step, the sum of a_i over the target's entries: (n,)
    float32, NaN where there is no entry to look at.

    :param scores: h_t . h_i (n, K) of :meth:`History.attend`; :param matches: (n, K), whether entry
        i has the target.
    """
    rows = len(scores)
    reach = min(scores.shape[1], max(0, window + rows - 1 if window else 0))
    if not reach:
        return np.full(rows, np.nan, np.float32)
    scores, matches = scores[:, -reach:], matches[:, -reach:]
    weights = np.float32(theta) * scores
    mask_window(weights, window)
    # the first step of a text sees nothing: -inf - -inf is the NaN we promise
    with np.errstate(invalid="ignore"):
        weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    places = np.flatnonzero(matches)
    on_target = np.bincount(places // reach, weights.ravel()[places], minlength=rows)
    return (on_target / weights.sum(axis=1)).astype(np.float32)


def mask_window(scores: np.ndarray, window: int) -> None:
    """Set to -inf the scores (n, K) of entries that are too old for a step, or its own or later:
    two triangles at the ends."""
    rows, reach = scores.shape
    steps = np.arange(rows)[:, None]
    newest = reach - rows + steps  # the entry of the step before
    right = np.arange(max(0, reach - rows), reach)
    scores[:, right[0] :][right > newest] = -np.inf
    left = np.arange(min(rows, reach))
    scores[:, : len(left)][left <= newest - window] = -np.inf


CachedState = tuple[list, list[History]]


class CachedModel:
    """A model with a cache, for scoring's ``evaluate``: a loss for each point of a grid."""

    def __init__(self, model: RNNModel, grid: Grid, ctx: mx.Context | None = None):
        self.predictor, self.grid, self.steps = Predictor(model, ctx), grid, STEPS

    def begin_state(self, batch_size: int) -> CachedState:
        """The model's state, and for each column a cache of its own."""
        size = self.predictor.model.decoder.weight.shape[1]
        caches = [History(max(self.grid.window), size) for _ in range(batch_size)]
        return self.predictor.begin_state(batch_size), caches

    def losses(self, ids: np.ndarray, targets: np.ndarray, state: CachedState) -> tuple:
        """Ids and targets (T, N), a state -> losses (T, N, thetas, lambdas, windows), a state."""
        state, caches = state
        losses, features, state = self.predictor.read(ids, targets, state)  # (T, N), (T, N, C)
        features, of_model = features.asnumpy(), np.exp(-losses.astype(np.float64))
        grid = self.grid
        result = np.empty((*losses.shape, *map(len, (grid.theta, grid.lambdasm, grid.window))))
        for n, cache in enumerate(caches):
            keys = np.ascontiguousarray(features[:, n])
            for steps, scores, words in cache.attend(keys, targets[:, n]):
                matches = words == targets[steps, n][:, None]
                result[steps, n] = self._mixed(scores, matches, of_model[steps, n])
        return result, (state, caches)

    def _mixed(self, scores: np.ndarray, matches: np.ndarray, of_model: np.ndarray) -> np.ndarray:
        """-ln p (n, thetas, lambdas, windows) of n targets with probabilities ``of_model`` (n,)."""
        weight = np.array(self.grid.lambdasm)[:, None]
        losses = np.empty((len(of_model), len(self.grid.theta), len(weight), len(self.grid.window)))
        for i, theta in enumerate(self.grid.theta):
            for j, window in enumerate(self.grid.window):
                share = target_share(scores, matches, theta, window)
                mixed = weight * share + (1 - weight) * of_model  # (lambdas, n)
                losses[:, i, :, j] = -np.log(np.where(np.isnan(share), of_model, mixed)).T
        return losses


def cache_losses(
    model: RNNModel, ids: np.ndarray, dictionary: Dictionary, grid: Grid, batch_size=1, ctx=None
) -> np.ndarray:
    """Mean loss in nats per token with each combination of parameters (thetas, lambdas, windows)
    float64, in one pass over a text; a UserError when that is empty.

    :param batch_size: columns of the text, each with a cache of its own: more are faster and worse.
    :param ctx: the device; None for the model's first.
    """
    return evaluate(CachedModel(model, grid, ctx), ids, dictionary, batch_size)


def evaluate_with_cache(
    model: RNNModel, ids: np.ndarray, dictionary: Dictionary, settings: CacheSettings, **options
) -> float:
    """Mean loss in nats over every token of ``ids``; options are :func:`cache_losses`'s."""
    grid = Grid(*((value,) for value in astuple(settings)))
    return float(cache_losses(model, ids, dictionary, grid, **options).squeeze())


def tune(
    model: RNNModel, ids: np.ndarray, dictionary: Dictionary, fixed: dict[str, float], **options
) -> tuple[CacheSettings, float]:
    """The settings with the least loss on ``ids`` out of a grid, and that loss; ``fixed`` ones are
    not searched, ``options`` are :func:`cache_losses`'s."""
    windows = tuple(w for w in Grid.window if w < len(ids)) or (len(ids),)
    grid = replace(Grid(window=windows), **{name: (value,) for name, value in fixed.items()})
    losses = cache_losses(model, ids, dictionary, grid, **options)
    best = np.unravel_index(losses.argmin(), losses.shape)
    found = (values[index] for values, index in zip(astuple(grid), best))
    return CacheSettings(*found), float(losses[best])
