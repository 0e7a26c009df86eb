"""The charts of the results, drawn from the records in results/.

    python docs/_ext/charts.py > docs/_static/race.svg

writes the one of README; the site draws all for its page of results.
"""

import io
import json

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gluonlm.system.machine import RESULTS, recorded

OURS, THEIRS, GREY = "#cd5418", "#3465a4", "#666666"
DATA_SETS = {"ptb": "Penn Treebank", "wikitext-2": "WikiText-2"}
KINDS = {  # of the name of a run: what it is called, colour, marker
    "ours": ("LSTM, fast-cpu", OURS, "o"),
    "lstm": ("LSTM", GREY, "s"),
    "awd": ("AWD-LSTM", THEIRS, "^"),
    "qrnn": ("QRNN", "#4e9a06", "D"),
    "transformer": ("Transformer", "#75507b", "v"),
}
SAME_EVERYWHERE = {
    "svg.hashsalt": "gluonlm",
    "font.size": 12,
}  # the same file from the same records


def svg(name: str) -> str:
    """A chart as SVG, on a white ground: it can be read on light and on dark pages."""
    draw, width, height, _ = CHARTS[name]
    with matplotlib.rc_context(SAME_EVERYWHERE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def draw_race(axes: Axes) -> None:
    """Time to a perplexity: ours, the slowest of the races in which it became at least as good as
    PyTorch's example after six epochs, in parts of the example's time."""
    races = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("quality-*.json"))]
    for place, data in enumerate(sorted({race["data"] for race in races}, reverse=True)):
        here = [
            race
            for race in races
            if race["data"] == data
            and race["test_perplexity"]["ours"] <= race["test_perplexity"]["torch"]
        ]
        race = max(here, key=lambda race: race["ours_over_torch_time"])
        about = "" if race["epochs"]["torch"] == 6 else "about "
        for shift, colour, name, who in (
            (0.2, OURS, "ours", "gluonlm: "),
            (-0.2, THEIRS, "torch", f"PyTorch’s example: {about}"),
        ):
            share = race["seconds"][name] / race["seconds"]["torch"]
            minutes, perplexity = race["seconds"][name] / 60, race["test_perplexity"][name]
            text = f"{who}{minutes:.0f} min ({share:.0%}) to perplexity {perplexity:.1f}"
            axes.barh(place + shift, share, height=0.36, color=colour)
            axes.text(share + 0.02, place + shift, text, va="center")
        axes.text(-0.02, place, DATA_SETS[data], va="center", ha="right")
    axes.set(xlim=(0, 2.6), xticks=(), yticks=())
    axes.spines["bottom"].set_visible(False)


def runs_on(data: str) -> dict[str, dict]:
    """The results of the recorded runs on a data set, by name, the best first."""
    results = {
        name: result for name, (config, result) in recorded().items() if config["data"] == data
    }
    return dict(sorted(results.items(), key=lambda item: item[1]["test_perplexity"]))


def draw_ranking(axes: Axes) -> None:
    """Who beats whom on Penn Treebank: ours as bars, what was published beside them."""
    results, published = runs_on("ptb"), json.loads((RESULTS / "published.json").read_text())
    reached = {name: result["test_perplexity"] for name, result in results.items()}
    for path in RESULTS.glob("cache-*.json"):
        name = f"{path.stem.removeprefix('cache-')} with a cache"
        reached[name] = json.loads(path.read_text())["perplexity"]
    reached = dict(sorted(reached.items(), key=lambda item: -item[1]))
    axes.barh(list(reached), list(reached.values()), color=OURS)
    for place, (name, value) in enumerate(reached.items()):
        style = {"va": "center", "color": "white", "fontsize": 10}
        axes.text(2, place, f"{value:.1f}", **style)  # at the left, where there is no diamond
        if name in published:
            axes.plot(published[name]["test"], place, "D", color=THEIRS, markeredgecolor="white")
    counting = min(result["baselines"]["kneser_ney"] for result in results.values())
    axes.axvline(counting, color=GREY, linestyle="--", label="counting words (Kneser-Ney)")
    axes.plot([], [], "D", color=THEIRS, label="published for these settings")
    axes.tick_params(axis="y", labelsize=10)
    axes.margins(y=0.01)
    axes.set_xlim(0, counting + 5)
    axes.set_xlabel("test perplexity on Penn Treebank")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2, frameon=False, fontsize=10)


