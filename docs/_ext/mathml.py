"""Formulas as MathML, which browsers draw by themselves: MathJax would have to be fetched by each
reader."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

SYNONYMS = {
    r"\dots": r"\ldots",
    r"\big": r"\bigl",
    r"\Big": r"\Bigl",
    r"\bigg": r"\biggl",
    r"\Bigg": r"\Biggl",
}
logger = logging.getLogger(__name__)


def mathml(node: nodes.Element, as_block: bool) -> str:
    """The formula of a math node; a warning names one that cannot be translated."""
    tex = re.sub(r"\\[A-Za-z]+", lambda found: SYNONYMS.get(found[0], found[0]), node.astext())
    try:
        return tex2mathml(tex, as_block=as_block)
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        return ""


def visit_inline(writer, node: nodes.math) -> None:
    """Write a formula within a line."""
    writer.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(writer, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    writer.body.append(f'<div class="math">{mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    """Offer the renderer to Sphinx as ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
