"""The three texts of a data set in the making: filled by document, then given a vocabulary."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pooch

from gluonlm.system.errors import UserError
from gluonlm.text.checks import Checks
from gluonlm.text.reader import SPLITS
from gluonlm.text.subwords import encoder, learn_subwords
from gluonlm.text.vocabulary import EOS, RARE, UNK, Dictionary, Limits

WHOLE = 100  # units: a shorter document is not cut
LISTED = 100  # documents: no more are listed with their counts


class Unit(NamedTuple):
    """A line to be: its text, and the characters and words that it stands for."""

    text: str
    characters: int
    words: int
    whole: bool = True  # False if the next unit belongs to its line


class Splits:
    """Three texts that grow in files of a temporary folder, which :meth:`finish` closes."""

    def __init__(self, folder: Path, shares: tuple[float, float, float], level: str):
        self.folder, self.shares, self.level = folder, shares, level
        self.lengths = dict.fromkeys(SPLITS, 0)  # in units
        self.documents: dict[str, dict] = {}  # title -> words in each split
        self.number = 0  # of documents
        self.open = ExitStack()
        self.files = {split: self.open.enter_context(self.waiting(split, "w")) for split in SPLITS}

    def waiting(self, name: str, mode: str = "r"):
        """A file of units that wait."""
        return open(self.folder / f"{name}.units", mode, encoding="utf-8", newline="\n")

    def add(self, title: str, document: Iterable[Unit]) -> None:
        """Cut a document by its number of units, which is only known at its end."""
        total, words = 0, Counter()
        with self.waiting("document", "w") as file:
            for unit in document:
                file.write(json.dumps(unit, ensure_ascii=False) + "\n")
                total += 1
        with self.waiting("document") as file:
            for split, line in zip(self.places(total), file):
                self.files[split].write(line)
                self.lengths[split] += 1
                words[split] += Unit(*json.loads(line)).words
        self.number += total > 0
        if total and len(self.documents) < LISTED:
            self.documents[title] = dict(words)

    def places(self, total: int) -> Iterator[str]:
        """The split of each of a document's units."""
        if total < WHOLE and self.number:
            filled = {s: self.lengths[s] / share for s, share in zip(SPLITS, self.shares)}
            yield from [min(filled, key=filled.get)] * total
            return
        done = 0
        for split, share in zip(SPLITS, accumulate(self.shares)):
            stop = round(total * share / sum(self.shares))
            yield from [split] * (stop - done)
            done = stop

    def units(self, split: str) -> Iterator[Unit]:
        """The units of a text in their order."""
        with self.waiting(split) as file:
            for line in file:
                yield Unit(*json.loads(line))

    def finish(self, limits: Limits, checks: Checks) -> dict:
        """Write the texts with ``<unk>`` for what is beyond the limits of the vocabulary; returns
        the figures for dataset.json."""
        self.open.close()
        for split, share in zip(SPLITS, self.shares):
            if not self.lengths[split]:
                lacking = f"nothing is left for the {split} text (share {share:g})"
                raise UserError(f"{lacking}: give more text or another --split")
        tokens_of, extra = {"word": str.split, "char": list}.get(self.level), {}
        if self.level == "subword":
            texts = (unit.text for unit in self.units("train"))
            extra["subwords"] = learn_subwords(texts, limits.vocab_size)
            tokens_of = encoder(extra["subwords"])
        seen = Counter()
        for unit in self.units("train"):
            seen.update(tokens_of(unit.text))
        if self.level == "char":
            seen["\n"] = self.lengths["train"]
            if RARE in seen:  # is read as <unk>
                seen[UNK] = seen.pop(RARE)
        known = limits.vocabulary(seen, (UNK,) if self.level == "char" else (UNK, EOS))
        figures = {s: self.write(s, tokens_of, known, checks) for s in ("valid", "test", "train")}
        return {
            "vocabulary": len(known),
            "types": len(seen),
            "splits": {split: figures[split] for split in SPLITS},
            "documents": self.documents if self.number <= LISTED else self.number,
            **extra,
        }

    def write(
        self, split: str, tokens_of: Callable[[str], list[str]], known: Dictionary, checks: Checks
    ) -> dict:
        """One text with ``<unk>`` for each token that is not known; returns its figures."""
        figures, path = Counter(), self.folder / f"{split}.txt"
        unknown, between = (RARE, "") if self.level == "char" else (UNK, " ")
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for unit in self.units(split):
                tokens = [t if t in known else unknown for t in tokens_of(unit.text)]
                end = "\n" if unit.whole else between
                figures["lines"] += unit.whole
                figures["tokens"] += len(tokens) + unit.whole
                figures["unknown"] += tokens.count(unknown)
                figures["words"] += unit.words
                figures["characters"] += unit.characters
                line = between.join(tokens) + end
                checks.line(split, line)
                file.write(line)
            if not unit.whole:  # the last line was cut here
                file.write("\n")
                figures.update(lines=1, tokens=1)
        return {
            **figures,
            "unknown_percent": round(100 * figures["unknown"] / figures["tokens"], 2),
            "sha256": pooch.file_hash(str(path)),
        }