def label(axes: Axes, text: str, point: tuple, beside: tuple[int, int], others: list) -> None:
    """Write what a point is, further up or down where it would cover the label of another one."""
    (x, y), (across, up) = point, beside
    side = "right" if across < 0 else "left"
    for other_x, other_y in others:
        if abs(y - other_y) < 1.2 and abs(x - other_x) < 0.25 * max(x, other_x):
            up += 9 if y > other_y else -20
    style = {"textcoords": "offset points", "ha": side, "fontsize": 9}
    axes.annotate(text, point, (across, up), **style)
    others.append(point)


def draw_parameters(axes: Axes) -> None:
    """Perplexity against parameters: the runs that are not pruned, of more than two epochs."""
    labelled: list = []
    legend: dict[str, tuple[str, str]] = {}
    for name, result in runs_on("ptb").items():
        if "pruned" not in name and result["epochs"] > 2:
            shown, colour, marker = KINDS[next(kind for kind in KINDS if f"-{kind}-" in name)]
            legend[shown] = colour, marker
            million = result["parameters"] / 1e6
            perplexity = result["test_perplexity"]
            axes.plot(million, perplexity, marker, color=colour)
            beside = (-9 if shown == "AWD-LSTM" else 9), -4  # room is at the left of these
            label(axes, name.removeprefix("ptb-"), (million, perplexity), beside, labelled)
    for shown, (colour, marker) in legend.items():
        axes.plot([], [], marker, color=colour, label=shown)
    axes.set(xscale="log", xlabel="million parameters", ylabel="test perplexity on Penn Treebank")
    axes.set_xticks((3, 5, 7, 10, 14), (3, 5, 7, 10, 14))
    axes.set_xticks((), minor=True)
    axes.legend(loc="upper right", frameon=False)


def draw_bytes(axes: Axes) -> None:
    """Perplexity against bytes: each model in float32, float16 and 8-bit integers."""
    ways = {"float32": "o", "float16": "^", "INT8 symmetric, per row, dynamic": "s"}
    labelled: list = []
    for path in sorted(RESULTS.glob("quantized-ptb-*.json")):
        rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
        sizes = [rows[way]["bytes"] / 1e6 for way in ways]
        reached = [rows[way]["test"] for way in ways]
        colour = THEIRS if "pruned" in path.stem else OURS
        axes.plot(sizes, reached, color=colour, alpha=0.5)
        for size, value, marker in zip(sizes, reached, ways.values()):
            axes.plot(size, value, marker, color=colour, alpha=0.75)
        name = path.stem.removeprefix("quantized-ptb-")
        label(axes, name, (sizes[-1], reached[-1]), (0, 6), labelled)
    for way, marker in ways.items():
        axes.plot([], [], marker, color=GREY, label=way.partition(" ")[0])
    axes.set(xscale="log", xlabel="megabytes", ylabel="test perplexity on Penn Treebank")
    axes.set_xticks((1.5, 3, 6, 12, 25, 50), (1.5, 3, 6, 12, 25, 50))
    axes.set_xticks((), minor=True)
    axes.legend(loc="upper right", frameon=False)


# file: the drawing, its size in inches, what it shows
CHARTS = {
    "ranking": (
        draw_ranking,
        9,
        7,
        "Who beats whom: test perplexity on Penn Treebank, less is better",
    ),
    "parameters": (draw_parameters, 9, 5, "Perplexity against parameters"),
    "bytes": (
        draw_bytes,
        9,
        4.6,
        "Perplexity against bytes: models in orange, pruned ones in blue",
    ),
    "race": (draw_race, 9, 2.6, "Time to a perplexity, beside PyTorch's word-level example"),
}

if __name__ == "__main__":
    print(svg("race"), end="")
