"""The continuous cache against a loop over tokens, at every length of window and text."""

import json
import math
import shlex

import numpy as np
import pytest
from mxnet import nd

from gluonlm import evaluate as evaluate_command
from gluonlm.config import Config
from gluonlm.inference import neural_cache as cache
from gluonlm.inference.neural_cache import (
    TUNED,
    CacheSettings,
    Grid,
    cache_losses,
    evaluate_with_cache,
    tune,
)
from gluonlm.model.checkpoint import Trained, build_model, load_model, save_model
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import Dictionary
from gluonlm.text.sources import ALIASES, DATASETS
from gluonlm.training.loop import evaluate

V = 30
DICTIONARY = Dictionary(["<eos>", "<unk>", *(f"w{number}" for number in range(V - 2))])


def made_of(**settings):
    made = build_model(Config(emsize=16, nhid=16, **settings), V)
    for (
        parameter
    ) in made.trainables().values():  # states that differ and probabilities that are uneven
        values = np.random.default_rng(len(parameter.shape)).normal(size=parameter.shape)
        parameter.set_data(0.7 * values)
    return made


@pytest.fixture(scope="module")
def model():
    return made_of(tied=True)


def text(tokens, seed=0):
    draw = np.random.default_rng(seed)
    topics = np.repeat(draw.integers(0, V - 6, size=tokens // 20 + 1), 20)[
        :tokens
    ]  # words come in bursts
    return (topics + draw.integers(6, size=tokens)).astype(np.int32)


@pytest.fixture(scope="module")
def read(model):
    return read_by(model)


def read_by(model):
    """A text with the features and the distribution of each of its tokens, read one by one."""
    state, token, tokens = model.begin_state(1), DICTIONARY.start_id, []
    for target in text(300):
        inputs = nd.array([[token]])
        features, new_state = model.body(inputs, state)
        logits = model(inputs, state)[0].asnumpy().ravel().astype(np.float64)
        distribution = np.exp(logits - logits.max())
        tokens.append(
            (
                features.asnumpy().ravel().astype(np.float64),
                distribution / distribution.sum(),
                target,
            )
        )
        state, token = new_state, target
    return tokens


def by_loop(tokens, theta, share, window):
    """Token by token, as the formula says, in float64: the mean loss."""
    history, total = [], 0.0
    for hidden, distribution, target in tokens:
        reach, distribution = (history[-window:] if window else []), distribution.copy()
        if reach:
            scores = np.array([theta * hidden @ key for key, _ in reach])
            weights = np.exp(scores - scores.max())
            distribution *= 1 - share
            for weight, (_, word) in zip(weights / weights.sum(), reach, strict=True):
                distribution[word] += share * weight
        assert distribution.sum() == pytest.approx(1)
        total -= math.log(distribution[target])
        history.append((hidden, target))
    return total / len(tokens)


@pytest.mark.parametrize("theta", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("window", [0, 1, 7, 50, 299, 300, 10**6])
def test_equals_the_loop(model, read, monkeypatch, window, theta):
    monkeypatch.setattr(cache, "STEPS", 64)
    loss = evaluate_with_cache(model, text(300), DICTIONARY, CacheSettings(theta, 0.2, window))
    assert loss == pytest.approx(by_loop(read, theta, 0.2, window), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"model": "QRNN", "tied": True}, {"splits": (8, 20), "tied": True}, {"model": "GRU"}],
)
def test_every_kind_of_model_has_a_cache(settings):
    model = made_of(**settings)
    loss = evaluate_with_cache(model, text(300), DICTIONARY, CacheSettings(0.5, 0.2, 50))
    assert loss == pytest.approx(by_loop(read_by(model), 0.5, 0.2, 50), rel=1e-5)


def test_columns_have_caches_of_their_own(model):
    ids = text(301)
    rows = 101  # 301 tokens in three columns, two places padded
    state = [ids[:rows], ids[rows : 2 * rows], ids[2 * rows :]]
    starts = [DICTIONARY.start_id, ids[rows - 1], ids[2 * rows - 1]]
    total = 0.0
    for part, start in zip(state, starts, strict=True):
        whole = cache_losses(model, part, StartsWith(start), Grid((1.0,), (0.2,), (40,)))
        total += whole[0, 0, 0] * len(part)
    assert cache_losses(model, ids, DICTIONARY, Grid((1.0,), (0.2,), (40,)), batch_size=3)[
        0, 0, 0
    ] == pytest.approx(total / 301, rel=1e-5)


class StartsWith:
    def __init__(self, start):
        self.start_id = start


@pytest.mark.parametrize(("window", "share"), [(0, 0.3), (500, 0.0)])
def test_an_empty_or_untrusted_cache_changes_nothing(model, window, share):
    ids = text(700)
    loss = evaluate_with_cache(model, ids, DICTIONARY, CacheSettings(1.0, share, window))
    assert loss == pytest.approx(evaluate(model, ids, DICTIONARY, 1), rel=1e-6)


def test_the_size_of_blocks_changes_nothing(model, monkeypatch):
    ids, losses = text(900), []
    for steps, scores in [(256, 1 << 18), (40, 1 << 18), (256, 1), (1, 1)]:
        monkeypatch.setattr(cache, "STEPS", steps)
        monkeypatch.setattr(cache, "SCORES", scores)
        losses.append(evaluate_with_cache(model, ids, DICTIONARY, CacheSettings(1.0, 0.2, 100)))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


