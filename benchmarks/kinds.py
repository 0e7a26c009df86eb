"""Eight kinds of text for docs/guide/kinds.md, and what the commands of that page print.

    apt-get download debian-handbook bowtie2-examples
    for package in *.deb; do dpkg -x $package debian; done
    python benchmarks/kinds.py debian                    # a quarter of an hour of one core
    python benchmarks/kinds.py debian --kinds DNA Arabic # only these sections of the page
    python benchmarks/kinds.py debian --seed 1112        # with another one: results/kinds.json

The texts are those of data/raw, of the two packages and of Python's standard library. Each block of
commands on the page runs as it stands in a folder with the texts; what it prints, shortened,
becomes the block of text after it. With --seed the page stays, and what the models reach on their
test texts is recorded.
"""

import argparse
import gzip
import html
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from pathlib import Path

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record

ROOT = Path(__file__).parents[1]
TITLES = (
    r"\n(MANSFIELD PARK|NORTHANGER ABBEY|Persuasion|PRIDE AND PREJUDICE|SENSE AND SENSIBILITY)\n"
)
HANDBOOK = "usr/share/doc/debian-handbook/html"
PHAGE = "usr/share/doc/bowtie2/examples/reference/lambda_virus.fa.gz"
MODULES = ("asyncio", "email", "json", "logging")
SECTION = re.compile(r"^## (.+?)\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
BLOCKS = re.compile(r"```sh\n(.*?)```\n\n```text\n.*?```", re.DOTALL)
SHOWN = {  # of what a command prints; of others all
    "prepare": re.compile(r"\S+: .* entries|split |train  |valid |test |note: "),
    "train": re.compile(r"test loss|for comparison"),
}
TEST = re.compile(r"^test loss .*?\| test ([a-z ]+?) ([\d.]+)", re.MULTILINE)
TRIGRAM = re.compile(r"kneser_ney ([\d.]+)$", re.MULTILINE)
WIDTH = 100  # characters of a line on the page


def novel(title: str) -> str:
    """One of the novels in data/raw."""
    text = lzma.decompress((ROOT / "data" / "raw" / "austen.txt.xz").read_bytes()).decode()
    titles = ["EMMA", *re.findall(TITLES, text)]
    return re.split(TITLES, text)[::2][titles.index(title)]


def paragraphs(text: str) -> list[str]:
    """The longer paragraphs of a novel, each on one line."""
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return [part for part in parts if len(part) > 40]


def handbook(folder: Path, letters: str) -> dict[str, list[str]]:
    """The paragraphs of each page of Debian's handbook that are of such letters, by its name."""
    found = {}
    for page in sorted(folder.glob("*.html")):
        divisions = re.findall(r'<div class="para">(.*?)</div>', page.read_text("utf-8"), re.DOTALL)
        texts = (" ".join(html.unescape(re.sub("<.*?>", "", one)).split()) for one in divisions)
        found[page.stem] = [t for t in texts if len(re.findall(letters, t)) > len(t) / 2]
    return found


def write_prose(folder: Path) -> None:
    """The texts that data/raw has: a novel, one long line, and JSON lines."""
    mark = "*** {} OF THE PROJECT GUTENBERG EBOOK EMMA ***"
    parts = ["The Project Gutenberg eBook of Emma", mark.format("START"), novel("EMMA")]
    parts += [mark.format("END"), "Updated editions will replace the previous one."]
    text = "\ufeff" + "\n\n".join(parts) + "\n"
    (folder / "emma.txt").write_text(text, encoding="utf-8", newline="\r\n")
    several = "".join(map(novel, ("MANSFIELD PARK", "NORTHANGER ABBEY", "Persuasion")))
    letters = re.findall("[a-z]+", several.lower())
    (folder / "letters.txt").write_text(" ".join(letters))
    with (folder / "novels.jsonl").open("w", encoding="utf-8") as file:
        for title in ("PRIDE AND PREJUDICE", "SENSE AND SENSIBILITY"):
            for text in paragraphs(novel(title)):
                file.write(json.dumps({"novel": title.title(), "text": text}) + "\n")


def write_others(debian: Path, folder: Path) -> None:
    """The texts of Debian and of Python."""
    for name, language, letters in (
        ("chinese", "zh-CN", "[\u4e00-\u9fff]"),
        ("arabic", "ar-MA", "[\u0600-\u06ff]"),
    ):
        pages = handbook(debian / HANDBOOK / language, letters).values()
        lines = dict.fromkeys(sum(pages, []))
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "articles").mkdir()
    for name, lines in handbook(debian / HANDBOOK / "en-US", "[A-Za-z]").items():
        (folder / "articles" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bases = gzip.decompress((debian / PHAGE).read_bytes()).decode().splitlines()[1:]
    (folder / "phage.txt").write_text("".join(bases))
    for package in MODULES:
        source = Path(sysconfig.get_path("stdlib"), package)
        hidden = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / "modules" / package, ignore=hidden)


