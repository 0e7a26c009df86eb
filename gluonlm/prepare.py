"""Make a data set from raw text: tokens, sentences, a vocabulary, three texts without overlap.

python -m gluonlm.prepare novel.txt --out data/novel --lowercase --vocab-size 10000
python -m gluonlm.prepare articles/ more.txt.gz --out data/news --numbers  # also .xz, .bz2, .zip
python -m gluonlm.prepare reviews.jsonl --field text --out data/reviews    # JSON lines or CSV
zcat log.gz | python -m gluonlm.prepare - --out data/log --level char      # standard input
python -m gluonlm.prepare novel.txt --out data/pieces --level subword --vocab-size 4000

Out comes a folder with train.txt, valid.txt, test.txt and dataset.json, for ``python -m
gluonlm.train --data FOLDER``.
"""

import argparse
import codecs
import math
import re
import shlex
from dataclasses import asdict, fields
from pathlib import Path

from gluonlm.cli import Parser, at_least, dashes, run
from gluonlm.config import option
from gluonlm.system.errors import UserError
from gluonlm.text.checks import Checks
from gluonlm.text.documents import Sources
from gluonlm.text.preparation import Rules, prepare

SMALL = 1_000_000  # words or subwords to train on, below which --preset small-text is named


def parser() -> Parser:
    """The options; those named as in :class:`~gluonlm.text.preparation.Rules` become one."""
    options = Parser("prepare", __doc__)
    add = options.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="file, folder, archive, or - for stdin")
    add("--out", required=True, type=Path, metavar="FOLDER", help="where the data set goes")
    add("--encoding", default="utf-8", help="of what is not in UTF-8, such as cp1252 or gbk")
    add("--field", metavar="NAME", help="the field of JSON lines or CSV that holds the text")
    tokens = options.add_argument_group("tokens").add_argument
    tokens("--level", choices=("word", "char", "subword"), default="word", help="(word)")
    words = "moses sets punctuation apart, none takes what blanks separate (moses)"
    tokens("--tokenizer", choices=("moses", "none"), default="moses", help=words)
    tokens("--lowercase", action="store_true", help="all in small letters")
    tokens("--numbers", action="store_true", help="N for each number in digits")
    words = "a sentence per line, or lines and paragraphs as they are"
    tokens("--sentences", action=argparse.BooleanOptionalAction, default=True, help=words)
    words = "keep the N most frequent, <unk> for others"
    tokens("--vocab-size", type=at_least(3), metavar="N", help=words)
    words = "keep what occurs N times (2 at word level without --vocab-size)"
    tokens("--min-count", type=at_least(1), metavar="N", help=words)
    add_text_options(options)
    return options


def add_text_options(options: argparse.ArgumentParser) -> None:
    """What of the sources is text, and into which of the three texts it goes."""
    text = options.add_argument_group("what is text").add_argument
    words = "blank lines separate paragraphs, line ends do not (default: as it looks)"
    text("--wrapped", action=argparse.BooleanOptionalAction, help=words)
    regex = {"metavar": "REGEX"}
    text("--document", **regex, help="a line that is the title of a new document, and no text")
    text("--begin", **regex, help="a document's text begins with such a line")
    text("--end", **regex, help="a document's text ends before such a line")
    text("--drop", **regex, action="append", default=[], help="no text, within a paragraph")
    shares = {"dest": "shares", "nargs": 3, "type": float, "default": (80, 10, 10)}
    words = "shares of each document's lines, of a short one as a whole (80 10 10)"
    text("--split", **shares, metavar=("TRAIN", "VALID", "TEST"), help=words)


def rules_of(options: argparse.Namespace) -> Rules:
    """The options as rules; a UserError when one of them makes no sense."""
    if not all(0 < share < math.inf for share in options.shares):  # nor NaN
        raise UserError("--split: give three shares above 0, such as 80 10 10")
    for pattern in filter(None, [options.document, options.begin, options.end, *options.drop]):
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{pattern!r} is no regular expression: {error}") from None
    try:
        "".encode(options.encoding)
    except (LookupError, UnicodeError):  # one of Python's codecs is undefined
        raise UserError(f"--encoding {options.encoding}: there is no such encoding") from None
    values = {field.name: getattr(options, field.name) for field in fields(Rules)}
    rules = Rules(**values | {"drop": tuple(options.drop), "shares": tuple(options.shares)})
    check_effect(rules)
    return rules


def check_effect(rules: Rules) -> None:
    """Raise a UserError for a rule that would change nothing."""
    lines, words = "--level word or subword", "--level word and --tokenizer moses"
    needs = dict.fromkeys(("tokenizer", "sentences", "wrapped"), (rules.level != "char", lines))
    needs["numbers"] = rules.level == "word" and rules.tokenizer == "moses", words
    for name, (there, what) in needs.items():
        if not there and getattr(rules, name) != getattr(Rules, name):
            raise UserError(f"{option(name)} has no effect without {what}: leave it out")


def check_place(out: Path, sources: list[str]) -> None:
    """Refuse a folder that holds texts which were not prepared there, or the sources."""
    if (out / "train.txt").exists() and not (out / "dataset.json").exists():
        raise UserError(f"{out} has a train.txt that was not prepared: choose another --out")
    for source in filter(lambda source: source != "-", sources):
        path = Path(source)
        if not path.exists():
            raise UserError(f"there is no file or folder {source}: check the path")
        if out.resolve() in (path.resolve(), *path.resolve().parents) or (
            path.is_dir() and path.resolve() in out.resolve().parents
        ):
            raise UserError(f"--out {out} and {source} lie in each other: choose another --out")


def report(made: dict, checks: Checks, out: Path) -> str:
    """What has been made, in words."""
    lines = [f"{out}: {made['vocabulary']:,} entries in the vocabulary, of {made['types']:,} types"]
    lines.append("split         lines        tokens   unknown")
    for split, row in made["splits"].items():
        share = f"{row['unknown_percent']:.2f} %"
        lines.append(f"{split:<7}{row['lines']:>12,}{row['tokens']:>14,}{share:>10}")
    lines.append("the longest lines:")
    lines += [f"  {length:,} characters: {line} ..." for length, line in checks.longest]
    lines.append("the first lines of the training text:")
    lines += [f"  {line[:300]}" for line in checks.first]
    lines += [f"note: {note}" for note in made["notes"]]
    small = made["level"] != "char" and made["splits"]["train"]["tokens"] < SMALL
    preset = "--preset small-text " if small else ""
    lines.append(f"train on it: python -m gluonlm.train {preset}--data {shlex.quote(str(out))}")
    return "\n".join(lines)


def main(argv: list[str]) -> dict:
    """Make the data set and print a report; returns what dataset.json holds."""
    argv = dashes(argv)
    options = parser().parse_args(argv)
    rules = rules_of(options)
    check_place(options.out, options.sources)
    encoding = codecs.lookup(options.encoding).name  # one for UTF8, utf-8 and so on
    sources = Sources(options.sources, encoding, options.field)
    about = {
        "name": options.out.resolve().name,
        "level": rules.level,
        "rules": {name: asdict(rules)[name] for name in ("tokenizer", "lowercase", "numbers")},
        "command": shlex.join(["python", "-m", "gluonlm.prepare", *argv]),
    }
    replaces = (options.out / "dataset.json").is_file()
    made, checks = prepare(sources, options.out, rules, about)
    if replaces:
        print(f"note: the data set that was in {options.out} before has been replaced")
    print(report(made, checks, options.out))
    return made


if __name__ == "__main__":
    run(main)
