"""The pages that are made from what the repository holds: the course, the results, one page per
module.

They are written before Sphinx looks for its sources, and only where they changed, so that a second
build is quick.
"""

import ast
import base64
import html
import os
import re
import shutil
from pathlib import Path

import nbformat
from course_path import draw_path
from docutils import nodes
from lessons import Lesson, read_lessons
from results_page import results_page
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from gluonlm.completion import help_text
from gluonlm.model.checkpoint import load_model
from gluonlm.onnx import web

MARKDOWN_CODE, MARKDOWN_EMPHASIS = re.compile(r"`([^`]+)`"), re.compile(r"\*([^*]+)\*")
DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
API = """{title}
{underline}

.. automodule:: {name}
   :members:
"""


def write(path: Path, text: str) -> None:
    """Write a page unless it is there as it should be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def course() -> str:
    """A card for each lesson, and the picture of the path."""
    lessons = read_lessons(DOCS / "notebooks")
    covers = DOCS / "_generated" / "site" / "covers"
    cards = [card(lesson, cover(lesson, covers)) for lesson in lessons]
    return "\n".join(
        ["```{raw} html", '<div class="cards">', *cards, "</div>", draw_path(lessons), "```", ""]
    )


def cover(lesson: Lesson, folder: Path) -> Path:
    """The picture of a lesson's card, in ``folder``: its last one, which often shows the result."""
    notebook = nbformat.read(DOCS / f"{lesson.docname}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    path = folder / f"{lesson.number:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(pictures[-1]))
    return path


def card(lesson: Lesson, picture: Path) -> str:
    """A lesson as a link with its picture, title and what one does there."""
    does = MARKDOWN_CODE.sub(r"<code>\1</code>", html.escape(lesson.does))
    does = MARKDOWN_EMPHASIS.sub(r"<em>\1</em>", does)
    return (
        f'<a class="card" href="{lesson.docname}.html">'
        f'<img src="covers/{picture.name}" alt="" loading="lazy">'
        f"<strong>{lesson.number:02} {html.escape(lesson.title)}</strong><span>{does}</span></a>"
    )


def api_page(name: str, is_command: bool) -> str:
    """The page of a module; that of a command shows its options too."""
    page = API.format(title=name, underline="=" * len(name), name=name)
    if not is_command:
        return page
    options = "\n".join(f"   {line}".rstrip() for line in help_text(name).splitlines())
    return f"{page}\nOptions\n-------\n\n.. code-block:: text\n\n{options}\n"


def room_page(name: str, modules: list[str]) -> str:
    """The page of a library: what it is for, and its modules."""
    head = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n"
    return "\n".join([head, ".. toctree::", "", *(f"   {module}" for module in modules), ""])


def summary(tree: ast.Module) -> str:
    """The first paragraph of a module's docstring, for Markdown."""
    paragraph = (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", paragraph)


def api() -> set[str]:
    """A page for each module of the package, one for each library, and one that lists all.

    :return: the pages of modules that have gone; they are deleted.
    """
    os.environ["COLUMNS"] = "88"  # the width of the help texts
    pages, commands, settings, libraries, rooms = {}, [], [], [], {}
    for path in sorted((ROOT / "gluonlm").rglob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        is_command = path.parent == ROOT / "gluonlm" and "main" in functions
        pages[name] = api_page(name, is_command)
        if path.parent != ROOT / "gluonlm":
            rooms.setdefault(path.parent, []).append(name)
        else:
            kind = commands if is_command else settings
            kind.append(f"| {{py:mod}}`{name}` | {summary(tree)} |")
    for folder, modules in rooms.items():
        name = f"gluonlm.{folder.name}"
        pages[name] = room_page(name, modules)
        tree = ast.parse((folder / "__init__.py").read_text())
        libraries.append(f"| [{name}]({name}.rst) | {summary(tree)} |")
    pages_of_rooms = {module for modules in rooms.values() for module in modules}
    shown = sorted(set(pages) - pages_of_rooms)
    for name, page in pages.items():
        write(DOCS / "api" / f"{name}.rst", page)
    write(DOCS / "api" / "index.md", api_index(commands, settings, libraries, shown))
    gone = set(os.listdir(DOCS / "api")) - {f"{name}.rst" for name in pages} - {"index.md"}
    for old in gone:
        (DOCS / "api" / old).unlink()
    return gone


def api_index(
    commands: list[str], settings: list[str], libraries: list[str], shown: list[str]
) -> str:
    """The page that lists commands, settings and libraries, each as rows of a table."""
    lines = [
        "# API",
        "",
        "Shapes: T steps, N batch columns, C features (E of an embedding, H of a hidden layer), "
        "V words.",
    ]
    for title, rows in (("Commands", commands), ("Settings", settings), ("Libraries", libraries)):
        lines += ["", f"## {title}", "", "| module | |", "|---|---|", *rows]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *shown, "```", ""])


def live_page() -> None:
    """The page that runs the bundled model; the site takes it as it is."""
    folder = DOCS / "_generated" / "site" / "live"
    write(folder / "index.html", web.page(load_model("austen")))


def notebooks() -> None:
    """The notebooks themselves, beside their pages, to be downloaded."""
    folder = DOCS / "_generated" / "site" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (DOCS / "notebooks").glob("*.ipynb"):
        shutil.copy(path, folder)


def offer_download(app: Sphinx, doctree: nodes.document) -> None:
    """Put a link to the notebook under the title of its page."""
    if app.env.docname.startswith("notebooks/"):
        name = Path(app.env.docname).name
        link = f'<p class="download"><a href="{name}.ipynb" download>Download this notebook</a></p>'
        title = next(iter(doctree.findall(nodes.title)))
        title.parent.insert(1, nodes.raw("", link, format="html"))


def make_pages(app: Sphinx) -> None:
    """Write all pages that are made."""
    live_page()
    notebooks()
    write(DOCS / "_generated" / "course.md", course())
    write(DOCS / "results.md", results_page(DOCS / "_generated"))
    if api():  # or their old pages would stay on the site
        shutil.rmtree(app.outdir, ignore_errors=True)
        app.outdir.mkdir(parents=True)


def fold_code(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fold a lesson's code that sets up or only draws: its reader opens it with "Show code"."""
    if not docname.startswith("notebooks/"):
        return
    notebook = nbformat.reads(source[0], as_version=4)
    for cell in notebook.cells:
        draws, sets_up = (
            cell.source.startswith("caption = ("),
            "teaching.set_style()" in cell.source,
        )
        if cell.cell_type == "code" and (draws or sets_up):
            cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "hide-input"})
    source[0] = nbformat.writes(notebook)


