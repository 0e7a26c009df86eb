"""The page in the browser: its numbers are Python's, and what a reader does there works."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from scripts import ROOT

from gluonlm import export, train
from gluonlm.inference.predictor import Predictor
from gluonlm.model.checkpoint import load_model
from gluonlm.onnx.web import PAGE, page, web_file
from gluonlm.system.errors import UserError
from gluonlm.text.sources import BUNDLED

TEXT = "she was not at all surprised , said mr. elton ; nor was emma ."
OPTIONS = "--emsize 24 --nhid 32 --dropout 0 --batch-size 4 --bptt 8 --epochs 1 --max-batches 30"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model of some of Austen's sentences, its last layer narrower than the others."""
    folder = tmp_path_factory.mktemp("novel")
    for split in ("train", "valid", "test"):
        lines = (BUNDLED / "austen" / f"{split}.txt").read_text().splitlines()[:300]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    run = folder / "run"
    more = ["--data", str(folder), "--save", str(run), "--tied", "--narrow"]
    train.main([*more, *OPTIONS.split()])
    return load_model(run)


@pytest.fixture
def opened(trained, tab, tmp_path):
    """The page with that model, from disk; requests for anything else are noted as errors."""
    path = tmp_path / "page.html"
    export.main([str(trained.path), str(path)])  # the name says what is wanted
    tab.on(
        "request",
        lambda request: tab.errors.append(request.url) if path.name not in request.url else None,
    )
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-ready=yes]")
    yield tab
    assert tab.errors == []