def typed(command: str, folder: Path) -> str:
    """What a command prints in this folder; Python and the package are those that run here."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    around = os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", command], cwd=folder, env=around, capture_output=True)
    if ended.returncode or b"Traceback" in ended.stderr:
        said = ended.stderr.decode().strip()
        raise UserError(f"{command} ended with {ended.returncode}: {said}")
    return ended.stdout.decode()


def shortened(command: str, said: str) -> str:
    """What the page shows of what a command printed."""
    program = re.search(r"gluonlm\.(\w+)", command)[1]
    shown = SHOWN.get(program, re.compile(""))
    lines = [line for line in said.strip("\n").split("\n") if shown.match(line)]
    keep = {"width": WIDTH, "expand_tabs": False, "replace_whitespace": False}
    return "\n".join("\n".join(textwrap.wrap(line, **keep)) for line in lines)


def filled(section: str, folder: Path) -> str:
    """A section of the page with what its commands print now."""

    def answered(block: re.Match) -> str:
        commands = block[1].replace("\\\n", "").splitlines()
        parts = [shortened(command, typed(command, folder)) for command in commands]
        return f"```sh\n{block[1]}```\n\n```text\n" + "\n\n".join(parts) + "\n```"

    return BLOCKS.sub(answered, section)


def trained(section: str, folder: Path, seed: int) -> dict:
    """What the model of a section reaches with a seed."""
    commands = re.sub(r"\\\n *", "", section).splitlines()
    prepare, train = ([c for c in commands if f"gluonlm.{one} " in c] for one in SHOWN)
    typed(prepare[0], folder)
    said = typed(f"{train[0]} --seed {seed}", folder)
    (unit, reached), trigram = TEST.search(said).groups(), TRIGRAM.search(said)[1]
    row = {"seed": seed, "unit": unit, "test": float(reached), "kneser_ney": float(trigram)}
    print(f"{train[0]} --seed {seed}: {row['test']}, Kneser-Ney {trigram} ({unit})", flush=True)
    return {"command": train[0], **row}


def main(argv: list[str]) -> None:
    """Write the texts, run the commands of the page and put there what they print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("debian", type=Path, help="folder with the two packages")
    parser.add_argument("--kinds", nargs="+", help="words in the headings of what is to run")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "guide" / "kinds.md")
    parser.add_argument("--seed", type=int, help="train with it, and leave the page as it is")
    parser.add_argument("--out", type=Path, default=RESULTS / "kinds.json", help="with --seed")
    options, rows = parser.parse_args(argv), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_prose(folder)
        write_others(options.debian, folder)
        for found in SECTION.finditer(options.page.read_text("utf-8")):
            if options.kinds and not any(word in found[1] for word in options.kinds):
                continue
            if options.seed is None:
                section = filled(found[0], folder)
                page = options.page.read_text("utf-8").replace(found[0], section)
                options.page.write_text(page, encoding="utf-8")
            else:
                rows[found[1]] = trained(found[0], folder, options.seed)
    if rows:
        record(options.out, ["python", "benchmarks/kinds.py", *argv], kinds=rows)


if __name__ == "__main__":
    run(main)
