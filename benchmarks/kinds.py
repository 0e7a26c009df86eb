"""Kinds of text, each from a raw file to a model in four commands: docs/guide/kinds.md.

    python benchmarks/kinds.py                                # all eight, and the page: six minutes
    python benchmarks/kinds.py --kinds dna --steps 2 --out /tmp/kinds.md

The texts are made of what is on the machine. The commands run in a folder of their own, as they are
written on the page.
"""

import argparse
import json
import lzma
import os
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from babel.messages.mofile import read_mo

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import machine_record

ROOT = Path(__file__).parents[1]
NOVELS = ROOT / "data" / "raw" / "austen.txt.xz"
CATALOGS = Path("/usr/share/locale")
WORDS = "--preset fast-cpu --emsize 128 --nhid 128"
CHARACTERS = "--tied --optimizer adam --lr 0.005 --schedule linear --emsize 128 --nhid 128"
WRITE = "--seed-text '{seed}' --words 60 --temperature 0.7"
INTRODUCTION = """# Kinds of text

Written by `python benchmarks/kinds.py`, which ran every command below as it stands, in a folder
with the raw text. Training is kept below 20 seconds: the samples show that the way works, not what
such a model can learn, and a Kneser-Ney trigram is ahead of nearly all of them.
[Data sets](data.md) explains the options.
"""


@dataclass(frozen=True)
class Kind:
    """A kind of text: how it is made, and what is typed."""

    title: str
    about: str
    source: str
    make: Callable[[Path], None]
    prepare: str
    train: str
    seed: str
    line: str
    write: str = WRITE


def novels(following: str) -> str:
    """The novels before the one of that title, as their file has them."""
    return lzma.decompress(NOVELS.read_bytes()).decode().partition(f"\n{following}\n")[0]


def paragraphs() -> list[str]:
    """The longer paragraphs of the first two novels, each on one line."""
    parts = novels("NORTHANGER ABBEY").split("\n\n")
    return [line for part in parts if len(line := " ".join(part.split())) > 80]


def gutenberg(path: Path) -> None:
    """Write the novel with Project Gutenberg's header and licence around it."""
    mark = "*** {} OF THE PROJECT GUTENBERG EBOOK EMMA ***"
    head = f"The Project Gutenberg eBook of Emma\n\n{mark.format('START')}\n\n"
    tail = f"\n\n{mark.format('END')}\n\nUpdated editions will replace the previous one.\n"
    path.write_text(
        f"\ufeff{head}{novels('MANSFIELD PARK')}{tail}", encoding="utf-8", newline="\r\n"
    )


def translations(language: str, letters: str, path: Path) -> None:
    """Write the messages of installed programs in this language, one a line, each once."""
    found: dict[str, None] = {}
    for catalog in sorted(CATALOGS.glob(f"{language}/LC_MESSAGES/*.mo")):
        with catalog.open("rb") as file:
            for message in read_mo(file):
                both = [message.string] if isinstance(message.string, str) else message.string
                found |= dict.fromkeys(" ".join(text.split()) for text in both if message.id)
    lines = [text for text in found if len(re.findall(letters, text)) > max(8, 0.6 * len(text))]
    if not lines:
        raise UserError(f"{CATALOGS}/{language} has no translations: leave this kind out (--kinds)")
    path.write_text("\n".join(lines[:8000]) + "\n", encoding="utf-8")


def modules(path: Path) -> None:
    """Copy two packages of Python's standard library."""
    for package in ("json", "email"):
        for file in sorted(Path(sysconfig.get_path("stdlib"), package).glob("*.py")):
            (path / package).mkdir(parents=True, exist_ok=True)
            (path / package / file.name).write_bytes(file.read_bytes())


def bases(path: Path) -> None:
    """Write 100,000 bases on one line: at random, with a motif of 12 about every 40."""
    draw = random.Random(1)
    parts = [
        "TATAAAGGCCAT" if draw.random() < 0.025 else draw.choice("ACGT") for _ in range(100_000)
    ]
    path.write_text("".join(parts)[:100_000] + "\n")


def one_line(path: Path) -> None:
    """Write two novels as text8 is: small letters and single blanks, no line end."""
    text = novels("NORTHANGER ABBEY").lower()
    path.write_text(" ".join(re.findall("[a-z]+", text)))


def articles(path: Path) -> None:
    """Write a file for each paragraph."""
    path.mkdir()
    for number, text in enumerate(paragraphs()):
        (path / f"{number:04}.txt").write_text(text + "\n", encoding="utf-8")


def records(path: Path) -> None:
    """Write a line of JSON for each paragraph."""
    rows = ({"id": number, "text": text} for number, text in enumerate(paragraphs()))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def chinese(path: Path) -> None:
    """Write the translations into Chinese."""
    translations("zh_CN", "[\u4e00-\u9fff]", path)


def arabic(path: Path) -> None:
    """Write the translations into Arabic."""
    translations("ar", "[\u0600-\u06ff]", path)


