"""The baselines are distributions, equal a naive implementation with dictionaries, and stand odd
texts."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from gluonlm.text.ngrams import KneserNey, baselines, kneser_ney_perplexity, unigram_perplexity


def zipf_text(length: int, vocab_size: int, seed: int) -> np.ndarray:
    """Ids of falling frequency in which a token often depends on the one before."""
    rng = np.random.default_rng(seed)
    fresh = rng.zipf(1.4, length) % vocab_size
    copied = np.concatenate([[0], (fresh[:-1] * 3 + 1) % vocab_size])
    return np.where(rng.random(length) < 0.5, fresh, copied).astype(np.int32)


class NaiveKneserNey:
    """The formulas word for word, with dictionaries."""

    def __init__(self, train, vocab_size, order):
        self.vocab_size = vocab_size
        train = [int(w) for w in train]
        self.counts = []
        for k in range(1, order + 1):
            if k == order:
                self.counts.append(Counter(zip(*(train[i:] for i in range(k)))))
            else:
                longer = set(zip(*(train[i:] for i in range(k + 1))))
                self.counts.append(Counter(gram[1:] for gram in longer))
        self.counts_of_counts = [Counter(counts.values()) for counts in self.counts]
        self.followers = [defaultdict(list) for _ in self.counts]
        for counts, followers in zip(self.counts, self.followers):
            for gram, count in counts.items():
                followers[gram[:-1]].append(count)

    def discount(self, k, count):
        if count == 0:
            return 0.0
        n = self.counts_of_counts[k - 1]
        y = n[1] / (n[1] + 2 * n[2])
        r = min(count, 3)
        return r - (r + 1) * y * n[r + 1] / n[r]

    def probability(self, word, history):
        if len(history) >= len(self.counts):
            return self.probability(word, history[1:])
        lower = self.probability(word, history[1:]) if history else 1 / self.vocab_size
        k = len(history) + 1
        followers = self.followers[k - 1].get(history)
        if not followers:
            return lower
        count = self.counts[k - 1][(*history, word)]
        freed = sum(self.discount(k, c) for c in followers)
        return (count - self.discount(k, count) + freed * lower) / sum(followers)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_equals_the_naive_implementation(order):
    train, test = zipf_text(3000, 400, seed=0), zipf_text(300, 400, seed=1)
    naive = NaiveKneserNey(train, 400, order)
    words = [int(w) for w in test]
    expected = [
        naive.probability(w, tuple(words[max(0, i - order + 1) : i])) for i, w in enumerate(words)
    ]
    np.testing.assert_allclose(
        KneserNey(train, 400, order).probabilities(test), expected, rtol=1e-12
    )
    perplexity = math.exp(-sum(map(math.log, expected)) / len(expected))
    assert kneser_ney_perplexity(train, test, 400, order) == pytest.approx(perplexity, rel=1e-12)


ODD_TEXTS = {
    "ordinary": zipf_text(500, 6, seed=2),
    "one token": np.array([3]),
    "shorter than the order": np.array([3, 1]),
    "all different": np.arange(5),
    "all the same": np.zeros(50, np.int32),
    "nothing seen once": np.tile([0, 1, 2], 20),
    "a token only at the beginning": np.array([5, 0, 1, 0, 1, 1, 0, 0, 1, 0]),
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_conditional_probabilities_sum_to_one_and_are_positive(name):
    V = 6
    model = KneserNey(ODD_TEXTS[name], V)
    histories = [(), *itertools.product(range(V)), *itertools.product(range(V), repeat=2)]
    for history in histories:
        p = [model.probabilities(np.array([*history, w]))[-1] for w in range(V)]
        assert min(p) > 0
        assert sum(p) == pytest.approx(1, abs=1e-12), history


def test_only_the_last_two_tokens_of_the_history_matter_to_a_trigram():
    model = KneserNey(zipf_text(500, 6, seed=2), 6)
    assert (
        model.probabilities(np.array([5, 1, 2, 3]))[-1]
        == model.probabilities(np.array([0, 1, 2, 3]))[-1]
    )
    assert (
        model.probabilities(np.array([5, 4, 2, 3]))[-1]
        != model.probabilities(np.array([5, 0, 2, 3]))[-1]
    )


def test_unigram_by_hand():
    # counts 2, 1, 0 become 3, 2, 1 of 6: the test text [0, 2] has the probabilities 1/2 and 1/6
    assert unigram_perplexity(np.array([0, 0, 1]), np.array([0, 2]), 3) == pytest.approx(
        math.sqrt(12)
    )


def test_each_baseline_beats_the_simpler_one():
    train, test = zipf_text(20_000, 200, seed=3), zipf_text(2000, 200, seed=4)
    scores = baselines(train, test, 200)
    assert list(scores) == ["uniform", "unigram", "kneser_ney"]
    assert scores["kneser_ney"] < 0.7 * scores["unigram"] < 0.7 * scores["uniform"]
    assert scores["kneser_ney"] == kneser_ney_perplexity(train, test, 200, order=3)


def test_large_vocabularies_do_not_overflow():
    V = 2_000_000
    rng = np.random.default_rng(5)
    text = np.tile(rng.integers(V - 50, V, 20).astype(np.int32), 30)
    assert 1 < kneser_ney_perplexity(text, text, V, order=6) < 1.5


@pytest.mark.parametrize(
    "ids", [np.array([], np.int32), np.array([0, 7]), np.array([-1]), np.zeros((2, 2), int)]
)
def test_refuses_what_are_not_ids(ids):
    good = np.array([0, 1, 2])
    with pytest.raises(ValueError, match="train"):
        KneserNey(ids, 7)
    with pytest.raises(ValueError, match="test"):
        unigram_perplexity(good, ids, 7)


def test_without_any_context_all_tokens_are_alike():
    assert KneserNey(np.array([0, 1]), 4, order=0).probabilities([1, 3]).tolist() == [0.25, 0.25]
