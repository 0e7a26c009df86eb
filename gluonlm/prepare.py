"""Make a data set from raw text: tokens, sentences, a vocabulary with ``<unk>``, and three texts that never overlap.

python -m gluonlm.prepare novel.txt --out data/novel --lowercase --vocab-size 10000

Out comes a folder with train.txt, valid.txt, test.txt and dataset.json, for ``python -m gluonlm.train --data FOLDER``.
"""

import argparse
import hashlib
import json
import lzma
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from gluonlm.cli import run
from gluonlm.system.files import write_atomically
from gluonlm.text.preparation import Rules, prepare, select


def parser() -> argparse.ArgumentParser:
    """The options; those named as in :class:`~gluonlm.text.preparation.Rules` become one."""
    options = argparse.ArgumentParser(
        prog="gluonlm.prepare", description="Make a data set from raw text."
    )
    add = options.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="a text file, also .xz")
    add("--out", required=True, type=Path, metavar="FOLDER", help="where the data set goes")
    words = options.add_argument_group("words").add_argument
    words("--lowercase", action="store_true", help="all words in small letters")
    words("--numbers", action="store_true", help="N for each number in digits")
    words("--vocab-size", type=int, metavar="N", help="keep the N most frequent, <unk> for others")
    words("--min-count", type=int, default=1, metavar="N", help="keep words seen N times")
    text = options.add_argument_group("what is text").add_argument
    regex = {"metavar": "REGEX"}
    text("--document", **regex, help="a line that is the title of a new document, and no text")
    text("--begin", **regex, help="a document's text begins with such a line")
    text("--end", **regex, help="a document's text ends before such a line")
    text("--drop", **regex, action="append", default=[], help="no text, within a paragraph")
    text(
        "--split",
        dest="shares",
        nargs=3,
        type=float,
        default=(80, 10, 10),
        metavar=("TRAIN", "VALID", "TEST"),
        help="shares of each document's lines (80 10 10)",
    )
    return options


def main(argv: list[str] | None = None) -> dict:
    """Make the data set and print a report; returns what dataset.json holds."""
    argv = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(argv)
    values = {field.name: getattr(options, field.name) for field in fields(Rules)}
    rules = Rules(**values | {"drop": tuple(options.drop), "shares": tuple(options.shares)})
    data = lzma.decompress(Path(options.sources[0]).read_bytes())
    lines = select(Path(options.sources[0]).name, data.decode().splitlines(), rules)
    made = {
        "name": options.out.name,
        "level": "word",
        "command": shlex.join(["python", "-m", "gluonlm.prepare", *argv]),
        "sources": [
            {"name": Path(options.sources[0]).name, "sha256": hashlib.sha256(data).hexdigest()}
        ],
        **prepare(lines, options.out, rules),
    }
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    write_atomically(options.out / "dataset.json", text.encode())
    print(text)
    return made


if __name__ == "__main__":
    run(main)