def test_a_grid_is_its_single_points_and_tuning_takes_the_least(model):
    ids = text(600)
    grid = ((0.2, 1.0), (0.1, 0.3), (10, 0, 200, 5000))
    losses = cache_losses(model, ids, DICTIONARY, Grid(*grid))
    for i, theta in enumerate(grid[0]):
        for j, share in enumerate(grid[1]):
            for k, window in enumerate(grid[2]):
                alone = evaluate_with_cache(
                    model, ids, DICTIONARY, CacheSettings(theta, share, window)
                )
                assert losses[i, j, k] == pytest.approx(alone, rel=1e-6)
    best, loss = tune(model, ids, DICTIONARY, {})
    assert loss == pytest.approx(evaluate_with_cache(model, ids, DICTIONARY, best), rel=1e-6)
    assert loss < evaluate(model, ids, DICTIONARY, 1)  # words come in bursts: a cache must help
    held, worse = tune(model, ids, DICTIONARY, {"theta": 2.0, "window": 100})
    assert (held.theta, held.window) == (2.0, 100)
    assert worse >= loss - 1e-6


def test_large_scores_do_not_overflow(model):
    assert math.isfinite(
        evaluate_with_cache(model, text(300), DICTIONARY, CacheSettings(1e4, 0.2, 100))
    )


@pytest.mark.parametrize(
    "wrong", [{"theta": -1}, {"lambdasm": 1.0}, {"lambdasm": -0.1}, {"window": -1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        CacheSettings(**wrong)


def test_a_text_without_tokens_is_refused(model):
    with pytest.raises(UserError, match="no text"):
        evaluate_with_cache(model, np.empty(0, np.int32), DICTIONARY, CacheSettings())


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    for split, tokens in (("train", 300), ("valid", 250), ("test", 200)):
        words = DICTIONARY.decode(text(tokens, seed=tokens))
        (folder / f"{split}.txt").write_text(" ".join(words) + "\n")
    config = Config(data=str(folder), emsize=16, nhid=16, tied=True)
    save_model(Trained(model, DICTIONARY, config, "word", folder / "model.pt"))
    return folder / "model.pt"


def test_the_command(saved, tmp_path, capsys):
    plain = evaluate_command.main([str(saved)])
    cached = evaluate_command.main(
        [str(saved), "--cache", "--theta", "0.5", "--lambdasm", "0.1", "--window", "90"]
    )
    ids = np.append(text(200, seed=200), DICTIONARY.eos_id)
    expected = evaluate_with_cache(
        load_model(saved).model, ids, DICTIONARY, CacheSettings(0.5, 0.1, 90)
    )
    assert cached.loss == pytest.approx(expected, rel=1e-6)
    assert plain.tokens == cached.tokens == 201
    assert "cache: --theta 0.5 --lambdasm 0.1 --window 90" in capsys.readouterr().out
    out = tmp_path / "score.json"
    tuned = evaluate_command.main(
        [str(saved), "--tune-cache", "--window", "60", "--record", str(out)]
    )
    output = capsys.readouterr().out
    assert "on the validation text" in output
    assert "--window 60" in output
    assert tuned.loss < plain.loss
    recorded = json.loads(out.read_text())
    assert shlex.split(recorded["command"])[2:5] == ["gluonlm.evaluate", str(saved), "--tune-cache"]
    assert (recorded["split"], recorded["tokens"], recorded["perplexity"]) == (
        "test",
        201,
        tuned.perplexity,
    )
    assert recorded["cache"]["window"] == 60
    assert f"loss {recorded['cache']['valid_loss']:.4f}" in output
    evaluate_command.main([str(saved), "--record", str(out)])
    assert json.loads(out.read_text())["cache"] == {}


def test_settings_that_are_not_given_are_those_known_for_the_data_set(saved, monkeypatch, capsys):
    assert {"ptb", "wikitext-2"} <= set(TUNED) <= set(DATASETS)
    note = "no settings are known for this text"
    unknown = evaluate_command.main([str(saved), "--cache"])
    out = capsys.readouterr().out
    assert "--theta 1 --lambdasm 0.1 --window 500" in out
    assert note in out
    given = ["--theta", "1", "--lambdasm", "0.1", "--window", "500"]
    assert evaluate_command.main([str(saved), "--cache", *given]).loss == unknown.loss
    assert note not in capsys.readouterr().out
    monkeypatch.setitem(TUNED, "ptb", CacheSettings(0.5, 0.2, 70))
    monkeypatch.setitem(ALIASES, saved.parent.name, "ptb")
    known = evaluate_command.main([str(saved), "--cache", "--window", "60"])
    out = capsys.readouterr().out
    assert "--theta 0.5 --lambdasm 0.2 --window 60" in out
    assert note not in out
    assert known.loss != unknown.loss


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--theta 1", "add --cache"),
        ("--cache --window -3", "--window -3"),
        ("--tune-cache --data {folder}/test.txt", "validation text"),
    ],
)
def test_the_command_refuses(saved, line, sentence):
    with pytest.raises(UserError, match=sentence):
        evaluate_command.main(
            [str(saved), *shlex.split(line.format(folder=shlex.quote(str(saved.parent))))]
        )