def in_python(trained, words: list[str]) -> np.ndarray:
    """Probabilities (T, V) of what follows each word, with the weights that the page has."""
    from safetensors.numpy import load

    arrays = load(web_file(trained))
    for name, parameter in trained.model.layout.items():
        values = arrays[name].astype(np.float32)
        if f"{name}.scale" in arrays:
            values *= arrays[f"{name}.scale"][:, None]
        data = trained.model.trainables()[parameter.parameter].data()
        flat = data.asnumpy().ravel()
        flat[parameter.begin : parameter.begin + parameter.size] = values.ravel()
        data[:] = mx.nd.array(flat).reshape(data.shape)
    predictor = Predictor(trained.model)
    ids = [trained.dictionary.start_id, *trained.dictionary.encode(words)]
    logits, _ = predictor.predict(np.array(ids)[:, None], predictor.begin_state(1))
    odds = np.exp(logits[:, 0] - logits[:, 0].max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def test_probabilities_are_those_of_python(opened, trained):
    opened.fill("#text", TEXT)
    shown = opened.evaluate("steps.map(({ features }) => [...softmax(logits(model, features))])")
    words = opened.evaluate("steps.slice(1).map(({ word }) => word)")
    assert words == TEXT.split()
    np.testing.assert_allclose(shown, in_python(trained, words), atol=1e-4)
    bits = opened.evaluate("steps.slice(1).map(({ bits }) => bits)")
    ids = trained.dictionary.encode(words)
    expected = -np.log2([row[i] for row, i in zip(np.array(shown)[:-1], ids)])
    np.testing.assert_allclose(bits, expected, rtol=1e-6)
    assert f"perplexity {2 ** np.mean(bits):.1f}" in opened.inner_text("#score")


def test_a_reader_appends_writes_and_looks_inside(opened):
    opened.fill("#text", "she was")
    best = opened.locator("#next button:enabled").first.inner_text()
    opened.locator("#next button:enabled").first.click()
    assert opened.input_value("#text").split() == ["she", "was", best]
    written = []
    for _ in range(2):  # the same seed writes the same
        opened.fill("#text", "she was")
        opened.fill("#seed", "5")
        opened.click("#write")
        opened.wait_for_selector("#write:enabled")
        written.append(opened.input_value("#text"))
    assert written[0] == written[1] != "she was"
    opened.click("#again")
    opened.wait_for_selector("#write:enabled")
    assert opened.input_value("#text") != written[0]
    assert opened.input_value("#text").startswith("she was")
    opened.click("#strip li:nth-child(2) button")
    assert opened.get_attribute("#strip li:nth-child(2) button", "aria-pressed") == "true"
    opened.select_option("#layer", "0")
    opened.focus("#heat")
    opened.keyboard.press("ArrowDown")
    assert opened.inner_text("#cell-says") == "Cell 1 of layer 1."
    gates = opened.evaluate("cellsOf(steps[1]).gates.map((gate) => gate[1])")
    shown = opened.locator("#gates tr td:nth-child(2)").all_inner_texts()[:4]
    assert shown == [f"{value:.2f}" for value in gates]


def test_the_page_says_which_text_the_model_has_read(opened, trained, tmp_path):
    read = f"It has read the text “{Path(trained.config.data).stem}”."
    assert read in opened.inner_text("#about")
    assert opened.input_value("#text") == ""
    assert not opened.is_visible("[data-example=austen]")
    known = replace(trained, config=replace(trained.config, data="austen"))
    (tmp_path / "austen.safetensors").write_bytes(web_file(known))
    opened.set_input_files("#file", tmp_path / "austen.safetensors")
    opened.wait_for_selector("[data-example=austen]")
    assert "It has read the six novels of Jane Austen." in opened.inner_text("#about")
    assert opened.input_value("#text").startswith("it was impossible for her")


def test_an_unknown_word_is_marked_and_not_offered(opened):
    opened.fill("#text", "she was xylophonic")
    opened.evaluate("model.bias[model.unknown] = 99, steps = [], refresh()")
    assert opened.inner_text("#strip li:last-child small").startswith("unknown, 0.")
    assert opened.inner_text("#next li:first-child button") == "(unknown word)"
    assert opened.is_disabled("#next li:first-child button")
    assert opened.is_enabled("#next li:nth-child(2) button")
    numbers = opened.locator("#next .number")
    assert numbers.all_inner_texts()[1] == "< 0.1 %"
    assert {round(box["height"]) for box in [one.bounding_box() for one in numbers.all()]} == {24}


def test_another_model_is_dropped_and_a_foreign_file_is_refused(opened, trained, tmp_path):
    other = replace(trained, config=replace(trained.config, data="another one.txt"))
    (tmp_path / "other.safetensors").write_bytes(web_file(other))
    opened.set_input_files("#file", tmp_path / "other.safetensors")
    opened.wait_for_function(
        "document.querySelector('#loaded').textContent.includes('another one')"
    )
    (tmp_path / "wrong.safetensors").write_bytes(b"no model at all")
    opened.set_input_files("#file", tmp_path / "wrong.safetensors")
    opened.wait_for_selector("#loaded.error")
    assert "wrong.safetensors: this is not a model file" in opened.inner_text("#loaded")


def test_sentences_are_cut_as_the_novels_were(tab):
    """Text as a reader writes it comes back as the words it was made of, in 99 of 100 sentences."""
    sentences = (BUNDLED / "austen" / "test.txt").read_text().splitlines()
    known = (BUNDLED / "austen" / "train.txt").read_text().split()
    tab.add_script_tag(content=(PAGE / "words.js").read_text())
    cut = tab.evaluate(
        "([lines, known]) => { const ids = new Map(known.map((word) => [word, 1]));"
        " return lines.map((line) => cut(toText(line.split(' ')), ids).join(' ')); }",
        [sentences, sorted(set(known))],
    )
    wrong = [line for line, again in zip(sentences, cut, strict=True) if line != again]
    assert len(wrong) <= len(sentences) / 100, wrong[:3]


def test_what_the_page_cannot_compute_is_refused(trained, tmp_path):
    run = tmp_path / "run"
    options = [
        "--model",
        "GRU",
        "--data",
        trained.config.data,
        "--save",
        str(run),
        *OPTIONS.split(),
    ]
    train.main(options)
    with pytest.raises(
        UserError, match="the page computes LSTM layers and a full softmax, not GRU"
    ):
        export.main([str(run), str(tmp_path / "page.html"), "--format", "web"])
    assert not (tmp_path / "page.html").exists()


def test_the_page_is_one_text_without_addresses(trained):
    html = page(trained)
    assert "<script src" not in html
    assert "<link" not in html
    assert "http:" not in html
    assert "https:" not in html


def test_how_soon_the_page_writes(chromium, tmp_path):
    out = tmp_path / "page.json"
    command = [sys.executable, ROOT / "benchmarks" / "page.py", "--rounds", "1", "--out", out]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(out.read_text())
    assert 4 < figures["megabytes"] < 6
    assert 0 < figures["milliseconds_per_word"] < 1000 * figures["first_word_seconds"]
    assert f"{figures['megabytes']:.1f} MB: the first word after" in ended.stdout
