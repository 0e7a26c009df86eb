"""From documents to a data set: sentences, tokens, a vocabulary, and three texts that never overlap.

    >>> report = prepare(documents(sources, rules), out, rules)

Each document is cut at the same shares, or, if it is short, goes whole to the text that lacks most. Memory holds the
counts of the words, not the text: what is not decided yet waits in a temporary file in the folder.
"""

import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from gluonlm.system.errors import UserError
from gluonlm.text.tokenizer import sentences, tokenize
from gluonlm.text.vocabulary import EOS, UNK, Dictionary

SPLITS = ("train", "valid", "test")
WHOLE = 100  # lines: a shorter document is not cut
LISTED = 100  # documents: no more are listed with their counts


@dataclass(frozen=True)
class Rules:
    """How a text is made into a data set; the options of ``python -m gluonlm.prepare`` say what each one means."""

    lowercase: bool = False
    numbers: bool = False
    document: str | None = None
    begin: str | None = None
    end: str | None = None
    drop: tuple[str, ...] = ()
    shares: tuple[float, float, float] = (80, 10, 10)
    vocab_size: int | None = None
    min_count: int = 1


def select(title: str, lines: Iterable[str], rules: Rules) -> Iterator[tuple[str, str]]:
    """(title, line) for each line that belongs to a document, whose title may be a line of the file."""
    inside = rules.begin is None
    for line in lines:
        stripped = line.strip()
        if rules.document and re.search(rules.document, stripped):
            title, inside = stripped, rules.begin is None
        elif rules.end and re.search(rules.end, stripped):
            inside = False
        elif inside:
            yield title, stripped
        elif re.search(rules.begin or "", stripped):
            inside = True
            yield title, stripped


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Lines up to a blank one as one string."""
    for blank, group in groupby(lines, key=lambda line: not line):
        if not blank:
            yield " ".join(" ".join(group).split())


def tokenized(paragraph: str, rules: Rules) -> Iterator[list[str]]:
    """The sentences of a paragraph as lists of tokens, without what the rules drop."""
    for pattern in rules.drop:
        paragraph = re.sub(pattern, "", paragraph)
    for sentence in sentences(paragraph):
        if tokens := tokenize(sentence, rules.lowercase, rules.numbers):
            yield tokens


def prepare(lines: Iterable[tuple[str, str]], out: Path, rules: Rules) -> dict:
    """Write train.txt, valid.txt and test.txt into ``out``.

    :param lines: (title, line), the lines of a document one after another.
    :return: the figures for dataset.json: splits, vocabulary and documents with their counts.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".prepare-") as scratch:
        splits = Splits(Path(scratch), rules.shares)
        for title, group in groupby(lines, key=lambda pair: pair[0]):
            text = paragraphs(line for _, line in group)
            splits.add(title, (tokens for p in text for tokens in tokenized(p, rules)))
        splits.close()
        return splits.finish(out, rules)


@dataclass
class Splits:
    """The three texts while they grow, in files of a temporary folder."""

    folder: Path
    shares: tuple[float, float, float]
    words: Counter = field(default_factory=Counter)  # of the training text
    lines: Counter = field(default_factory=Counter)  # of each split
    tokens: Counter = field(default_factory=Counter)  # of each split, one <eos> for each line
    documents: dict = field(default_factory=dict)  # title -> tokens in each split

    def __post_init__(self):
        self.files = {s: open(self.folder / f"{s}.txt", "w", encoding="utf-8") for s in SPLITS}  # noqa: SIM115

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def add(self, title: str, document: Iterable[list[str]]) -> None:
        """Cut a document by its number of lines, which is only known at its end."""
        with open(self.folder / "document", "w+", encoding="utf-8") as waiting:
            count = 0
            for tokens in document:
                waiting.write(" ".join(tokens) + "\n")
                count += 1
            waiting.seek(0)
            counts = Counter()
            for split, line in zip(self.places(count), waiting):
                tokens = line.split()
                self.files[split].write(line)
                self.lines[split] += 1
                counts[split] += len(tokens) + 1
                if split == "train":
                    self.words.update(tokens)
        self.tokens += counts
        if len(self.documents) <= LISTED:
            self.documents[title] = dict(counts)

    def places(self, count: int) -> Iterator[str]:
        """The split of each of a document's ``count`` lines."""
        if count < WHOLE:
            lacking = {s: self.lines[s] / share for s, share in zip(SPLITS, self.shares) if share}
            yield from [min(lacking, key=lacking.get)] * count
            return
        total, done, share_done = sum(self.shares), 0, 0.0
        for split, share in zip(SPLITS, self.shares):
            share_done += share
            stop = round(count * share_done / total)
            yield from [split] * (stop - done)
            done = stop

    def finish(self, out: Path, rules: Rules) -> dict:
        """Replace rare words by ``<unk>`` and move the texts to their place; returns the figures."""
        for split in SPLITS:
            if not self.lines[split]:
                raise UserError(
                    f"nothing is left for the {split} text: give more text, or other --split shares"
                )
        size = rules.vocab_size and rules.vocab_size - 2  # <unk> and <eos> are the other two
        known = Dictionary.from_counts(self.words, size, rules.min_count)
        figures = {split: self.write(split, out, known) for split in SPLITS}
        return {
            "vocabulary": len(known) + (UNK not in known) + (EOS not in known),
            "types": len(self.words),
            "splits": figures,
            "documents": self.documents if len(self.documents) <= LISTED else {},
        }

    def write(self, split: str, out: Path, known: Dictionary) -> dict:
        """One text with ``<unk>`` for each word that is not known."""
        unknown, digest = 0, hashlib.sha256()
        target = self.folder / f"{split}.final"
        with (
            open(self.folder / f"{split}.txt", encoding="utf-8") as source,
            open(target, "wb") as file,
        ):
            for line in source:
                tokens = [word if word in known else UNK for word in line.split()]
                unknown += tokens.count(UNK)
                content = (" ".join(tokens) + "\n").encode()
                digest.update(content)
                file.write(content)
        os.replace(target, out / f"{split}.txt")
        return {
            "lines": self.lines[split],
            "tokens": self.tokens[split],
            "unknown": unknown,
            "unknown_percent": round(100 * unknown / self.tokens[split], 2),
            "sha256": digest.hexdigest(),
        }