KINDS = {
    "novel": Kind(
        "A novel as Project Gutenberg has it",
        "*Emma* from `data/raw`, with a byte order mark, CRLF, Gutenberg's header and end around it.",
        "emma.txt",
        gutenberg,
        "--lowercase --numbers --drop _ --split 90 5 5",
        WORDS,
        "She said",
        "She was very happy.",
    ),
    "chinese": Kind(
        "Chinese",
        "Messages of this machine's programs (`/usr/share/locale/zh_CN`), the first 8,000, "
        "each once, one a line.",
        "chinese.txt",
        chinese,
        "--level char --min-count 2 --split 90 5 5",
        CHARACTERS,
        "无法",
        "无法打开文件",
    ),
    "arabic": Kind(
        "Arabic",
        "Messages of this machine's programs (`/usr/share/locale/ar`), each once, one a line. "
        "So small a text of a language with so many forms needs subwords.",
        "arabic.txt",
        arabic,
        "--level subword --vocab-size 1000",
        CHARACTERS,
        "لا يمكن",
        "لا يمكن فتح الملف",
    ),
    "source": Kind(
        "A source tree",
        "The packages `json` and `email` of Python's standard library.",
        "modules",
        modules,
        "--level char --min-count 3",
        CHARACTERS,
        "def ",
        "return self",
        WRITE.replace("60", "200"),
    ),
    "dna": Kind(
        "DNA",
        "Drawn at random with a fixed seed, on one line; after every 40 bases or so comes "
        "the motif `TATAAAGGCCAT`, which a model can learn.",
        "dna.txt",
        bases,
        "--level char",
        CHARACTERS,
        "TATAAA",
        "TATAAAGGCCAT",
    ),
    "text8": Kind(
        "One long line, as text8",
        "The letters of *Emma* and *Mansfield Park* in lower case, words separated by single blanks.",
        "letters.txt",
        one_line,
        "--no-sentences --split 90 5 5",
        WORDS,
        "she said",
        "she was very happy",
    ),
    "articles": Kind(
        "Many small files, as Reuters",
        "A file for each longer paragraph of the two novels; each goes whole to one of the three texts.",
        "articles",
        articles,
        "--lowercase --drop _ --split 90 5 5",
        WORDS,
        "She said",
        "She was very happy.",
    ),
    "records": Kind(
        "JSON lines",
        "The same paragraphs as JSON lines with the fields `id` and `text`.",
        "records.jsonl",
        records,
        "--field text --lowercase --drop _ --split 90 5 5",
        WORDS,
        "She said",
        "She was very happy.",
    ),
}


def commands(name: str, kind: Kind, steps: int) -> list[str]:
    """What is typed: prepare, train, generate, score."""
    python = "python -m gluonlm."
    return [
        f"{python}prepare {kind.source} --out data/{name} {kind.prepare}",
        f"{python}train --data data/{name} {kind.train} --epochs 1 --max-batches {steps} "
        f"--save runs/{name}",
        f"{python}generate runs/{name} {kind.write.format(seed=kind.seed)}",
        f"printf '{kind.line}\\n' | {python}score runs/{name}",
    ]


def typed(command: str, folder: Path) -> str:
    """What the command prints in this folder; Python and the package are those that run here."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    surroundings = os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=surroundings, capture_output=True, encoding="utf-8"
    )
    if ended.returncode or "Traceback" in ended.stderr:
        raise UserError(f"{command} ended with {ended.returncode}: {ended.stderr.strip()}")
    return ended.stdout.strip()


def shortened(text: str, characters: int = 110, lines: int = 99) -> str:
    """The first lines, none longer than so many characters."""
    return "\n".join(line.rstrip()[:characters] for line in text.strip().splitlines()[:lines])


def section(name: str, kind: Kind, steps: int) -> tuple[str, str]:
    """Run a kind's commands; returns its row of the table and its part of the page."""
    lines = commands(name, kind, steps)
    with tempfile.TemporaryDirectory() as folder:
        kind.make(Path(folder, kind.source))
        prepared, trained, sample, scored = (typed(line, Path(folder)) for line in lines)
    report, _, rest = prepared.partition("the longest lines:")
    first = rest.partition("training text:\n")[2].splitlines()
    notes = [line for line in first if line.startswith("note:")]
    report += "\n".join(["the first line of the training text:", first[0], *notes])
    unknown = re.search(r"^test .* (\S+ %)$", report, re.MULTILINE)[1]
    result = re.search(r"^test loss \S+ \| (.*)$", trained, re.MULTILINE)[1]
    compared = re.search(r"^for comparison: (.*)$", trained, re.MULTILINE)[1]
    seconds = re.search(r"\| +(\d+) s \|", trained)[1]
    row = f"| [{kind.title}](#{slug(kind.title)}) | {unknown} | {result.replace(' | ', ', ')} |"
    block = "```{}\n{}\n```\n".format
    page = f"""## {kind.title}

{kind.about}

{block("sh", chr(10).join(lines))}
`prepare` reports:

{block("text", shortened(report, lines=12))}
After {seconds} seconds of training, {result.replace(" | ", ", ")} (for comparison: {compared}). A sample:

{block("text", shortened(sample, 300, 6))}
And the scored line:

{block("text", scored)}"""
    return row, page


def slug(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def main(argv: list[str]) -> None:
    """Run the kinds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=150, help="of training (150)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "guide" / "kinds.md")
    options = parser.parse_args(argv)
    rows, pages = [], []
    for name in options.kinds:
        row, page = section(name, KINDS[name], options.steps)
        print(row, flush=True)
        rows.append(row)
        pages.append(page)
        table = "\n".join(["| kind | unknown in the test text | test |", "|---|---|---|", *rows])
        here = machine_record()
        about = ", ".join(f"{key} {here[key]}" for key in ("python", "mxnet", "cpu", "date"))
        text = "\n".join([INTRODUCTION, table + "\n", *pages, f"Written on: {about}."])
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
