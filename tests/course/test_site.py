"""The site: built without a warning, whole, and looked at in a browser by a reader at a desk and
one with a phone.

    make docs && .venv/bin/python -m pytest tests/course/test_site.py
    SCREENSHOTS=docs/_build/pictures make test ARGS="-k looks_right"

The second writes pictures of all pages into that folder, for somebody to look at.

Without the site's environment (`make docs` builds it) or without Chromium the tests concerned are
skipped and say so.
"""

import importlib
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from gluonlm.system.machine import recorded

ROOT = Path(__file__).resolve().parents[2]
LOOKS = {"desktop": (1280, 900), "phone": (390, 844)}
ENOUGH = {("desktop", "light"), ("phone", "dark")}  # for the many pages that are made alike
TALLEST = (
    8000  # pixels of a page in one picture, then the next begins: Chromium draws none above 16384
)


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the built site, up to date."""
    if not (ROOT / ".venv-docs" / ".synced").exists():
        pytest.skip(
            "the site is not tested: its environment .venv-docs is not there, `make docs` builds it"
        )
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    built = subprocess.run(
        [shutil.which("make"), "docs"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return ROOT / "docs" / "_build" / "html"


@pytest.fixture
def extension(monkeypatch):
    """Import a module of docs/_ext by its name; those that need no Sphinx."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as docs/conf.py
    return importlib.import_module


class Page(HTMLParser):
    """Addresses, anchors and pictures of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.sources, self.anchors, self.pictures = [], [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        """Take note of what an element refers to and is called."""
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in ("script", "img", "iframe") and values.get("src"):
            self.sources.append(values["src"])
        if tag == "link" and values.get("rel") != "canonical":
            self.sources.append(values["href"])
        if tag == "img":
            self.pictures.append((values["src"], values.get("alt") or ""))


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    """All pages of the site."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def broken(pages: dict[Path, Page]) -> list[str]:
    """Links and sources within the site that lead nowhere."""
    found = []
    for path, page in pages.items():
        for address in page.links + page.sources:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchored = (
                not parts.fragment or unquote(parts.fragment) in pages.get(target, page).anchors
            )
            if not target.is_file() or (target in pages and not anchored):
                found.append(f"{path.name}: {address}")
    return found


def test_a_lesson_says_what_comes_before_it(extension, tmp_path):
    lessons = extension("lessons")
    assert lessons.numbers_in("Notebooks 01 to 03 and 05; 7 days, notebook 12, notebook\n09") == [
        1,
        2,
        3,
        5,
        9,
        12,
    ]
    text = (
        "# 4 · Tying, or: one matrix\n\n**What you will do.** Tie\nit.\n\n**What you need.** "
        "Notebooks 01 and 03."
    )
    nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), tmp_path / "04_tying.ipynb")
    (lesson,) = lessons.read_lessons(tmp_path)
    assert lesson == lessons.Lesson(
        4, "notebooks/04_tying", "Tying", "or: one matrix", "Tie it.", (1, 3)
    )


def test_what_a_lesson_does_is_told_to_its_end(extension):
    lessons = extension("lessons").read_lessons(ROOT / "notebooks")
    assert [lesson.does for lesson in lessons if not lesson.does.endswith(".")] == []
    assert "Then compare" in lessons[-1].does  # after a line that begins in bold letters


def test_the_path_has_a_link_for_each_lesson_and_an_arc_for_what_is_not_next(extension):
    lesson = extension("lessons").Lesson
    path = [
        lesson(1, "n/1", "A & B", "", "", ()),
        lesson(2, "n/2", "C", "", "", (1,)),
        lesson(5, "n/5", "D", "", "", (1, 2)),
    ]
    drawn = extension("course_path").draw_path(path)
    assert re.findall(r'href="(.*?)\.html"', drawn) == ["n/1", "n/2", "n/5"]
    assert drawn.count('class="arc"') == 1
    assert "A &amp; B" in drawn


