"""What the notebooks share: how much to compute, library source in place, figures and diagrams.

    GLUONLM_WORKLOAD=full jupyter lab notebooks/01_language_model.ipynb

Import it before mxnet: it keeps the warnings of MXNet 1.9.1, which is older than its NumPy, out of
the lessons.
"""

import warnings

for category in (DeprecationWarning, SyntaxWarning):
    warnings.filterwarnings("ignore", category=category, module=r"(.*\W)?(mxnet|gluonnlp)")

from gluonlm.teaching.diagrams import arrow, box, draw_cell, draw_cells, draw_unrolled  # noqa: E402
from gluonlm.teaching.figures import (  # noqa: E402
    COLOURS,
    GREY,
    bars,
    dress,
    explore,
    figure,
    heat_strip,
    lines,
    rows,
    set_style,
    show_figure,
)
from gluonlm.teaching.workload import (  # noqa: E402
    EMMA,
    TINY,
    Workload,
    fresh_model,
    show_source,
    smaller,
    train_quietly,
    workload,
)

__all__ = [
    "COLOURS",
    "EMMA",
    "GREY",
    "TINY",
    "Workload",
    "arrow",
    "bars",
    "box",
    "draw_cell",
    "draw_cells",
    "draw_unrolled",
    "dress",
    "explore",
    "figure",
    "fresh_model",
    "heat_strip",
    "lines",
    "rows",
    "set_style",
    "show_figure",
    "show_source",
    "smaller",
    "train_quietly",
    "workload",
]
