"""Figures of the notebooks: one look, a caption with each, and the kinds that several lessons draw.

>>> with teaching.figure("The loss falls.", columns=2) as (left, right):
...     teaching.lines(left, {"training": losses}, xlabel="epoch", yscale="log")
...     teaching.rows(right, {"ours": 84.1, "theirs": 90.2}, xlabel="perplexity")
"""

import base64
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.core.pylabtools import print_figure
from IPython.display import display
from matplotlib import cm
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b")
GREY = "#9a9a9a"
DPI = 90  # pixels of a page per inch of a figure; the stored picture has twice as many
FEW_COLOURS = 24  # a diagram and its blurred edges need no more, and its file is small


def set_style() -> None:
    """One look for the figures of all notebooks, readable on a light or dark page."""
    plt.rc("figure", figsize=(7, 3.6), facecolor="white", **{"constrained_layout.use": True})
    plt.rc("axes", titlesize=12, axisbelow=True, grid=True, prop_cycle=plt.cycler(color=COLOURS))
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("font", size=11)
    plt.rc("grid", alpha=0.3)
    plt.rc("legend", frameon=False)
    plt.rc("lines", linewidth=1.8)


def show_figure(figure: Figure, caption: str) -> None:
    """Display a figure with its caption below it, and close it.

    The picture has twice the resolution of the page. The caption is also its alternative text, for
    those who cannot see it; the site and nbconvert find it in the metadata.

    :param caption: what the picture shows and what to see there, in a sentence or two.
    """
    png = print_figure(figure, fmt="png", dpi=2 * DPI)
    plt.close(figure)
    picture, width = compact(png)
    shown = {"image/png": base64.b64encode(picture).decode(), "text/plain": caption}
    display(shown, metadata={"image/png": {"alt": caption, "width": width // 2}}, raw=True)
    display({"text/markdown": f"*{caption}*", "text/plain": caption}, raw=True)


def compact(png: bytes) -> tuple[bytes, int]:
    """A PNG with a palette, a fraction of the bytes, and its width; few colours if they will do."""
    smaller = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        picture = image.convert("RGB")
    for colours in (FEW_COLOURS, 256):
        reduced = picture.quantize(colours, kmeans=1, dither=Image.Dither.NONE)
        if np.abs(np.asarray(reduced.convert("RGB"), int) - np.asarray(picture, int)).mean() < 1:
            break
    reduced.save(smaller, "PNG", optimize=True)
    return smaller.getvalue(), picture.width


@contextmanager
def figure(
    caption: str, columns: int = 1, size: tuple[float, float] | None = None, **options: Any
) -> Iterator[Any]:
    """Axes to draw on; at the end of the with-block the figure is shown with its caption.

    :param columns: panels side by side; for more than one, an array of axes is given.
    :param options: those of ``plt.subplots``.
    """
    size = size or (7 if columns == 1 else 9, 3.3)
    drawn, axes = plt.subplots(1, columns, figsize=size, **options)
    yield axes
    if options.get("sharey"):
        for panel in drawn.axes:
            panel.label_outer()  # one label for all
    show_figure(drawn, caption)


def dress(axes: Axes, **settings: Any) -> None:
    """Titles and limits as ``Axes.set`` takes them, plain numbers on log axes, and a legend."""
    axes.set(**settings)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            short = high / low < 100 and f"{name}ticks" not in settings
            if low >= 1e-4:  # powers of ten are easier to read below
                axis.set_major_formatter("{x:,.12g}")
            axis.set_minor_formatter(two_and_five if short else "")
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend()


def two_and_five(value: float, _: int | None = None) -> str:
    """The label of a minor tick of a short log axis: between 10 and 100 there are 20 and 50."""
    return f"{value:,.12g}" if f"{value:e}"[0] in "25" else ""


def lines(
    axes: Axes,
    curves: dict[str, Any],
    style: str = "-",
    colours: Sequence[str] = COLOURS,
    **settings: Any,
) -> None:
    """Draw curves by label, each its values or a pair (x, values); settings are :func:`dress`'s."""
    for (label, curve), colour in zip(curves.items(), colours, strict=False):
        x, y = curve if isinstance(curve, tuple) else (range(len(curve)), curve)
        axes.plot(x, y, style, color=colour, label=label)
    dress(axes, **settings)


def bars(
    axes: Axes,
    groups: dict[str, Sequence[float]],
    names: Sequence[str],
    colours: Sequence[str] = COLOURS,
    fmt: str | None = None,
    **settings: Any,
) -> None:
    """Upright bars in groups side by side: for each label its values, one for each name below."""
    width = 0.8 / len(groups)
    for index, (label, values) in enumerate(groups.items()):
        places = np.arange(len(names)) + (index - (len(groups) - 1) / 2) * width
        drawn = axes.bar(places, values, 0.94 * width, color=colours[index], label=label)
        if fmt:
            axes.bar_label(drawn, fmt=fmt, fontsize=9, padding=1)
    axes.grid(axis="x", visible=False)
    dress(axes, xticks=range(len(names)), xticklabels=names, **settings)


def rows(
    axes: Axes,
    values: dict[str, float],
    fmt: str = "%.0f",
    colours: str | Sequence[str] = COLOURS[0],
    **settings: Any,
) -> None:
    """Lying bars, the first at the top, each with its number at the end."""
    drawn = axes.barh(list(values), list(values.values()), color=colours)
    axes.bar_label(drawn, fmt=fmt, padding=3)
    axes.margins(x=0.14)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    dress(axes, **settings)


def heat_strip(
    words: Sequence[str],
    values: Sequence[float],
    title: str,
    description: str,
    names: Sequence[str] = (),
    **look: Any,
) -> None:
    """Show words in lines, the ground the darker the higher the value; ``<eos>`` ends a line.

    :param description: the caption of :func:`show_figure`; :param names: what stands before each
        line.
    :param look: ``label``, what the values are; ``highest``, the value of the darkest ground;
        ``width`` of a line in characters.
    """
    look = {"label": "nats", "highest": 9.0, "width": 78} | look
    scale, placed = Normalize(0, look["highest"]), in_lines(words, look["width"])
    last = placed[-1][1]
    drawn, axes = plt.subplots(figsize=(9, 0.62 + 0.3 * (last + 1)))
    text = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 9.5}
    for (x, y), word, value in zip(placed, words, values, strict=True):
        ink = "white" if scale(value) > 0.65 else "black"
        axes.barh(y, len(word) + 0.9, left=x - 0.45, height=0.86, color=cm.YlOrRd(scale(value)))
        axes.text(x + len(word) / 2, y, word.replace("$", r"\$"), color=ink, **text)
    for y, name in enumerate(names):
        axes.text(-1.5, y, name, ha="right", va="center", fontsize=9.5)
    axes.set(xlim=(-1, look["width"] + 1), ylim=(last + 0.6, -0.6), title=title)
    axes.axis("off")
    bar = cm.ScalarMappable(scale, "YlOrRd")
    drawn.colorbar(bar, ax=axes, label=look["label"], aspect=4 * (last + 1), pad=0.01)
    show_figure(drawn, description)


def in_lines(words: Sequence[str], width: int) -> list[tuple[int, int]]:
    """Where each word begins, (column, line), in lines of ``width`` characters."""
    placed, x, y = [], 0, 0
    for word in words:
        if x and x + len(word) > width:
            x, y = 0, y + 1
        placed.append((x, y))
        x = x + len(word) + 1 if word != "<eos>" else width
    return placed


def explore(draw: Callable[..., None], **controls: Any) -> None:
    """Show what ``draw`` shows, in a live notebook with controls to change its arguments.

    Elsewhere (nbconvert, the site) it is drawn once, with the first values: a static picture.

    :param controls: for each argument a text, or a number's (value, lowest, highest, step).
    """
    if "JPY_SESSION_NAME" not in os.environ:  # Jupyter sets it for a notebook that is open
        draw(**{name: c if isinstance(c, str) else c[0] for name, c in controls.items()})
        return
    import ipywidgets  # not in the site's environment

    widgets = {}
    for name, control in controls.items():
        if isinstance(control, str):
            widgets[name] = ipywidgets.Text(control, continuous_update=False)
            widgets[name].layout.width = "90%"
        else:
            value, low, high, step = control
            kind = ipywidgets.FloatSlider if isinstance(step, float) else ipywidgets.IntSlider
            widgets[name] = kind(value, min=low, max=high, step=step, continuous_update=False)
    ipywidgets.interact(draw, **widgets)
