"""What a link to a page shows where people send it to each other: title, first sentences, picture.

A picture must have a whole address: `SITE_URL=https://example.org/gluonlm make docs` adds it.
"""

import html
import re
from pathlib import Path

from docutils import nodes
from lessons import read_lesson
from sphinx.application import Sphinx

LONGEST = 200  # letters of a description
FRONT = "covers/05.png"  # a sentence, each word with its surprise


def description(text: str) -> str:
    """The beginning of a text, up to a word."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0]} …"


def tags(title: str, text: str, picture: str, site: str, page: str) -> str:
    """The elements for a page's head; :param site: its address, or "" if that is not known."""
    facts = {
        "og:type": "website",
        "og:site_name": "gluonlm",
        "og:title": re.sub("<[^>]*>", "", title),
        "og:description": description(text),
    }
    if site:
        base = site.rstrip("/")
        facts |= {"og:url": f"{base}/{page}.html", "og:image": f"{base}/{picture}"}
    lines = [f'<meta property="{key}" content="{html.escape(v)}">' for key, v in facts.items()]
    card = "summary_large_image" if site else "summary"
    return "\n".join([*lines, f'<meta name="twitter:card" content="{card}">', ""])


def add_tags(
    app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None
) -> None:
    """Add them to each page that is made of a text."""
    if doctree is None:
        return
    first = next(iter(doctree.findall(nodes.paragraph)), None)
    text, picture = first.astext() if first else "", FRONT
    path = Path(app.env.doc2path(page))
    if page.startswith("notebooks/"):
        lesson = read_lesson(path)
        text, picture = lesson.does, f"covers/{lesson.number:02}.png"
    site = app.config.html_baseurl
    context["metatags"] += tags(context["title"], text, picture, site, page)


def setup(app: Sphinx) -> dict:
    """Add the tags when a page is written."""
    app.connect("html-page-context", add_tags)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
