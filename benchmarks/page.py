"""How soon the page in the browser shows a word, and how long each further one takes.

    python benchmarks/page.py                    # needs Chromium; results/page.json

The page with the model that comes with the project is opened from disk and asked to write on, as a
reader would; the first word counts from the opening, drawing included.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from gluonlm.cli import run
from gluonlm.model.checkpoint import load_model
from gluonlm.onnx.web import page
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="openings (default: 7)")
    parser.add_argument("--out", type=Path, default=RESULTS / "page.json")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder, "page.html")
        path.write_text(page(load_model("austen")), encoding="utf-8")
        browser = chromium(playwright)
        rounds = [measured(browser.new_page(), path) for _ in range(options.rounds)]
        browser.close()
        figures = {
            "megabytes": path.stat().st_size / 1e6,
            "first_word_seconds": statistics.median(first for first, _ in rounds),
            "milliseconds_per_word": 1000 * statistics.median(each for _, each in rounds),
            "rounds": rounds,
        }
    print(
        f"{figures['megabytes']:.1f} MB: the first word after {figures['first_word_seconds']:.2f} "
        f"s, then {figures['milliseconds_per_word']:.1f} ms a word"
    )
    return record(options.out, ["python", "benchmarks/page.py", *argv], **figures)


def chromium(playwright: Playwright) -> Browser:
    """The system's Chromium, without a window.

    :raises UserError: if there is none.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        raise UserError("there is no Chromium: install it (Debian, Ubuntu: apt install chromium)")
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


def measured(tab: Page, path: Path) -> tuple[float, float]:
    """Seconds from opening the page to its first written word, and of each further word."""
    began = time.perf_counter()
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-ready=yes]")
    tab.fill("#text", "she was")
    tab.click("#write")
    tab.wait_for_function("document.querySelector('#text').value.split(' ').length > 2")
    first = time.perf_counter()
    tab.wait_for_selector("#write:enabled")
    further = int(tab.inner_text("#speed").split()[0]) - 1
    each = (time.perf_counter() - first) / max(further, 1)
    tab.close()
    return first - began, each


if __name__ == "__main__":
    run(main)
