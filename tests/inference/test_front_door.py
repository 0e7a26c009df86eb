"""``import gluonlm``: names when they are asked for, and one type for every file of a model."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gluonlm
from gluonlm import evaluate, export, quantize, train
from gluonlm.system.errors import UserError

TEXT = "the cat sat on the mat\nthe dog ran\n"
SMALL = "--emsize 8 --nhid 8 --nlayers 1 --batch-size 4 --bptt 5 --epochs 1 --lr 2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose test text is evaluated in one column, and the same model as INT8 and as ONNX."""
    folder = tmp_path_factory.mktemp("run")
    for split, lines in (("train", 20), ("valid", 20), ("test", 7)):
        (folder / f"{split}.txt").write_text(TEXT * lines)
    place = ["--data", str(folder), "--save", str(folder / "run"), "--test-batch-size", "1"]
    train.main([*place, *SMALL.split()])
    quantize.main([str(folder / "run")])
    export.main([str(folder / "run")])
    export.main([str(folder / "run/int8.safetensors"), str(folder / "run/int8.onnx")])
    return folder / "run"


FILES = ["", "best.safetensors", "model.onnx", "int8.safetensors", "int8.onnx"]


def test_importing_is_quick_and_names_come_when_they_are_asked_for():
    program = (
        "import sys, gluonlm; assert 'mxnet' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert set(gluonlm.__all__) <= set(dir(gluonlm))\n"
        "from gluonlm import Config, Corpus, Dictionary, LanguageModel, RNNModel, batchify, "
        "get_batch, load\n"
        "assert gluonlm.RNNModel is RNNModel\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gluonlm.nothing  # noqa: B018


def test_a_type_checker_sees_the_names_where_they_are_found():
    tree = ast.parse(Path(gluonlm.__file__).read_text())
    block = next(one for one in tree.body if isinstance(one, ast.If))
    seen = {alias.name: one.module for one in block.body for alias in one.names}
    assert seen == gluonlm._HOMES
    assert sorted(seen) == gluonlm.__all__
    for name in seen:
        assert getattr(gluonlm, name).__module__ == seen[name]


@pytest.mark.parametrize("file", FILES)
def test_any_file_of_a_model_is_one_type(run, file):
    model, whole = gluonlm.load(run / file), gluonlm.load(run)
    assert type(model) is gluonlm.LanguageModel
    assert (model.level, model.config) == ("word", whole.config)
    assert model.dictionary.idx2word == whole.dictionary.idx2word
    near = 0.02 if "int8" in file else 1e-5
    assert model.perplexity(TEXT) == pytest.approx(whole.perplexity(TEXT), rel=near)
    assert model.generate("the cat", words=9, greedy=True).startswith("the cat ")
    (word, probability), *others = model.next_words("the cat", 4)
    assert len(others) == 3
    assert word in model.dictionary
    assert 1 > probability >= max(p for _, p in others)
    state = model.begin_state(2)
    ids, targets = np.array([[1, 2], [3, 4]]), np.array([[3, 4], [1, 2]])
    logits, after = model.predict(ids, state)
    losses, after_too = model.losses(ids, targets, state)
    assert logits.shape == (2, 2, len(model.dictionary))
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    expected = np.log(np.exp(logits).sum(-1)) - chosen
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for one, other in zip(map(values, after), map(values, after_too), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    same_losses, same_logits, _ = model.arithmetic.losses_and_logits(ids, targets, state)
    np.testing.assert_array_equal(same_losses, losses)
    np.testing.assert_array_equal(same_logits, logits)


def values(array) -> np.ndarray:
    """An array of MXNet or NumPy as the latter."""
    return array if isinstance(array, np.ndarray) else array.asnumpy()


def test_a_model_is_shown_in_one_line():
    shown = "LanguageModel('austen', word: LSTM, 2 x 400 units, 10000 tokens)"
    assert repr(gluonlm.load("austen")) == shown


def test_perplexity_of_a_text_is_that_of_a_file_with_it(run, tmp_path):
    model = gluonlm.load(run)
    for text in (TEXT, "the cat", "a zebra\n\nran"):
        (tmp_path / "text.txt").write_text(text)
        score = evaluate.main([str(run), "--data", str(tmp_path / "text.txt"), "--batch-size", "1"])
        assert model.perplexity(text) == pytest.approx(score.perplexity, rel=1e-6)


def test_a_text_is_cut_in_tokens_as_the_data_set_was(run):
    model = gluonlm.load(run)
    assert model.perplexity("The cat sat.\nThe dog ran!") == model.perplexity(
        "the cat sat\nthe dog ran\n"
    )
    with pytest.raises(UserError, match="there is no text"):
        model.perplexity("")


def test_the_next_words_are_a_distribution_and_the_start_of_a_sentence_without_a_text(run):
    model = gluonlm.load(run)
    words = model.next_words("", len(model.dictionary))
    assert math.fsum(p for _, p in words) == pytest.approx(1)
    logits, _ = model.predict([[model.dictionary.start_id]], model.begin_state(1))
    assert words[0][0] == model.dictionary.idx2word[int(logits.argmax())]


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_evaluated_in_the_columns_that_its_run_says(run, file):
    """Before, an ONNX file was evaluated in 10 columns whatever --test-batch-size had been."""
    score, one = (evaluate.main([str(run / file), *more]) for more in ([], ["--batch-size", "1"]))
    assert score.loss == one.loss
    ten = evaluate.main([str(run / file), "--batch-size", "10"])
    assert ten.loss != one.loss
    valid = evaluate.main([str(run / file), "--split", "valid"])
    assert (
        valid.loss
        == evaluate.main([str(run / file), "--split", "valid", "--batch-size", "10"]).loss
    )


def test_an_exported_file_cannot_be_computed_elsewhere_nor_show_its_states(run):
    with pytest.raises(UserError, match="name its run"):
        evaluate.main([str(run / "model.onnx"), "--cache"])
    with pytest.raises(UserError, match="name its run"):
        evaluate.main(["--onnx", str(run / "model.onnx"), "--cache"])


def test_numbers_that_make_no_sense_are_refused(run):
    """Before, a text was perfect in -5 columns."""
    model = gluonlm.load(run)
    for request in (
        lambda: model.evaluate(model.encode(TEXT), -5),
        lambda: model.evaluate(model.encode(TEXT), 0),
        lambda: gluonlm.batchify(model.encode(TEXT), -1),
        lambda: model.next_words("the", -3),
        lambda: model.generate("the", seed=-1),
        lambda: model.generate("the", words=-1),
    ):
        with pytest.raises(UserError, match="must be at least"):
            request()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("wrong", [-1, 9])
def test_ids_of_another_vocabulary_are_refused(run, file, wrong):
    """Before, MXNet took the nearest ones, and the loss was a number like any other."""
    model, good, bad = gluonlm.load(run / file), np.array([[1], [2]]), np.array([[1], [wrong]])
    for request in (
        lambda: model.evaluate(bad[:, 0], 1),
        lambda: model.predict(bad, model.begin_state(1)),
        lambda: model.losses(bad, good, model.begin_state(1)),
        lambda: model.losses(good, bad, model.begin_state(1)),
    ):
        with pytest.raises(UserError, match="ids that are not among this model's 9"):
            request()
