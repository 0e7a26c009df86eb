"""The notebooks' shared helper: workloads, source in place, figures."""

import base64
import io
import os
import subprocess
import sys
from dataclasses import replace

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import mxnet as mx
import numpy as np
import pytest
from IPython.core.pylabtools import print_figure
from PIL import Image

from gluonlm import teaching
from gluonlm.config import Config
from gluonlm.presets import resolve
from gluonlm.system.errors import UserError
from gluonlm.teaching import figures
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
    assert small.dictionary.idx2word == ["the", "<eos>", "<unk>"]  # by their frequency in these 5
    assert small.train.tolist() == [0, 2, 1, 2, 0]
    assert small.valid.tolist() == [1, 0]
    assert small.test.tolist() == [0, 2, 1, 2, 0, 1]
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


@pytest.fixture
def shown(monkeypatch) -> list:
    """What the lessons display, as pairs of data and options."""
    displayed = []
    monkeypatch.setattr(
        figures, "display", lambda data, **options: displayed.append((data, options))
    )
    return displayed


def test_a_shown_figure_has_its_caption_below_and_as_alternative_text(shown):
    with teaching.figure("a line that rises", size=(4, 3)) as axes:
        axes.plot([1, 2])
    (picture, options), (caption, _) = shown
    png = base64.b64decode(picture["image/png"])
    with Image.open(io.BytesIO(png)) as image:
        width = image.width
    assert options["metadata"]["image/png"] == {"alt": "a line that rises", "width": width // 2}
    assert 300 < width // 2 <= 360  # 4 inches of a page; the picture has twice as many pixels
    assert picture["text/plain"] == "a line that rises"
    assert caption["text/markdown"] == "*a line that rises*"
    assert plt.get_fignums() == []  # or it would be shown once more at the end of the cell


def test_a_compact_picture_is_the_same_picture():
    figure, axes = plt.subplots()
    axes.imshow(np.linspace(0, 1, 400).reshape(20, 20), cmap="viridis")
    png = print_figure(figure, fmt="png")
    plt.close(figure)
    small, width = figures.compact(png)
    before, after = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int) for data in (png, small)
    )
    assert before.shape == after.shape == (*before.shape[:1], width, 3)
    assert np.abs(before - after).mean() < 2
    assert len(small) < 0.6 * len(png)


def test_lines_bars_and_rows_draw_what_they_are_given(shown):
    with teaching.figure("three panels", columns=3) as (left, middle, right):
        teaching.lines(left, {"a": [1, 10], "b": ([5, 6], [2, 3])}, yscale="log", xlabel="step")
        teaching.bars(middle, {"a": [1, 2], "b": [3, 4]}, ["x", "y"], fmt="%.0f")
        teaching.rows(right, {"a": 1.0, "b": 2.5}, fmt="%.1f", title="numbers")
        assert [line.get_xdata().tolist() for line in left.lines] == [[0, 1], [5, 6]]
        assert left.get_xlabel() == "step"
        assert [text.get_text() for text in left.get_legend().get_texts()] == ["a", "b"]
        assert [bar.get_height() for bar in middle.patches] == [1, 2, 3, 4]
        assert [text.get_text() for text in right.texts] == ["1.0", "2.5"]
        assert right.get_legend() is None
    assert len(shown) == 2


def test_a_short_log_axis_has_labels_between_the_powers_of_ten():
    axes = matplotlib.figure.Figure().subplots()
    teaching.lines(axes, {"a": [30, 90]}, yscale="log")
    labels = [axes.yaxis.get_minor_formatter()(value) for value in (20, 30, 50, 2000)]
    assert labels == ["20", "", "50", "2,000"]
    teaching.lines(axes, {"a": [1, 90_000]}, yscale="log")
    assert axes.yaxis.get_minor_formatter()(20) == ""
    assert axes.yaxis.get_major_formatter()(1e6) == "1,000,000"  # not 1e+06 beside 100,000
    axes = matplotlib.figure.Figure().subplots()
    teaching.lines(axes, {"a": [1e-9, 1]}, yscale="log")
    assert "10^{-5}" in axes.yaxis.get_major_formatter()(1e-5)  # not 1e-05 beside 0.001
    axes = matplotlib.figure.Figure().subplots()
    teaching.lines(axes, {"a": [1, 64]}, yscale="log", yticks=[1, 8, 64])
    assert axes.yaxis.get_minor_formatter()(20) == ""  # it has the labels it was given


def test_panels_with_one_scale_have_one_label(shown):
    with teaching.figure("two panels", columns=2, sharey=True) as panels:
        for axes in panels:
            teaching.lines(axes, {"a": [1, 2]}, xlabel="step", ylabel="loss")
    assert [axes.get_ylabel() for axes in panels] == ["loss", ""]
    assert [axes.get_xlabel() for axes in panels] == ["step", "step"]


def test_explore_draws_the_first_values_where_nothing_is_live(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    drawn = []
    teaching.explore(lambda **values: drawn.append(values), t=(0.8, 0.1, 2.0, 0.1), text="emma")
    assert drawn == [{"t": 0.8, "text": "emma"}]


def test_explore_has_controls_in_a_live_notebook(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "05.ipynb")
    seen = []
    monkeypatch.setattr(ipywidgets, "interact", lambda draw, **w: seen.append(w))
    teaching.explore(lambda **values: None, t=(0.8, 0.1, 2.0, 0.1), k=(5, 1, 50, 1), text="emma")
    (widgets,) = seen
    kinds = {name: type(widget).__name__ for name, widget in widgets.items()}
    assert kinds == {"t": "FloatSlider", "k": "IntSlider", "text": "Text"}
    assert [widgets[name].value for name in ("t", "k", "text")] == [0.8, 5, "emma"]
    assert (widgets["k"].min, widgets["k"].max) == (1, 50)


@pytest.mark.parametrize("kind", ["Elman", "LSTM", "GRU"])
def test_a_cell_is_drawn_with_all_its_parts(kind):
    axes = matplotlib.figure.Figure().subplots()
    teaching.draw_cell(axes, kind)
    texts = " ".join(text.get_text() for text in axes.texts)
    assert all(name in texts for name in {"Elman": "WR", "LSTM": "figo", "GRU": "zrn"}[kind])
    assert kind in axes.get_title()


def test_an_unrolled_network_has_a_word_more_than_steps():
    axes = matplotlib.figure.Figure().subplots()
    teaching.draw_unrolled(axes, ["a", "b", "c"], ["Embedding", "LSTM", "Dense"])
    texts = [text.get_text() for text in axes.texts]
    assert [texts.count(name) for name in ("Embedding", "LSTM", "Dense", "state")] == [2, 2, 2, 1]
    assert [texts.count(word) for word in "abc"] == [1, 2, 1]


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
        figures, "show_figure", lambda figure, description: shown.append((figure, description))
    )
    words, values = (
        ["she", "was", "late", "<eos>", "a", "dreadfully", "long", "day"],
        [0, 1, 9, 2, 3, 4, 5, 20],
    )
    teaching.heat_strip(
        words, values, "surprise", "coloured grounds", label="bits", width=14, names=["first"]
    )
    ((figure, description),) = shown
    axes, scale = figure.axes
    assert [text.get_text() for text in axes.texts] == [*words, "first"]
    assert [text.get_position()[1] for text in axes.texts[:-1]] == [
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
    assert description == "coloured grounds"
    plt.close(figure)