def test_docstrings_become_what_sphinx_understands(extension):
    rewritten = extension("docstrings").rewritten
    assert rewritten(["loss (T*N,) of nvidia-* in ``(T, N) *``, (a, b)"]) == [
        r"loss ``(T*N,)`` of nvidia-\* in ``(T, N) *``, (a, b)"
    ]
    assert rewritten([":param a: ids (T, N); :param b: x."]) == [
        ":param a: ids ``(T, N)``;",
        ":param b: x.",
    ]
    assert rewritten(["    >>> f(1, 2)"]) == [".. code-block:: pycon", "", "    >>> f(1, 2)"]
    assert rewritten(["python -m gluonlm.train"])[0] == ".. code-block:: sh"


def test_the_page_of_results_has_every_record(extension, tmp_path):
    page = extension("results_page").results_page(tmp_path / "pictures")
    for name, (config, result) in recorded().items():
        assert f"](#{name})" in page
        assert f'({name})=\n<details id="{name}"><summary><b>{name}</b>: test perplexity' in page
        assert f"</summary>\n\n```sh\n{config['command']}\n```" in page
        assert f"{result['test_perplexity']:.2f}" in page
        assert (tmp_path / "pictures" / f"{name}.png").stat().st_size > 5000
    assert "published" in page
    first = page.index("<details")
    for name in ("ranking", "parameters", "bytes", "race"):
        assert page.index(f"](pictures/{name}.svg)") < first


def test_the_chart_of_readme_is_that_of_the_records(extension):
    chart = (ROOT / "docs" / "_static" / "race.svg").read_text()
    assert chart == extension("charts").svg("race")  # else: python docs/_ext/charts.py


def test_every_notebook_module_and_result_has_its_place(site, pages):
    notebooks = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    package = ROOT / "gluonlm"
    modules = [
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("[!_]*.py")
    ]
    assert all((site / "notebooks" / f"{name}.html") in pages for name in notebooks)
    assert all((site / "api" / f"gluonlm.{name}.html") in pages for name in modules)
    front = (site / "index.html").read_text()
    linked = re.findall(r'<a href="notebooks/(\w+)\.html"><circle', front)
    assert linked == notebooks  # the picture of the path, in order of number
    rooms = {name.partition(".")[0] for name in modules if "." in name}
    for room in rooms:
        assert f"<h1>gluonlm.{room}<" in (site / "api" / f"gluonlm.{room}.html").read_text()
    results = (site / "results.html").read_text()
    assert all(f'href="#{name}"' in results for name in recorded())


def test_what_a_lesson_shows_is_on_its_page(site):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        page = Page(site / "notebooks" / f"{path.stem}.html")
        outputs = [
            o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", ())
        ]
        stored = [
            o.metadata.get("image/png", {}).get("alt", "")
            for o in outputs
            if "image/png" in o.get("data", {})
        ]
        assert [alt for source, alt in page.pictures if "_images" in source] == stored


def test_a_lesson_can_be_downloaded_and_shown_where_it_is_sent(site):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        page = (site / "notebooks" / f"{path.stem}.html").read_text()
        assert f'<a href="{path.name}" download>' in page
        assert (site / "notebooks" / path.name).read_bytes() == path.read_bytes()
        assert '<meta property="og:description" content="' in page
        assert "og:image" not in page  # nobody has said where the site is
        assert page.count(">Show code<") == page.count("tag_hide-input") > 0


def test_shapes_of_docstrings_stand_out(site):
    page = (site / "api" / "gluonlm.model.softmax.html").read_text()
    assert re.search(
        r'<code class="[^"]*literal[^"]*">\s*<span class="pre">\(T,</span> <span class="pre">N,',
        page,
    )
    assert "<strong>targets</strong>" in page


def test_formulas_need_no_script(site):
    page = (site / "notebooks" / "01_language_model.html").read_text()
    assert "<math" in page
    assert r"\mid" not in page


def test_no_link_within_the_site_is_broken(pages):
    assert len(pages) > 20
    assert broken(pages) == []


def test_nothing_is_loaded_from_another_host(pages):
    assert [
        source for page in pages.values() for source in page.sources if urlsplit(source).netloc
    ] == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#x">1</a><a href="b.html#y">2</a><a href="c.html">3</a>'
    )
    (tmp_path / "b.html").write_text(
        '<p id="x"><img src="no.png"><a href="https://a.org">4</a><a href="#z">5</a>'
    )
    both = {path: Page(path) for path in (tmp_path / "a.html", tmp_path / "b.html")}
    assert broken(both) == ["a.html: b.html#y", "a.html: c.html", "b.html: #z", "b.html: no.png"]


