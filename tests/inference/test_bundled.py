"""The model that comes with the project is what its record says, and what README shows of it."""

import importlib
import json
from pathlib import Path

import pytest

import gluonlm
from gluonlm import generate
from gluonlm.model.checkpoint import MODELS, model_file
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS
from gluonlm.text.corpus import load_corpus

ROOT = RESULTS.parent


@pytest.fixture(scope="module")
def model():
    return gluonlm.load("austen")


@pytest.mark.long
def test_it_has_the_perplexity_of_its_record(model):
    record = json.loads((RESULTS / "austen-lstm-400-47" / "result.json").read_text())
    corpus = load_corpus("austen", None, model.dictionary)
    loss = model.evaluate(corpus.test, 10)
    assert loss == pytest.approx(record["test_loss"], abs=0.005)  # it is 8-bit integers
    assert f"reaches [{record['test_perplexity']:.2f}]" in (ROOT / "README.md").read_text()


def test_it_is_small_and_writes_by_its_name(capsys):
    assert (MODELS / "austen.safetensors").stat().st_size < 8e6
    generate.main(["austen", "--words", "12", "--seed", "2"])
    assert len(capsys.readouterr().out.split()) >= 5


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "austen").write_bytes(b"something else")
    with pytest.raises(UserError, match="austen"):
        gluonlm.load("austen")


def test_a_folder_of_that_name_comes_first_if_it_holds_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "austen").mkdir()  # of texts, perhaps
    assert model_file(Path("austen")) == MODELS / "austen.safetensors"
    (tmp_path / "austen" / "config.json").write_text("{}")  # a run that has no model yet
    assert model_file(Path("austen")) == Path("austen", "best.safetensors")


def test_the_picture_of_a_sentence_shows_what_the_model_says(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    strip = importlib.import_module("strip")
    shown = (ROOT / "docs" / "_static" / "strip.svg").read_text()
    for word, bits in strip.surprises():
        assert f">{word}</text>" in shown
        assert any(f">{bits + step:.1f}</text>" in shown for step in (-0.1, 0, 0.1)), word
