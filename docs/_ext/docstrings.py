"""Docstrings as Sphinx reads them: examples and formulas become blocks of code, shapes stand
out."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FIELD = re.compile(r"([;.]) (?=:(?:param|returns?|raises)\b)")
# A tuple of letters, numbers, their sums and products: (T, N), (T*N, V), (B,), (..., V + K),
# (layers, N, H)
SIZE = r"(?:[A-Z]|\d+|len\(\w+\)|layers|tokens|steps|thetas|lambdas|windows)"
TERM = rf"{SIZE}(?: ?[*+] ?{SIZE})*"
SHAPE = rf"(?<!\w)\((?:{TERM},|(?:\.\.\.|{TERM})(?:, {TERM})+|\.\.\.)\)"
LITERAL = r"``.*?``|`[^`]*`"
SIGN = r"[*|]|(?<=\w)_(?!\w)"  # in these docstrings a product, an amount or a name, not markup
INLINE = re.compile(rf"(?P<literal>{LITERAL})|(?P<shape>{SHAPE})|(?P<sign>{SIGN})", re.DOTALL)
REPLACED = {"literal": "{}", "shape": "``{}``", "sign": "\\{}"}


def prose(text: str) -> str:
    """Text in which shapes are literals and signs are themselves."""
    return INLINE.sub(lambda found: REPLACED[found.lastgroup].format(found[0]), text)


def language(code: str) -> str:
    """The language of an example, for its colours."""
    return "pycon" if code.startswith(">>>") else "sh" if "python -m" in code else "text"


def rewritten(paragraph: list[str]) -> list[str]:
    """A paragraph of a docstring: code if it is indented or a command, else text in which each
    field has its line."""
    if paragraph[0].startswith("python -m"):
        paragraph = [f"    {line}" for line in paragraph]
    if all(line.startswith("    ") for line in paragraph):
        return [f".. code-block:: {language(paragraph[0].strip())}", "", *paragraph]
    return prose(FIELD.sub(r"\1\n", "\n".join(paragraph))).split("\n")


def process(
    app: Sphinx, what: str, name: str, item: object, options: dict, lines: list[str]
) -> None:
    """Rewrite a docstring in place, paragraph by paragraph."""
    paragraphs = [
        text.split("\n") for text in re.split(r"\n(?: *\n)+", "\n".join(lines).strip("\n"))
    ]
    lines[:] = [line for paragraph in paragraphs for line in [*rewritten(paragraph), ""]]
    if what == "class" and (
        bases := [base.__qualname__ for base in item.__bases__ if base is not object]
    ):
        lines[:0] = [f"A kind of ``{'``, ``'.join(bases)}``.", ""]
    if what == "class" and dataclasses.is_dataclass(
        item
    ):  # Config declares what a setting means at the setting
        lines += [
            f":param {one.name}: {prose(one.metadata['help'])}"
            for one in dataclasses.fields(item)
            if one.metadata
        ]


def setup(app: Sphinx) -> dict:
    """Let autodoc pass each docstring through :func:`process`."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
