"""Beam search: the most probable text instead of one that is drawn.

    >>> beam_search(predictor, dictionary, width=5, length=20)[0].ids

A beam of V^length loses nothing: its first result is the true best.

gluonnlp 0.10 has a BeamSearchSampler, and a test compares ours with it. It holds places among
width x V as float32, exact only up to 2^24, needs an ``<eos>``, and has no way to forbid words.
"""

import math
from typing import NamedTuple

import numpy as np

from gluonlm.inference.sampling import PLAIN, Ids, check, check_least, discourage, log_softmax, read
from gluonlm.text.vocabulary import Dictionary


class Hypothesis(NamedTuple):
    """A text that beam search has found."""

    ids: np.ndarray
    log_probability: float  # natural logarithm, of all its tokens


def beam_search(
    predictor, dictionary: Dictionary, prompt: Ids = (), length=100, width=5, strategy=PLAIN
) -> list[Hypothesis]:
    """Look for the most probable continuation, keeping the ``width`` best beginnings at each step.

    Of the strategy, what it forbids, its rules against repetition and its number of sentences
    count; ``length`` is as in :func:`~gluonlm.inference.sampling.generate`.

    :return: at most ``width`` texts, the most probable first.
    :raises UserError: when a number makes no sense.
    """
    end = check(dictionary, length, strategy)
    check_least("beam", width, 1)
    done: list[Hypothesis] = []
    logits, state = read(predictor, prompt, dictionary.start_id, 1)
    texts, scores = np.array([prompt], np.int64), np.zeros(1)  # (n, t), (n,)
    for step in range(length):
        log_p = log_softmax(discourage(logits, texts, strategy, end), strategy.forbidden)  # (n, V)
        parents, tokens, scores = best_extensions(scores, log_p, width)
        texts = np.concatenate([texts[parents], tokens[:, None]], axis=1)
        written = texts[:, len(prompt) :]
        complete = (written == end).sum(axis=1) >= (strategy.sentences or math.inf)
        finished = complete | (step == length - 1)
        done += map(Hypothesis, written[finished], scores[finished].tolist())
        done = sorted(done, key=lambda text: -text.log_probability)[:width]
        # a beginning behind `width` complete texts already will never come before them
        going = ~finished & (scores > done[-1].log_probability if len(done) == width else True)
        if not going.any():
            break
        texts, scores, parents = texts[going], scores[going], parents[going]
        state = [array[:, parents] for array in state]
        (logits,), state = predictor.predict(texts[None, :, -1], state)
    return done


def best_extensions(
    scores: np.ndarray, log_p: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best texts of scores (n,) that are a token longer: which text, which token, score."""
    extended = scores[:, None] + log_p  # (n, V)
    parents, tokens = np.divmod(largest(extended.ravel(), width), extended.shape[1])
    return parents, tokens, extended[parents, tokens]


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the ``count`` largest finite numbers, largest first, earlier before later."""
    least = np.partition(values, -count)[-count] if count < len(values) else -math.inf
    places = np.flatnonzero(values >= least)
    places = places[np.argsort(-values[places], kind="stable")][:count]
    return places[np.isfinite(values[places])]
