"""What the notebooks share: how much to compute, library source shown in place, figures and what they show in words.

    GLUONLM_WORKLOAD=full jupyter lab notebooks/01_language_model.ipynb

Import it before mxnet: it keeps the warnings of MXNet 1.9.1, which is older than its NumPy, out of the lessons.
"""

import base64
import inspect
import io
import os
import tempfile
import textwrap
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.core.pylabtools import print_figure
from IPython.display import Markdown, display
from matplotlib import cm
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from gluonlm.cli import contexts
from gluonlm.config import Config, resolve
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import Corpus, Dictionary, load_corpus

for category in (DeprecationWarning, SyntaxWarning):
    warnings.filterwarnings("ignore", category=category, module=r"(.*\W)?(mxnet|gluonnlp)")

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b")
EMMA = {
    "train": 168_366,
    "valid": 17_126,
    "test": 15_019,
}  # tokens: each split of austen begins with this novel
TINY = {
    "data": "austen",
    "emsize": 100,
    "nhid": 100,
    "dropout": 0.1,
    "tied": True,
    "batch_size": 10,
    "schedule": "linear",
    "epochs": 3,
}


@dataclass(frozen=True)
class Workload:
    """How much the notebooks compute live.

    ``tiny``: *Emma* with a vocabulary of 2,000 words and a small model, for seconds on two cores. ``full``: all six
    novels, 10,000 words and the settings of ``make train``, on the first GPU if there is one.
    """

    name: str
    config: Config
    device: Any  # an mx.Context

    def corpus(self) -> Corpus:
        """The text to learn from."""
        corpus = load_corpus(self.config.data)
        return smaller(corpus, 2000, EMMA) if self.name == "tiny" else corpus


def workload() -> Workload:
    """What the environment variable ``GLUONLM_WORKLOAD`` asks for, ``tiny`` if it is not set.

    :raises UserError: when it is neither ``tiny`` nor ``full``.
    """
    import mxnet as mx

    name = os.environ.get("GLUONLM_WORKLOAD") or "tiny"
    if name == "tiny":
        return Workload(name, Config(**TINY), mx.cpu())
    if name == "full":
        return Workload(
            name, resolve("austen", {}), contexts("0" if mx.context.num_gpus() else None)[0]
        )
    raise UserError(f"GLUONLM_WORKLOAD={name}: set it to tiny or full")


def train_quietly(config: Config, corpus: Corpus, device: Any) -> tuple[Any, list[dict]]:
    """Train a model as notebook 01 does, without showing the log, in a folder that is thrown away.

    :param device: an ``mx.Context``.
    :return: the model (:class:`gluonlm.model.rnn.RNNModel`) with the weights of the epoch that was best on the validation
        text, and the log's record of each epoch (``train_loss``, ``valid_loss``, ``lr`` and the like).
    """
    import mxnet as mx

    from gluonlm.model.checkpoint import build_model
    from gluonlm.training.loop import Training
    from gluonlm.training.run import Run

    log = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(log), redirect_stderr(log):
        run = Run.new(Path(folder) / "lesson")
        run.begin(config, command="a notebook")
        np.random.seed(config.seed)
        mx.random.seed(config.seed)
        model = build_model(config, len(corpus.dictionary), [device])
        Training(model, corpus, config, run, [device]).fit()
        run.restore(model)
        return model, run.records("epoch")


def smaller(corpus: Corpus, vocab_size: int, tokens: dict[str, int]) -> Corpus:
    """The beginning of each split with the most frequent words only; the other words become ``<unk>``.

    :param vocab_size: words to keep, of a vocabulary ordered by frequency that has ``<unk>`` among them.
    :param tokens: length of ``train``, ``valid`` and ``test``.
    """
    kept = Dictionary(corpus.dictionary.idx2word[:vocab_size], corpus.dictionary.encoding)
    splits = {split: getattr(corpus, split)[:length] for split, length in tokens.items()}
    known = {
        split: np.where(ids < vocab_size, ids, kept.unk_id).astype(np.int32)
        for split, ids in splits.items()
    }
    return replace(corpus, dictionary=kept, **known)