# What is wrong with a page as it is laid out: pictures without pixels, and what sticks out of the
# window at the right without a frame of its own to be scrolled in.
FAULTS = """(async () => {
  const faults = [];
  for (const image of document.images) {
    image.loading = "eager"; // one below the window would wait until somebody scrolls there
    await image.decode().catch(() => faults.push("no picture: " + image.src.slice(-60)));
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push("the page is " + wide + " wide");
  const scrolls = node => node && node !== document.body &&
    (["auto", "scroll"].includes(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
  for (const node of document.querySelectorAll("article *")) {
    const box = node.getBoundingClientRect();
    if (box.width && box.right > innerWidth + 1 && !scrolls(node.parentElement) && !scrolls(node))
      faults.push("sticks out: " + node.tagName + " " + node.textContent.slice(0, 40));
  }
  return faults;
})()"""


def pictures(tab, folder: Path, name: str) -> None:
    """Take pictures of a page from top to bottom."""
    width, tall = tab.viewport_size["width"], tab.evaluate("document.documentElement.scrollHeight")
    for part, top in enumerate(range(0, tall, TALLEST), 1):
        tab.screenshot(
            path=folder / f"{name.replace('/', '-')}-{part}.jpg",
            type="jpeg",  # a PNG of a long page takes seconds
            quality=80,
            full_page=True,
            clip={"x": 0, "y": top, "width": width, "height": min(TALLEST, tall - top)},
        )


def test_every_page_looks_right_at_a_desk_and_on_a_phone_by_day_and_by_night(site, pages, tab):
    folder = os.environ.get("SCREENSHOTS")
    faults, backgrounds = [], {"light": set(), "dark": set()}
    for path in pages:
        name = path.relative_to(site).with_suffix("").as_posix()
        if name.startswith("_modules"):
            continue  # source code, nothing else
        tab.goto(path.as_uri())
        for look, (width, height) in LOOKS.items():
            for scheme, seen in backgrounds.items():
                if name.startswith("api/gluonlm.") and (look, scheme) not in ENOUGH:
                    continue
                tab.set_viewport_size({"width": width, "height": height})
                tab.emulate_media(color_scheme=scheme)
                faults += [f"{name}, {look}, {scheme}: {fault}" for fault in tab.evaluate(FAULTS)]
                seen.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
                if folder:
                    pictures(tab, Path(folder) / f"{look}-{scheme}", name)
        faults += [f"{name}: {error}" for error in tab.errors]
        tab.errors.clear()
    assert faults == []
    assert len(backgrounds["light"]) == len(backgrounds["dark"]) == 1
    assert backgrounds["light"] != backgrounds["dark"]


def test_the_search_shows_lessons_before_modules(site, tab):
    tab.goto(f"{(site / 'search.html').as_uri()}?q=perplexity")
    tab.wait_for_selector("#search-results li:nth-child(20) a")
    found = tab.eval_on_selector_all(
        "#search-results li > a", "links => links.map(link => link.getAttribute('href'))"
    )
    kinds = [address.split("/")[0] for address in found]
    assert kinds[0] == "notebooks"
    assert "api" in kinds
    assert "notebooks" not in kinds[kinds.index("api") :]


def test_a_page_that_looks_wrong_is_found(tab, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<article><img src='no.png'><div style='width: 2000px'>wide</div>"
        "<script>console.error('oops')</script><div style='overflow-x: auto'>"
        "<div style='width: 3000px'>may scroll</div></div></article>"
    )
    width, height = LOOKS["phone"]
    tab.set_viewport_size({"width": width, "height": height})
    tab.goto((tmp_path / "bad.html").as_uri())
    faults = tab.evaluate(FAULTS)
    assert any(fault.startswith("no picture") for fault in faults)
    assert any("wide" in fault for fault in faults)
    assert not any(fault.startswith("sticks out: DIV may") for fault in faults)
    assert any("oops" in error for error in tab.errors)
    assert any("no.png" in error for error in tab.errors)