def describe_pictures(app: Sphinx, doctree: nodes.document) -> None:
    """Give each picture of a notebook the description and the width that are stored with it."""
    if not app.env.docname.startswith("notebooks/"):
        return
    notebook = nbformat.read(app.env.doc2path(app.env.docname), as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    metadata = [output.metadata for output in outputs if "image/png" in output.get("data", {})]
    bundles = doctree.findall(
        lambda node: isinstance(node, nodes.Element) and node.get("mime_type") == "image/png"
    )
    for bundle, stored in zip(bundles, metadata, strict=True):
        for image in bundle.findall(nodes.image):
            known = stored.get("image/png", {})
            image["alt"] = known.get("alt", "")
            if "width" in known:  # of the page: the picture has twice as many pixels
                image["width"] = f"{known['width']}px"


def link_lessons(app: Sphinx, doctree: nodes.document) -> None:
    """Make links of the words "lesson 02" within the lessons where there is such a lesson."""
    if not app.env.docname.startswith("notebooks/"):
        return
    pages = {
        path.stem[:2]: f"{path.stem}.html"
        for path in (DOCS / "notebooks").glob("[0-9][0-9]_*.ipynb")
    }
    not_prose = nodes.literal | nodes.literal_block | nodes.reference | nodes.title
    for text in list(doctree.findall(nodes.Text)):
        pieces = re.split(r"((?:[Nn]otebook|[Ll]esson) \d\d)\b", text)
        if len(pieces) == 1 or isinstance(text.parent, not_prose):
            continue
        linked = [nodes.Text(piece) for piece in pieces]
        for i in range(1, len(pieces), 2):
            if page := pages.get(pieces[i][-2:]):
                linked[i] = nodes.reference("", pieces[i], refuri=page, internal=True)
        text.parent.replace(text, linked)


def lessons_to_read(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> set:
    """All lessons if one comes or goes: the others may name it."""
    new_or_gone = any(name.startswith("notebooks/") for name in added | removed)
    return {name for name in env.found_docs if new_or_gone and name.startswith("notebooks/")}


def setup(app: Sphinx) -> dict:
    """Make the pages before the sources are read."""
    app.connect("builder-inited", make_pages)
    app.connect("source-read", fold_code)
    app.connect("doctree-read", describe_pictures)
    app.connect("doctree-read", link_lessons)
    app.connect("doctree-read", offer_download)
    app.connect("env-get-outdated", lessons_to_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
