"""The notebooks' shared helper: workloads, source in place, figures."""

import base64
import io
import os
import subprocess
import sys
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import mxnet as mx
import numpy as np
import pytest
from IPython.core.pylabtools import print_figure
from PIL import Image

from gluonlm import teaching
from gluonlm.config import Config, resolve
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import Corpus, Dictionary
from gluonlm.training.loop import evaluate

matplotlib.use("Agg")


@pytest.fixture
def corpus() -> Corpus:
    dictionary = Dictionary(["<eos>", "the", "<unk>", "rare"])
    ids = np.array([1, 3, 0, 2, 1, 0], np.int32)
    return Corpus("toy", "word", dictionary, ids, ids[::-1], ids)


def test_smaller_keeps_the_frequent_words_and_the_beginning(corpus):
    small = teaching.smaller(corpus, 3, {"train": 5, "valid": 2, "test": 6})
    assert small.dictionary.idx2word == ["<eos>", "the", "<unk>"]
    assert small.train.tolist() == [1, 2, 0, 2, 1]
    assert small.valid.tolist() == [0, 1]
    assert small.test.tolist() == [1, 2, 0, 2, 1, 0]
    assert small.train.dtype == np.int32
    assert corpus.train.tolist() == [1, 3, 0, 2, 1, 0]


@pytest.mark.parametrize("value", [None, "", "tiny"])
def test_the_tiny_workload_is_the_default_and_is_one_novel(monkeypatch, value):
    monkeypatch.delenv("GLUONLM_WORKLOAD", raising=False)
    if value is not None:
        monkeypatch.setenv("GLUONLM_WORKLOAD", value)
    work = teaching.workload()
    assert (work.name, work.config, str(work.device)) == ("tiny", Config(**teaching.TINY), "cpu(0)")


def test_the_tiny_corpus_is_emma_and_nothing_else():
    corpus = teaching.Workload("tiny", Config(**teaching.TINY), None).corpus()
    assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == list(teaching.EMMA.values())
    assert sum(teaching.EMMA.values()) == 200_511  # what data/README.md says of the novel
    assert corpus.dictionary.decode(corpus.train[:2]) == ["emma", "woodhouse"]
    assert all(
        ids[-1] == corpus.dictionary.eos_id for ids in (corpus.train, corpus.valid, corpus.test)
    )
    assert len(corpus.dictionary) == 2000
    assert max(corpus.train.max(), corpus.test.max()) < 2000


def test_the_full_workload_is_that_of_make_train(monkeypatch):
    monkeypatch.setenv("GLUONLM_WORKLOAD", "full")
    work = teaching.workload()
    assert work.config == resolve("austen", {})
    assert len(work.corpus().dictionary) == 10_000


def test_another_workload_is_refused(monkeypatch):
    monkeypatch.setenv("GLUONLM_WORKLOAD", "huge")
    with pytest.raises(UserError, match="tiny or full"):
        teaching.workload()


def test_training_quietly_gives_the_best_model_and_says_nothing(corpus, capfd):
    ids = np.tile(corpus.train, 20)
    corpus = replace(corpus, train=ids, valid=ids, test=ids)
    config = Config(data="toy", emsize=4, nhid=4, nlayers=1, batch_size=2, bptt=5, epochs=2)
    model, epochs = teaching.train_quietly(config, corpus, mx.cpu())
    again, _ = teaching.train_quietly(config, corpus, mx.cpu())
    assert capfd.readouterr() == ("", "")
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert evaluate(model, ids, corpus.dictionary, 10) == min(
        record["valid_loss"] for record in epochs
    )
    assert (model.decoder.weight.data() == again.decoder.weight.data()).asnumpy().all()


def test_show_source_shows_what_is_installed():
    shown = teaching.show_source(Corpus, Dictionary.add_word).data
    assert (
        "`gluonlm.text.corpus.Corpus`\n\n```python\n@dataclass(frozen=True)\nclass Corpus:" in shown
    )
    assert (
        "```python\ndef add_word(self, word: str) -> int:\n    " in shown
    )  # a method is moved to the left margin
    assert shown.count("```") == 4


def test_a_shown_figure_carries_its_description(monkeypatch):
    shown = []
    monkeypatch.setattr(teaching, "display", lambda data, **options: shown.append((data, options)))
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    teaching.show_figure(figure, "a line that rises")
    ((data, options),) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == "a line that rises"
    assert options == {"metadata": {"image/png": {"alt": "a line that rises"}}, "raw": True}
    assert not plt.fignum_exists(
        figure.number
    )  # or it would be shown once more at the end of the cell


def test_a_compact_picture_is_the_same_picture():
    figure, axes = plt.subplots()
    axes.imshow(np.linspace(0, 1, 400).reshape(20, 20), cmap="viridis")
    png = print_figure(figure, fmt="png")
    plt.close(figure)
    small = teaching.compact(png)
    before, after = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int) for data in (png, small)
    )
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 1
    assert len(small) < 0.6 * len(png)


def test_draw_cells_draws_every_word_in_its_colour():
    axes = matplotlib.figure.Figure().subplots()
    teaching.draw_cells(
        axes, [["a", "b"], ["c", "d"]], [["red", "blue"], ["red", "lime"]], "letters"
    )
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c", "d"]
    assert [patch.get_facecolor()[:3] for patch in axes.patches] == [
        (1, 0, 0),
        (0, 0, 1),
        (1, 0, 0),
        (0, 1, 0),
    ]
    assert axes.patches[2].get_xy() == (0, 1)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # row 0 is at the top
    assert axes.get_title() == "letters"


def test_style_is_set():
    with matplotlib.rc_context():
        teaching.set_style()
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(teaching.COLOURS)
        assert not matplotlib.rcParams["axes.spines.top"]


def test_importing_mxnet_after_it_warns_of_nothing():
    code = "import gluonlm; from gluonlm import teaching; import mxnet"
    result = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert "mxnet" not in result.stderr


def test_a_heat_strip_breaks_lines_and_darkens_with_the_value(monkeypatch):
    shown = []
    monkeypatch.setattr(
        teaching, "show_figure", lambda figure, description: shown.append((figure, description))
    )
    words, values = (
        ["she", "was", "late", "<eos>", "a", "dreadfully", "long", "day"],
        [0, 1, 9, 2, 3, 4, 5, 20],
    )
    teaching.heat_strip(
        words, values, "surprise", "words on coloured grounds", label="bits", width=14
    )
    ((figure, description),) = shown
    axes, scale = figure.axes
    assert [text.get_text() for text in axes.texts] == words
    assert [text.get_position()[1] for text in axes.texts] == [
        0,
        0,
        0,
        1,
        2,
        2,
        3,
        3,
    ]  # full, or after <eos>
    grounds = [sum(patch.get_facecolor()[:3]) for patch in axes.patches]
    assert grounds[0] > grounds[1] > grounds[4] > grounds[2] == grounds[7]  # 9 is the darkest
    assert axes.get_title() == "surprise"
    assert scale.get_ylabel() == "bits"
    assert description == "words on coloured grounds"
    plt.close(figure)
