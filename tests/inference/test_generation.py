"""Choosing words: exactly the distribution that was asked for, the best text that there is, one
stream per sample."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from gluonnlp.model.sequence_sampler import BeamSearchSampler, BeamSearchScorer, SequenceSampler
from mxnet import nd

from gluonlm.config import MODELS
from gluonlm.inference.beam import beam_search
from gluonlm.inference.predictor import FEW_ROWS, Predictor
from gluonlm.inference.sampling import (
    Strategy,
    choose,
    discourage,
    generate,
    log_softmax,
    repeated,
    stream,
    weights,
)
from gluonlm.inference.scoring import surprise
from gluonlm.model.rnn import RNNModel
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import EOS, UNK, Dictionary
from gluonlm.training.loop import evaluate

LETTERS = Dictionary([EOS, "a", "b", UNK])
V = len(LETTERS)


class Toy:
    """A predictor whose next token depends on all before it, by a table of random numbers."""

    def __init__(self, seed=0):
        self.table = np.random.default_rng(seed).normal(size=(10_007, V), scale=1.5)

    def begin_state(self, batch_size):
        return [np.zeros((1, batch_size, 1), np.int64)]

    def predict(self, ids, state):
        (code,), rows = state, []  # the text so far as a number
        for row in np.asarray(ids):  # (N,)
            code = (code * V + row[None, :, None] + 1) % len(self.table)
            rows.append(self.table[code[0, :, 0]])
        return np.array(rows, np.float32), [code]


def log_probability(predictor, ids, before=(0,), forbidden=()):
    """Of a text after another one, token by token: the definition."""
    state, total = predictor.begin_state(1), 0.0
    for token in before:
        logits, state = predictor.predict([[token]], state)
    for token in ids:
        total += log_softmax(logits[0, 0], forbidden)[token]
        logits, state = predictor.predict([[token]], state)
    return total


def all_texts(length, sentences=None):
    """Every text of so many tokens, or that ends before with so many sentences."""
    for ids in itertools.product(range(V), repeat=length):
        ends = [place + 1 for place, token in enumerate(ids) if token == LETTERS.eos_id]
        yield ids[: ends[sentences - 1]] if sentences and len(ends) >= sentences else ids


# ------------------------------------------------------------------------------------------------
# beam search


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("sentences", "forbidden"), [(None, ()), (1, ()), (2, ()), (1, (3,)), (None, (1, 3))]
)
def test_a_beam_of_all_texts_finds_the_true_best_ones(seed, sentences, forbidden):
    toy, length, prompt = Toy(seed), 5, [1, 2]
    texts = {text for text in all_texts(length, sentences) if not set(text) & set(forbidden)}
    true = sorted(
        ((log_probability(toy, t, [0, *prompt], forbidden), t) for t in texts), reverse=True
    )
    strategy = Strategy(forbidden=forbidden, sentences=sentences)
    found = beam_search(toy, LETTERS, prompt, length, V**length, strategy)
    assert len(found) == len(true)
    for hypothesis, (expected, ids) in zip(found[:20], true, strict=False):
        assert tuple(hypothesis.ids) == ids
        assert hypothesis.log_probability == pytest.approx(expected, rel=1e-5)


def test_a_narrow_beam_finds_real_texts_and_a_wider_one_no_worse_here():
    toy, best = Toy(33), []
    for width in (1, 2, 4, 16):
        found = beam_search(toy, LETTERS, length=6, width=width)
        assert len(found) == width
        scores = [hypothesis.log_probability for hypothesis in found]
        assert scores == sorted(scores, reverse=True)
        assert found[0].log_probability == pytest.approx(
            log_probability(toy, found[0].ids), rel=1e-5
        )
        best.append(scores[0])
    assert best == sorted(best)
    assert (
        best[0] < best[-1]
    )  # greedy is not the best here: the test would not notice a beam that is no beam


def test_a_beam_of_one_is_greedy():
    for seed in range(5):
        (greedy,) = generate(Toy(seed), LETTERS, length=9, strategy=Strategy(greedy=True))
        (beam,) = beam_search(Toy(seed), LETTERS, length=9, width=1)
        assert beam.ids.tolist() == greedy.tolist()


class Batched:
    """A toy as gluonnlp wants a decoder: the batch first, logarithms of probabilities."""

    def __init__(self, toy):
        self.toy = toy

    def __call__(self, tokens, state):
        logits, (new,) = self.toy.predict(
            tokens.asnumpy().astype(int)[None], [state.asnumpy().astype(int)[None]]
        )
        return nd.array(log_softmax(logits[0])), nd.array(new[0])


@pytest.mark.parametrize("seed", range(3))
def test_beam_search_agrees_with_gluonnlp(seed):
    scorer = BeamSearchScorer(alpha=0)
    sampler = BeamSearchSampler(
        V**3, Batched(Toy(seed)), eos_id=LETTERS.eos_id, scorer=scorer, max_length=3
    )
    samples, scores, lengths = sampler(nd.array([LETTERS.start_id]), nd.zeros((1, 1)))
    found = beam_search(Toy(seed), LETTERS, (), 3, V**3, Strategy(sentences=1))
    for index, hypothesis in enumerate(found[:10]):
        theirs = (
            samples[0, index, 1 : 1 + len(hypothesis.ids)].asnumpy().tolist()
        )  # it appends an <eos> to the longest
        assert theirs == hypothesis.ids.tolist()
        assert hypothesis.log_probability == pytest.approx(scores[0, index].asscalar(), rel=1e-4)


# --------------------------------------------------------------------------------------------------
# sampling

LOGITS = np.array([0.1, 3.0, 1.0, 2.0, -5.0, 0.0, 2.2, 1.7], np.float32)


def expected(temperature=1.0, top_k=None, top_p=None, forbidden=()):
    """The distribution by its definition, with plain Python numbers."""
    scores = {
        token: float(x) / temperature for token, x in enumerate(LOGITS) if token not in forbidden
    }
    order = sorted(scores, key=scores.get, reverse=True)[:top_k]
    total = sum(math.exp(scores[token]) for token in order)
    p = {token: math.exp(scores[token]) / total for token in order}
    if top_p is not None:
        sums = list(itertools.accumulate(p[token] for token in order))
        order = order[: next(n for n, mass in enumerate(sums, 1) if mass >= top_p - 1e-12)]
    total = sum(p[token] for token in order)
    return np.array([p[token] / total if token in order else 0 for token in range(len(LOGITS))])


SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.5},
    {"top_k": 3},
    {"top_k": 1},
    {"top_k": 100},
    {"top_p": 0.6},
    {"top_p": 0.95},
    {"top_p": 1.0},
    {"top_p": 1e-9},
    {"temperature": 1.7, "top_k": 6, "top_p": 0.8},
    {"forbidden": (1, 6)},
    {"forbidden": (1,), "top_k": 2, "temperature": 0.7},
    {"forbidden": (1,), "top_p": 0.5},
]


@pytest.fixture(scope="module")
def streams():
    """Random streams that have drawn their first number: to make so many takes longer than all
    else."""
    drawn = [np.random.default_rng([7, sample]).random() for sample in range(20_000)]
    return [SimpleNamespace(random=lambda first=first: first) for first in drawn]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_drawn_as_often_as_they_should_be(settings, streams):
    strategy, draws = Strategy(**settings), len(streams)
    p = expected(**settings)
    given = weights(np.stack([LOGITS, LOGITS + 5]), strategy)
    np.testing.assert_allclose(given / given.sum(1, keepdims=True), [p, p], atol=1e-6)

    counts = np.bincount(choose(np.tile(LOGITS, (draws, 1)), strategy, streams), minlength=len(p))
    assert (counts[p == 0] == 0).all()
    possible = p > 0
    chi_square = ((counts - draws * p)[possible] ** 2 / (draws * p[possible])).sum()
    freedom = possible.sum() - 1
    # a chi-square has mean k and variance 2 k; beyond 5 standard deviations and a bit lies less
    # than one in 10^4
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 3


def test_the_chi_square_would_notice_another_temperature(streams):
    draws = len(streams)
    counts = np.bincount(
        choose(np.tile(LOGITS, (draws, 1)), Strategy(temperature=1.1), streams), minlength=8
    )
    assert ((counts - draws * expected()) ** 2 / (draws * expected())).sum() > 100


def test_top_p_looks_beyond_its_first_guess():
    flat = np.zeros((1, 3000), np.float32)
    flat[0, 100] = 1e-3  # the most probable one, by a hair
    kept = weights(flat, Strategy(top_p=0.5))[0]
    assert abs(int((kept > 0).sum()) - 1500) <= 1
    assert kept[100] == 1


def test_gluonnlp_top_k_is_not_top_k():
    """Why we do not use its SequenceSampler: it keeps words by the places of the best, not by their
    ranks."""

    def decoder(tokens, state):
        return nd.array(np.tile(LOGITS[:6], (len(tokens), 1))), state

    mx.random.seed(1)
    sampler = SequenceSampler(beam_size=300, decoder=decoder, eos_id=4, max_length=1, top_k=2)
    samples, _, _ = sampler(nd.array([0]), [nd.zeros((1, 1))])
    assert set(samples[0, :, 1].asnumpy().tolist()) != {1, 3}  # the two best


# ------------------------------------------------------------------------------------------- on a
# real model


def make(mode="LSTM", vocab_size=30, **settings):
    mx.random.seed(4)
    model = RNNModel(
        vocab_size, mode, **{"emsize": 8, "nhid": 12, "nlayers": 2, "tied": True, **settings}
    )
    model.initialize(mx.init.Uniform(1.0))
    model.hybridize(static_alloc=True)
    return model


WORDS = Dictionary([EOS, UNK, *(f"w{number}" for number in range(28))])


@pytest.mark.parametrize("mode", MODELS)
@pytest.mark.parametrize("columns", [1, 3, FEW_ROWS + 1])
def test_the_predictor_is_the_model_and_carries_the_state(mode, columns):
    model = make(mode)
    text = np.random.default_rng(2).integers(30, size=(9, columns))
    whole, end = model(nd.array(text), model.begin_state(columns))
    predictor = Predictor(model)
    state, rows = predictor.begin_state(columns), []
    for part in (text[:4], *text[4:, None]):  # four tokens at once, then one by one
        logits, state = predictor.predict(part, state)
        rows.append(logits)
    np.testing.assert_allclose(np.concatenate(rows), whole.asnumpy(), rtol=1e-4, atol=1e-5)
    for one, other in zip(state, end, strict=True):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-4, atol=1e-5)


def test_a_state_can_be_used_twice():
    predictor = Predictor(make())
    _, state = predictor.predict([[5]], predictor.begin_state(1))
    first, _ = predictor.predict([[7]], state)
    predictor.predict([[9]], state)
    again, _ = predictor.predict([[7]], state)
    np.testing.assert_array_equal(first, again)


def test_the_predictor_leaves_the_model_as_it_was():
    model = make()
    flags = dict(model.body._flags)
    Predictor(model).predict([[1]], model.begin_state(1))
    assert dict(model.body._flags) == flags


@pytest.mark.parametrize("prompt", [(), (3, 5, 8)])
def test_greedy_is_argmax(prompt):
    model = make()
    (ids,) = generate(Predictor(model), WORDS, prompt, 15, Strategy(greedy=True))
    text = [WORDS.start_id, *prompt]
    for token in ids:
        logits, _ = model(nd.array(text).expand_dims(1), model.begin_state(1))
        assert token == int(logits[-1, 0].argmax(0).asscalar())
        text.append(token)


def test_a_sample_does_not_depend_on_how_many_there_are():
    predictor = Predictor(make())
    strategy = Strategy(temperature=1.3, top_k=20, top_p=0.95, seed=9)
    many, few, (one,) = (
        generate(predictor, WORDS, [4], 40, replace(strategy, samples=samples))
        for samples in (FEW_ROWS + 4, 3, 1)
    )
    assert many[0].tolist() == few[0].tolist() == one.tolist()
    assert many[2].tolist() == few[2].tolist()
    assert len({tuple(sample) for sample in many}) == len(many)


def test_the_seed_decides():
    predictor = Predictor(make())
    texts = [
        generate(predictor, WORDS, length=30, strategy=Strategy(seed=seed))[0].tolist()
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_forbidden_tokens_are_not_written():
    predictor = Predictor(make())
    plain = np.concatenate(generate(predictor, WORDS, (), 60, Strategy(samples=20)))
    assert {WORDS.unk_id, WORDS.eos_id} <= set(plain)
    for greedy in (False, True):
        strategy = Strategy(forbidden=(0, 1), greedy=greedy, samples=20)
        assert not {0, 1} & set(np.concatenate(generate(predictor, WORDS, (), 60, strategy)))
    assert not {0, 1} & set(
        beam_search(predictor, WORDS, (), 60, 4, Strategy(forbidden=(0, 1)))[0].ids
    )


def test_sentences_end_a_sample():
    predictor = Predictor(make())
    texts = generate(predictor, WORDS, length=500, strategy=Strategy(samples=6, sentences=2))
    for ids in texts:
        assert ids[-1] == WORDS.eos_id
        assert (ids == WORDS.eos_id).sum() == 2
    assert len({len(ids) for ids in texts}) > 1
    without = generate(predictor, WORDS, length=500, strategy=Strategy(samples=6))
    for ids, longer in zip(texts, without, strict=True):
        assert ids.tolist() == longer[: len(ids)].tolist()
    short = generate(predictor, WORDS, length=1, strategy=Strategy(samples=2, sentences=9))
    assert [len(ids) for ids in short] == [1, 1]


def test_words_come_one_by_one():
    calls = []

    class Counted(Toy):
        def predict(self, ids, state):
            calls.append(len(ids))
            return super().predict(ids, state)

    words = stream(Counted(), LETTERS, length=1000)
    next(words), next(words)
    assert calls == [1, 1]


# --------------------------------------------------------------------------------------------------
# surprise


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_surprise_is_the_loss_of_each_token(length):
    model, ids = make(), np.random.default_rng(3).integers(30, size=length)
    nats = surprise(Predictor(model), ids, WORDS.start_id)
    assert nats.shape == (length,)
    assert nats.mean() == pytest.approx(evaluate(model, ids.astype(np.int32), WORDS, 1), rel=1e-5)
    assert -nats.sum() == pytest.approx(log_probability(Predictor(model), ids), rel=1e-5)


def test_the_surprise_of_nothing_is_nothing():
    assert surprise(Toy(), [], 0).shape == (0,)


# ---------------------------------------------------------------------------------------------- bad
# settings


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"temperature": 0}, "temperature 0"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_p": 0}, "top-p 0"),
        ({"top_p": 1.1}, "top-p 1.1"),
        ({"top_p": -0.1}, "top-p -0.1"),
        ({"top_k": 0}, "top-k 0"),
        ({"top_k": -3}, "top-k -3"),
        ({"samples": 0}, "samples 0"),
        ({"sentences": 0}, "sentences 0"),
        ({"greedy": True, "temperature": 0.5}, "greedy"),
        ({"greedy": True, "top_k": 5}, "greedy"),
    ],
)
def test_bad_strategies_are_refused(settings, what):
    with pytest.raises(UserError, match=what):
        Strategy(**settings)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"length": 0}, "words 0"),
        ({"strategy": Strategy(forbidden=(0,), sentences=1)}, "is forbidden"),
        ({"strategy": Strategy(forbidden=(0, 1, 2, 3))}, "all tokens"),
    ],
)
def test_bad_lengths_are_refused(settings, what):
    with pytest.raises(UserError, match=what):
        generate(Toy(), LETTERS, **settings)


def test_sentences_need_something_that_ends_one():
    with pytest.raises(UserError, match="not in this vocabulary"):
        generate(Toy(), Dictionary("abcd"), strategy=Strategy(sentences=1))


def test_a_beam_has_a_width():
    with pytest.raises(UserError, match="beam 0"):
        beam_search(Toy(), LETTERS, width=0)


# --------------------------------------------------------------------------------------------------
# repetition


def ngrams(ids, n):
    """All stretches of n tokens within a sentence."""
    rows = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return [row for row in rows if WORDS.eos_id not in row]


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("n", [2, 3])
def test_no_n_tokens_in_a_row_come_twice(n, greedy):
    predictor, prompt = Predictor(make()), [3, 5, 3, 8]
    settings = {"greedy": True} if greedy else {"temperature": 0.1}
    for rule, repeats in ((n, False), (None, True)):
        strategy = Strategy(**settings, no_repeat=rule, samples=3)
        texts = generate(predictor, WORDS, prompt, 250, strategy)
        found = [ngrams([*prompt, *ids], n) for ids in texts]
        assert any(len(set(rows)) < len(rows) for rows in found) is repeats
    # a step that no rule touches is as it was
    first, plain = (
        generate(predictor, WORDS, prompt, 1, Strategy(**settings, no_repeat=rule))[0]
        for rule in (9, None)
    )
    assert first.tolist() == plain.tolist()


def test_where_all_would_repeat_something_is_written_nevertheless():
    letters = Dictionary("ab")  # with two tokens there are four pairs
    (ids,) = generate(
        Predictor(make(vocab_size=2)), letters, length=40, strategy=Strategy(no_repeat=2)
    )
    assert len(ids) == 40


def test_the_end_of_a_sentence_may_come_again():
    logits = np.zeros((1, 4), np.float32)
    text = np.array([[2, 0, 1, 2]])
    assert repeated(text[0], 2, end=None).tolist() == [0]
    assert repeated(text[0], 2, end=0).tolist() == []
    after = discourage(logits, text, Strategy(no_repeat=2), None)
    assert np.isneginf(after).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("shift", [0, 100.0])
def test_the_repetition_penalty_is_a_power_of_the_probability(shift):
    logits = (LOGITS + np.float32(shift))[None]
    text = np.array([[3, 6, 3]])
    after = discourage(logits, text, Strategy(repetition_penalty=1.5), None)
    p = expected()
    p[[3, 6]] **= 1.5
    np.testing.assert_allclose(np.exp(log_softmax(after))[0], p / p.sum(), rtol=1e-5)
    assert discourage(logits, text, Strategy(), None) is logits


def test_a_penalty_makes_texts_less_repetitive():
    predictor, counts = Predictor(make()), []
    for penalty in (1.0, 1.3, 3.0):
        strategy = Strategy(repetition_penalty=penalty, samples=40)
        texts = generate(predictor, WORDS, length=25, strategy=strategy)
        counts.append(sum(len(set(ids)) for ids in texts))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_a_beam_does_not_repeat_either():
    predictor, prompt = Predictor(make()), [3, 5]
    plain = beam_search(predictor, WORDS, prompt, 30, 4)[0].ids
    assert len(set(ngrams([*prompt, *plain], 2))) < len(ngrams([*prompt, *plain], 2))
    for hypothesis in beam_search(predictor, WORDS, prompt, 30, 4, Strategy(no_repeat=2)):
        rows = ngrams([*prompt, *hypothesis.ids], 2)
        assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"repetition_penalty": 0.9}, "repetition-penalty 0.9: must be at least 1"),
        ({"repetition_penalty": math.inf}, "finite"),
        ({"no_repeat": 1}, "no-repeat 1: must be at least 2"),
    ],
)
def test_impossible_rules_are_refused(settings, what):
    with pytest.raises(UserError, match=what):
        Strategy(**settings)
