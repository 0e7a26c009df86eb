"""What the notebooks share: how much to compute, library source in place, figures and diagrams.

    GLUONLM_WORKLOAD=full jupyter lab notebooks/01_language_model.ipynb

Import it before mxnet: it keeps the warnings of MXNet 1.9.1, which is older than its NumPy, out of
the lessons.
"""

# ruff: noqa: E402, F401
import warnings

for category in (DeprecationWarning, SyntaxWarning):
    warnings.filterwarnings("ignore", category=category, module=r"(.*\W)?(mxnet|gluonnlp)")

from gluonlm.teaching.diagrams import arrow, box, draw_cell, draw_cells, draw_unrolled
from gluonlm.teaching.figures import (
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
from gluonlm.teaching.workload import (
    EMMA,
    TINY,
    Workload,
    fresh_model,
    show_source,
    smaller,
    train_quietly,
    workload,
)