def show_source(*objects: Any) -> Markdown:
    """The source of classes or functions, as it is installed, to be displayed by a notebook."""
    blocks = (
        f"`{item.__module__}.{item.__qualname__}`\n\n```python\n{textwrap.dedent(inspect.getsource(item))}```"
        for item in objects
    )
    return Markdown("\n\n".join(blocks))


def set_style() -> None:
    """One look for the figures of all notebooks: readable on a light or dark page, small as files."""
    plt.rc(
        "figure", figsize=(7, 3.6), dpi=90, facecolor="white", **{"constrained_layout.use": True}
    )
    plt.rc("axes", titlesize=12, axisbelow=True, grid=True, prop_cycle=plt.cycler(color=COLOURS))
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("font", size=11)
    plt.rc("grid", alpha=0.3)
    plt.rc("legend", frameon=False)
    plt.rc("lines", linewidth=1.8)


def show_figure(figure: Figure, description: str) -> None:
    """Display a figure together with a description for those who cannot see it, and close it.

    :param description: what the picture shows, its axes and what to see there, in a sentence or two. It is stored with
        the output as plain text and as ``alt`` in the metadata of the picture, where the site and nbconvert find it.
    """
    picture = base64.b64encode(compact(print_figure(figure, fmt="png"))).decode()
    plt.close(figure)
    shown = {"image/png": picture, "text/plain": description}
    display(shown, metadata={"image/png": {"alt": description}}, raw=True)


def compact(png: bytes) -> bytes:
    """A PNG with a palette of 256 colours instead of all: a third of the bytes, and hardly a diagram has more."""
    smaller = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE).save(
            smaller, "PNG", optimize=True
        )
    return smaller.getvalue()


def draw_cells(
    axes: Axes, words: Sequence[Sequence[str]], colours: Sequence[Sequence[str]], title: str = ""
) -> None:
    """Draw rows of words as a table of coloured cells, one unit wide and high; row 0 is at the top."""
    for row, line in enumerate(words):
        for column, word in enumerate(line):
            axes.add_patch(
                Rectangle((column, row), 1, 1, facecolor=colours[row][column], edgecolor="white")
            )
            axes.text(
                column + 0.5, row + 0.5, word, ha="center", va="center", color="white", fontsize=10
            )
    axes.set(
        xlim=(-0.1, max(map(len, words)) + 0.1),
        ylim=(len(words) + 0.1, -0.1),
        aspect="equal",
        title=title,
    )
    axes.axis("off")


def heat_strip(
    words: Sequence[str],
    values: Sequence[float],
    title: str,
    description: str,
    label: str = "nats",
    highest: float = 9.0,
    width: int = 78,
) -> None:
    """Show words in lines of ``width`` characters, each on a ground that is the darker the higher its value.

    :param description: what :func:`show_figure` wants; a new line begins after each ``<eos>``.
    :param label: what the values are; :param highest: the value of the darkest ground, pale yellow is 0.
    """
    scale, placed, x, y = Normalize(0, highest), [], 0, 0
    for word, value in zip(words, values, strict=True):
        if x and x + len(word) > width:
            x, y = 0, y + 1
        placed.append((x, y, word, value))
        x = x + len(word) + 1 if word != "<eos>" else width
    figure, axes = plt.subplots(figsize=(9, 0.62 + 0.3 * (y + 1)))
    for x, y, word, value in placed:
        ink = "white" if scale(value) > 0.65 else "black"
        axes.barh(y, len(word) + 0.9, left=x - 0.45, height=0.86, color=cm.YlOrRd(scale(value)))
        axes.text(
            x + len(word) / 2,
            y,
            word,
            ha="center",
            va="center",
            family="monospace",
            fontsize=9.5,
            color=ink,
        )
    axes.set(xlim=(-1, width + 1), ylim=(y + 0.6, -0.6), title=title)
    axes.axis("off")
    figure.colorbar(
        cm.ScalarMappable(scale, "YlOrRd"), ax=axes, label=label, aspect=4 * (y + 1), pad=0.01
    )
    show_figure(figure, description)
