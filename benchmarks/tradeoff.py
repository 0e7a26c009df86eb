"""One picture of many small models: perplexity against bytes and against words per second,
quantized, pruned, or both.

    python -m gluonlm.quantize runs/dense --table  # for each: writes runs/dense/quantized.json
    python -m gluonlm.quantize runs/pruned-80 --table
    python benchmarks/tradeoff.py runs/dense runs/pruned-80 --out tradeoff.png

Each folder (or file that ``--table --out`` wrote) is a series of points, one for each way of
storing its numbers. The further down, the better the model; the further left (bytes, on a
logarithmic axis) or right (words per second), the cheaper.
"""

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from gluonlm.cli import run
from gluonlm.compress.compare import TABLE, Row
from gluonlm.model.checkpoint import read_json
from gluonlm.system.errors import UserError
from gluonlm.system.files import write_output

MARKERS = "osD^v<>pPX*h"


@dataclass(frozen=True)
class Series:
    """The variants of one model."""

    name: str
    rows: tuple[Row, ...]


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "tables", nargs="+", type=Path, help="folders of runs with a table, or tables"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("tradeoff.png"), help="picture to write (tradeoff.png)"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> list[Series]:
    """Draw the tables that the command line names."""
    options = parse(argv)
    series = [read_table(path) for path in options.tables]
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)  # a picture, whatever windows there may be
    if options.out.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise UserError(f"--out {options.out}: give a name that ends in .png, .svg or .pdf")
    draw(figure, series)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format=options.out.suffix[1:])
    write_output(options.out, picture.getvalue())
    print(f"{options.out}: {sum(len(one.rows) for one in series)} variants of {len(series)} models")
    return series


def read_table(path: Path) -> Series:
    """A table that ``python -m gluonlm.quantize RUN --table`` wrote.

    :raises UserError: when it is missing or damaged.
    """
    file = path / TABLE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"there is no table {file}: make it with `python -m gluonlm.quantize RUN --table`"
        )
    try:
        rows = tuple(Row(**row) for row in read_json(file)["rows"])
        return Series(path.resolve().name.removesuffix(".json").removeprefix("quantized-"), rows)
    except (KeyError, TypeError):
        raise UserError(
            f"{file} is no table of quantized models: make it anew with --table"
        ) from None


def draw(figure: Figure, series: Sequence[Series]) -> None:
    """Test perplexity against megabytes, evaluation speed and writing speed: a colour a model, a
    marker a variant."""
    panels = {
        "size, MB": lambda row: row.bytes / 1e6,
        "words/s evaluating": lambda row: row.evaluated,
        "words/s writing": lambda row: row.generated,
    }
    names = list(dict.fromkeys(row.name for one in series for row in one.rows))
    for axes, (label, value) in zip(
        figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True
    ):
        for colour, one in enumerate(series):
            for row in one.rows:
                marker = MARKERS[names.index(row.name) % len(MARKERS)]
                axes.plot(value(row), row.test, marker, color=f"C{colour}", markersize=7, alpha=0.8)
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    size, *speeds = figure.axes
    size.set(ylabel="test perplexity", xscale="log")
    size.xaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)),
        major_formatter="{x:g}",
        minor_formatter=NullFormatter(),
    )
    for axes in speeds:
        axes.set_xlim(0, None)
    handles = [
        size.plot([], [], "s", color=f"C{i}", label=one.name)[0] for i, one in enumerate(series)
    ]
    markers = [MARKERS[i % len(MARKERS)] for i in range(len(names))]
    handles += [
        size.plot([], [], marker, color="gray", label=name)[0]
        for marker, name in zip(markers, names, strict=True)
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)


if __name__ == "__main__":
    run(main)
