"""From documents to a data set: units of text, a vocabulary, and three texts that never overlap.

    >>> prepare(Sources(["novel.txt"]), Path("data/novel"), Rules(lowercase=True), {})

A unit is what becomes a line: a sentence, or a line as it was. Each document is cut at the same
shares of its units, or, if it is short, goes whole to the text that lacks most. Memory holds the
counts of the words, not the text: what is not decided yet waits in a temporary file in the folder.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

from gluonlm.system.files import Lock, write_output
from gluonlm.text.checks import Checks
from gluonlm.text.documents import JOIN, Sources
from gluonlm.text.splits import LISTED, Splits, Unit
from gluonlm.text.tokenizer import sentences, tokenize
from gluonlm.text.vocabulary import Limits

LOOKED_AT = 300  # lines that show whether a text is wrapped
WIDEST, TALLEST = 100, 40  # characters of a line, lines of a usual paragraph in a wrapped text
LONGEST = 500  # lines of a paragraph


@dataclass(frozen=True)
class Rules:
    """How a text is made into a data set, as the options of ``python -m gluonlm.prepare`` say."""

    level: str = "word"
    tokenizer: str = "moses"
    lowercase: bool = False
    numbers: bool = False
    sentences: bool = True
    wrapped: bool | None = None
    document: str | None = None
    begin: str | None = None
    end: str | None = None
    drop: tuple[str, ...] = ()
    shares: tuple[float, float, float] = (80, 10, 10)
    vocab_size: int | None = None
    min_count: int | None = None

    @property
    def limits(self) -> Limits:
        """Those of the vocabulary: words seen once usually teach ``<unk>``."""
        size = self.vocab_size or (8000 if self.level == "subword" else None)
        usual = 2 if self.level == "word" and self.vocab_size is None else 1
        return Limits(size, self.min_count or usual)


def prepare(sources: Sources, out: Path, rules: Rules, about: dict) -> tuple[dict, Checks]:
    """Write train.txt, valid.txt, test.txt and dataset.json, with ``about`` in it, into ``out``;
    returns what it holds, and what the checks have seen, for the report."""
    checks = Checks()
    with scratch_folder(out) as scratch:
        splits = Splits(scratch, rules.shares, rules.level)
        for title, lines in sources.documents():
            for part, group in groupby(select(title, lines, rules), key=lambda pair: pair[0]):
                watched = checks.watch((line for _, line in group), partial(dropped, rules=rules))
                splits.add(part, units(watched, rules))
        figures = splits.finish(rules.limits, checks)
        notes = [*sources.notes, *checks.warnings(rules.level, figures["splits"])]
        made = {**about, "sources": sources.files[:LISTED], **figures, "notes": notes}
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        write_output(scratch / "dataset.json", text)
        install(scratch, out)
    return made, checks


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A folder for what waits, in ``out``, into which nobody else prepares meanwhile; ``out`` and
    the folders around it that are made for it go again if nothing comes of it."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out)
    try:
        for left in out.glob(".prepare-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".prepare-") as folder:
            yield Path(folder)
    finally:
        lock.release()
        with suppress(OSError):  # it is not empty, unless nothing has come of it
            for folder in made:
                folder.rmdir()


def install(scratch: Path, out: Path) -> None:
    """Put a data set in the place of another, which goes first: wherever that is cut short, there
    is no train.txt, or all is there, and never texts of both."""
    names = ("train.txt", "dataset.json", "valid.txt", "test.txt")
    for name in names:
        (out / name).unlink(missing_ok=True)
    for name in reversed(names):
        os.replace(scratch / name, out / name)


def select(title: str, lines: Iterable[str], rules: Rules) -> Iterator[tuple[str, str]]:
    """(title, line) for each line of a document, whose title may be a line of the file."""
    inside = rules.begin is None
    for line in lines:
        stripped = line.strip()
        if rules.document and re.search(rules.document, stripped):
            title, inside = stripped, rules.begin is None
        elif rules.end and re.search(rules.end, stripped):
            inside = False
        elif inside or re.search(rules.begin or "", stripped):
            inside = True
            yield title, line


def units(lines: Iterator[str], rules: Rules) -> Iterator[Unit]:
    """What becomes a line each: at character level a line, else a sentence."""
    if rules.level == "char":
        for line in lines:
            whole, text = not line.endswith(JOIN), dropped(line.removesuffix(JOIN), rules)
            text = text.lower() if rules.lowercase else text
            yield Unit(text, len(text) + whole, len(text.split()), whole)
        return
    for paragraph, whole in paragraphs(lines, rules):
        found = list(sentences(paragraph)) if rules.sentences else [paragraph]
        for number, sentence in enumerate(found, 1):
            if unit := unit_of(sentence, whole or number < len(found), rules):
                yield unit


def unit_of(sentence: str, whole: bool, rules: Rules) -> Unit | None:
    """A sentence as tokens separated by blanks, or for subwords as it is; None if it has none."""
    as_it_is = sentence.lower() if rules.lowercase else sentence
    tokens = as_it_is.split()
    if rules.tokenizer == "moses":
        tokens = tokenize(sentence, rules.lowercase, rules.numbers)
    if not tokens:
        return None
    text = as_it_is if rules.level == "subword" else " ".join(tokens)
    return Unit(text, len(sentence) + 1, len(tokens) + whole, whole)


def dropped(text: str, rules: Rules) -> str:
    """A paragraph or line without what the rules drop."""
    for pattern in rules.drop:
        text = re.sub(pattern, "", text)
    return text


def paragraphs(lines: Iterator[str], rules: Rules) -> Iterator[tuple[str, bool]]:
    """Paragraphs of a wrapped text, else lines, as far as kept; False for one that goes on."""
    head = list(islice(lines, LOOKED_AT))
    wrapped = is_wrapped(head) if rules.wrapped is None else rules.wrapped
    lines = chain(head, lines)
    for text in joined(lines) if wrapped else lines:
        kept = dropped(" ".join(text.removesuffix(JOIN).split()), rules).split()
        if kept:
            yield " ".join(kept), not text.endswith(JOIN)


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines up to a blank one as one; a paragraph that does not end comes in parts."""
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        while not blank and (part := list(islice(group, LONGEST))):
            yield " ".join(part)


def is_wrapped(lines: list[str]) -> bool:
    """Whether the lines of a text are cut at some width, with blank lines between paragraphs."""
    full = [line for line in lines if line.strip()]
    blank = len(lines) - len(full)
    if blank <= len(full) / TALLEST or max(map(len, full), default=0) > WIDEST:
        return False
    neighbours = sum(bool(a.strip() and b.strip()) for a, b in zip(lines, lines[1:]))
    return neighbours > len(full) / 3 and sorted(map(len, full))[len(full) // 2] > 40
