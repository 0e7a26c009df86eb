"""What a model must beat: the perplexities of guessing, of counting words, of a Kneser-Ney trigram.

>>> from gluonlm.text.ngrams import baselines
>>> baselines(corpus.train, corpus.test, len(corpus.dictionary))  # Penn Treebank, rounded
{'uniform': 10000.0, 'unigram': 639.8, 'kneser_ney': 148.4}

All are proper distributions over the vocabulary that give no token the probability 0. They see the
text as one stream of ids, as the neural models do: ``<eos>`` is a token like any other. A million
tokens take about a second, memory is about 65 bytes for each training token.
"""

from typing import NamedTuple

import numpy as np


def baselines(train: np.ndarray, test: np.ndarray, vocab_size: int) -> dict[str, float]:
    """Perplexities on ``test`` of the three baselines that know ``train`` (ids (tokens,))."""
    return {
        "uniform": float(vocab_size),
        "unigram": unigram_perplexity(train, test, vocab_size),
        "kneser_ney": kneser_ney_perplexity(train, test, vocab_size),
    }


def unigram_perplexity(train: np.ndarray, test: np.ndarray, vocab_size: int) -> float:
    """Perplexity of the frequencies in ``train``: p(w) = (c(w) + 1) / (len(train) + V)."""
    counts = np.bincount(checked(train, vocab_size, "train"), minlength=vocab_size) + 1
    return perplexity((counts / counts.sum())[checked(test, vocab_size, "test")])


def kneser_ney_perplexity(
    train: np.ndarray, test: np.ndarray, vocab_size: int, order: int = 3
) -> float:
    """Perplexity of n-grams up to ``order`` tokens long; see :class:`KneserNey`."""
    model = KneserNey(train, vocab_size, order)
    return perplexity(model.probabilities(checked(test, vocab_size, "test")))


class Grams(NamedTuple):
    """The k-grams of one length k; a history is the index of a (k-1)-gram.

    ``kept`` is a count less its discount, c - D(c); ``total`` and ``freed`` are, of what follows a
    history, the counts c(h .) and the discounts taken from them, for level k-1 to share out.
    """

    keys: np.ndarray  # (types,) history * V + last token, sorted
    kept: np.ndarray  # (types,)
    total: np.ndarray  # (types of level k-1,)
    freed: np.ndarray  # (types of level k-1,)


class KneserNey:
    """Interpolated modified Kneser-Ney smoothing.

    p_k(w | h) = (c(h w) - D(c(h w)) + sum over v of D(c(h v)) p_{k-1}(w | h')) / c(h .)

    h' is h without its first token, p_0 = 1/V, and c is the number of occurrences at the highest
    order but, below it, N1+(. h w), the number of distinct tokens seen to the left. A history never
    seen passes p_{k-1} on. Source: Chen & Goodman, "An Empirical Study of Smoothing Techniques for
    Language Modeling", Harvard TR-10-98 (1998), where it is ``kneser-ney-mod``. Raises a ValueError
    when ``train`` is empty or has ids that are not below ``vocab_size``.
    """

    def __init__(self, train: np.ndarray, vocab_size: int, order: int = 3):
        tokens = checked(train, vocab_size, "train")
        self.vocab_size = vocab_size
        keys, counts = count_ngrams(tokens, vocab_size, min(order, len(tokens)))
        sizes = [1] + [len(k) for k in keys]  # one empty history stands before the first level
        self.levels = [discounted(k, c, n, vocab_size) for k, c, n in zip(keys, counts, sizes)]

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """p(token | the tokens before it) for each of ``tokens`` (n,): float64 (n,), all above 0;
        the first tokens have a shorter history, down to none."""
        tokens = checked(tokens, self.vocab_size, "tokens")
        p = np.full(len(tokens), 1 / self.vocab_size)
        grams = np.zeros(len(tokens) + 1, np.int64)  # that begin at each place; -1: not in the text
        for k, level in enumerate(self.levels, start=1):
            history, rest = grams[: max(len(tokens) - k + 1, 0)], p[k - 1 :]
            key = history * self.vocab_size + tokens[k - 1 :]
            index = np.searchsorted(level.keys, key).clip(max=len(level.keys) - 1)
            known = level.keys[index] == key  # never for history -1, whose keys are negative
            total = np.where(history >= 0, level.total[history], 0)
            mixed = np.where(known, level.kept[index], 0) + level.freed[history] * rest
            p[k - 1 :] = np.where(total > 0, mixed / np.maximum(total, 1), rest)
            grams = np.where(known, index, -1)
        return p


def count_ngrams(tokens: np.ndarray, vocab_size: int, order: int) -> tuple[list, list]:
    """Keys and counts (see :class:`Grams`) of the k-grams of ``tokens``, for k = 1 .. order."""
    all_keys, all_counts = [], []
    grams = np.zeros(len(tokens) + 1, np.int64)  # that begin at each place: first the empty one
    for k in range(1, order + 1):
        # Numbering the histories, not packing k tokens into one number, keeps keys below 2**63.
        keys, longer, occurrences = np.unique(
            grams[:-1] * vocab_size + tokens[k - 1 :], return_inverse=True, return_counts=True
        )
        if k > 1:
            suffix = np.empty(len(keys), np.int64)
            suffix[longer] = grams[1:]  # the same for every occurrence of a k-gram
            all_counts[-1] = np.bincount(suffix, minlength=len(all_keys[-1]))
        all_keys.append(keys)
        all_counts.append(occurrences)
        grams = longer
    return all_keys, all_counts


def discounted(keys: np.ndarray, counts: np.ndarray, histories: int, vocab_size: int) -> Grams:
    """The k-grams with these keys and counts, which follow so many histories."""
    history = keys // vocab_size
    taken = discounts(counts)[counts.clip(max=3)]
    total = np.bincount(history, weights=counts, minlength=histories)
    freed = np.bincount(history, weights=taken, minlength=histories)
    return Grams(keys, counts - taken, total, freed)


def discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of the counts 0, 1, 2 and 3 or more, from n_r, the n-grams counted r times.

    D_r = r - (r + 1) Y n_{r+1} / n_r with Y = n1 / (n1 + 2 n2). What a small or odd text leaves
    undefined or outside 0 < D_r < r becomes Y, which is plain Kneser-Ney's one discount, or 1/2 if
    that is undefined. The count 0, of an n-gram that has no left neighbor because the text begins
    with it, has nothing to give.
    """
    n = np.bincount(counts.clip(max=5), minlength=6)
    plain = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5
    found = [0.0]
    for r in (1, 2, 3):
        modified = r - (r + 1) * plain * n[r + 1] / n[r] if n[r] else 0.0
        found.append(modified if 0 < modified < r else plain)
    return np.array(found)


def checked(ids: np.ndarray, vocab_size: int, name: str) -> np.ndarray:
    """The ids as int64; raises ValueError if there are none or they do not fit the vocabulary."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or not len(ids) or ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"{name}: expected ids (n,) from 0 to {vocab_size - 1}, n at least 1")
    return ids.astype(np.int64, copy=False)


def perplexity(p: np.ndarray) -> float:
    """exp of the mean of -ln p."""
    return float(np.exp(-np.log(p).mean()))
