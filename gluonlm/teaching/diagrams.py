"""Diagrams of the notebooks: tables of coloured cells, boxes with arrows, recurrent networks."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gluonlm.teaching.figures import COLOURS

BLUE, ORANGE, GREEN, VIOLET = COLOURS[:4]
DARK = "#555555"
SIGN = "#777777"


def draw_cells(
    axes: Axes, words: Sequence[Sequence[str]], colours: Sequence[Sequence[str]], title: str = ""
) -> None:
    """Draw rows of words as a table of coloured cells, one unit wide and high; row 0 is on top."""
    text = {"ha": "center", "va": "center", "color": "white", "fontsize": 10}
    for row, line in enumerate(words):
        for column, word in enumerate(line):
            colour = colours[row][column]
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white"))
            axes.text(column + 0.5, row + 0.5, word, **text)
    width, height = max(map(len, words)), len(words)
    axes.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1), aspect="equal", title=title)
    axes.axis("off")


def box(axes: Axes, x: float, y: float, text: str, colour: str = SIGN, size: float = 11) -> None:
    """Draw a text in a coloured box."""
    look = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "none"}
    axes.text(x, y, text, ha="center", va="center", color="white", fontsize=size, bbox=look)


def arrow(axes: Axes, *points: tuple[float, float], colour: str = DARK) -> None:
    """Draw an arrow along some points."""
    axes.plot(*zip(*points[:-1], strict=True), color=colour, linewidth=1.3)
    look = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=look)


def draw_unrolled(axes: Axes, words: Sequence[str], layers: Sequence[str]) -> None:
    """A network drawn once for each word: from the word up through its layers to the next word.

    :param words: one more than steps; :param layers: from below, those named LSTM hand on a state.
    """
    steps, top = len(words) - 1, len(layers) + 1
    for t in range(steps):
        axes.text(2 * t, 0, words[t], ha="center", va="center", style="italic")
        axes.text(2 * t, top, words[t + 1], ha="center", va="center", style="italic")
        for y, name in enumerate(layers, start=1):
            recurrent = name.startswith("LSTM")
            box(axes, 2 * t, y, name, ORANGE if recurrent else BLUE if y == 1 else GREEN)
            if recurrent:
                arrow(axes, (2 * t + 0.6, y), (2 * t + 1.4, y))
        for y in range(top):
            arrow(axes, (2 * t, y + 0.25), (2 * t, y + 0.75))
    for y, name in enumerate(layers, start=1):
        if name.startswith("LSTM"):
            axes.text(-1.6, y, "state", ha="center", va="center")
            arrow(axes, (-1.2, y), (-0.6, y))
    axes.set(xlim=(-2, 2 * steps - 0.5), ylim=(-0.3, top + 0.3))
    axes.axis("off")


# One step of a layer, drawn from lists: boxes (x, y, text, colour), texts (x, y, text), arrows
# (points).
CELLS = {
    "Elman": {
        "boxes": [(2, 1.5, "times R", SIGN), (2, 0.4, "times W", SIGN), (4, 1.5, "+", SIGN)]
        + [(5.4, 1.5, "tanh", BLUE)],
        "texts": [(-0.2, 1.5, "$h_{t-1}$"), (-0.2, 0.4, "$x_t$"), (7.6, 1.5, "$h_t$")],
        "arrows": [
            [(0.3, 1.5), (1.3, 1.5)],
            [(2.7, 1.5), (3.75, 1.5)],
            [(0.3, 0.4), (1.3, 0.4)],
            [(2.7, 0.4), (4, 0.4), (4, 1.2)],
            [(4.3, 1.5), (4.9, 1.5)],
            [(5.9, 1.5), (7.2, 1.5)],
        ],
    },
    "LSTM": {
        "boxes": [(2, 0.95, "f: forget", ORANGE), (3.6, 0.95, "i: input", BLUE)]
        + [(5.2, 0.95, "g: new", GREEN), (6.6, 0.95, "o: output", VIOLET), (2, 3, "×", SIGN)]
        + [(4.5, 3, "+", SIGN), (4.5, 1.9, "×", SIGN), (7.5, 1.9, "×", SIGN)]
        + [(7.5, 2.55, "tanh", SIGN)],
        "texts": [(-0.4, 3, "$c_{t-1}$"), (9.3, 3, "$c_t$"), (-0.6, 0, "$x_t,\\ h_{t-1}$")]
        + [(9.3, 1.9, "$h_t$")],
        "arrows": [
            [(0, 3), (1.7, 3)],
            [(2.3, 3), (4.2, 3)],
            [(4.8, 3), (9, 3)],
            [(0, 0), (6.6, 0), (6.6, 0.6)],
            [(2, 0), (2, 0.6)],
            [(3.6, 0), (3.6, 0.6)],
            [(5.2, 0), (5.2, 0.6)],
            [(2, 1.3), (2, 2.65)],
            [(3.6, 1.3), (3.6, 1.9), (4.2, 1.9)],
            [(5.2, 1.3), (5.2, 1.9), (4.8, 1.9)],
            [(4.5, 2.2), (4.5, 2.65)],
            [(6.6, 1.3), (6.6, 1.9), (7.2, 1.9)],
            [(7.5, 3), (7.5, 2.78)],
            [(7.5, 2.32), (7.5, 2.15)],
            [(7.8, 1.9), (9, 1.9)],
        ],
    },
    "GRU": {
        "boxes": [(2, 0.95, "z: update", ORANGE), (4.2, 0.95, "r: reset", BLUE)]
        + [(6.4, 0.95, "n: new", GREEN), (2, 3, "× z", SIGN), (6.4, 1.9, "× (1 − z)", SIGN)]
        + [(6.4, 3, "+", SIGN)],
        "texts": [(-0.4, 3, "$h_{t-1}$"), (9.3, 3, "$h_t$"), (-0.6, 0, "$x_t,\\ h_{t-1}$")],
        "arrows": [
            [(0, 3), (1.6, 3)],
            [(2.4, 3), (6.1, 3)],
            [(6.7, 3), (9, 3)],
            [(0, 0), (6.4, 0), (6.4, 0.6)],
            [(2, 0), (2, 0.6)],
            [(4.2, 0), (4.2, 0.6)],
            [(5.05, 0.95), (5.7, 0.95)],
            [(2, 1.3), (2, 2.65)],
            [(2, 1.9), (5.5, 1.9)],
            [(6.4, 1.3), (6.4, 1.6)],
            [(6.4, 2.2), (6.4, 2.7)],
        ],
    },
}


def draw_cell(axes: Axes, kind: str) -> None:
    """One step of a recurrent layer: ``"Elman"``, ``"LSTM"`` or ``"GRU"``."""
    parts = CELLS[kind]
    for points in parts["arrows"]:
        arrow(axes, *points)
    for x, y, text, colour in parts["boxes"]:
        box(axes, x, y, text, colour)
    for x, y, text in parts["texts"]:
        axes.text(x, y, text, ha="center", va="center", fontsize=12)
    top = 3.5 if kind != "Elman" else 2.0
    axes.set(xlim=(-1.2, 9.8 if kind != "Elman" else 8.2), ylim=(-0.4, top))
    names = {"Elman": "an Elman layer", "LSTM": "an LSTM", "GRU": "a GRU"}
    axes.set(title=f"one step of {names[kind]}")
    axes.axis("off")
