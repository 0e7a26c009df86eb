"""Where the texts of a data set are: in a folder, in one file, or in a data set known by name.

>>> resolve("data/my_texts").spans["train"]
Span(path=PosixPath('data/my_texts/train.txt'), start=0, stop=None, encoding='utf-8')
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gluonlm.system.errors import UserError
from gluonlm.system.files import expanded
from gluonlm.system.typed import parse, typed
from gluonlm.text.documents import record_kind
from gluonlm.text.reader import Span, open_file, split_by_lines
from gluonlm.text.recognize import HEAD
from gluonlm.text.sources import ALIASES, DATASETS, SPLITS, Dataset, ensure, presence
from gluonlm.text.subwords import encoder
from gluonlm.text.vocabulary import ABOUT

ENWIK8_CUTS = (0, 90_000_000, 95_000_000, 100_000_000)  # bytes where its three texts begin and end
FILE_NAME = re.compile(
    r"(?P<first>wiki\.|ptb\.char\.|ptb\.|)(?P<split>train|valid|val|validation|dev|test)"
    r"(?P<last>\.txt|\.tokens|\.raw)",
    re.IGNORECASE,
)
MADE = {"level": str, "rules": ABOUT["rules"], "subwords": str, "splits": dict[str, dict]}
COUNTS = ("words", "characters")  # of prose, by split
SPELLINGS = {"val": "valid", "validation": "valid", "dev": "valid"}


@dataclass(frozen=True)
class DatasetFiles:
    """Where the texts of a data set are."""

    name: str
    level: str  # what it is read as by default
    spans: dict[str, Span]  # by split
    place: str  # the absolute path, or the name of a known data set
    closed: bool = False  # its alphabet is that of all three texts
    made: dict = field(default_factory=dict)  # its dataset.json


def resolve(data: str, wanted: Sequence[str] = SPLITS) -> DatasetFiles:
    """Find the texts that ``data`` names, downloading a known data set that is not here yet; a
    UserError when there is nothing of that name, it cannot be had, or lacks a split ``wanted``.

    A folder with any of the three texts wins, then a file; else a name is looked up, also after
    ``data/``, so that the paths of other toolkits (data/penn, data/wikitext-2) work without such a
    folder.
    """
    path, name = found(data)
    if path and path.is_dir():
        return folder_files(path, wanted)
    if path:
        print(f"{path}: 80 % train, the next 10 % validate, the last 10 % test", file=sys.stderr)
        with open_file(path) as file:
            head = file.read(HEAD).decode("utf-8-sig", errors="replace")
        kind = record_kind(path.name, head, None)
        if kind:
            cure = f"python -m gluonlm.prepare {shlex.quote(str(path))} --field NAME --out FOLDER"
            print(f"{path} is {kind} and read as prose: to take a field, `{cure}`", file=sys.stderr)
        spans = dict(zip(SPLITS, split_by_lines(path), strict=True))
        return DatasetFiles(path.stem, "word", spans, str(path.resolve()))
    if name:
        say_taken(data, name)
        return dataset_files(DATASETS[name])
    if expanded(data).is_absolute():
        cure = "put it back, or give another --data"
        raise UserError(f"there is no folder or text file {data}: {cure}")
    known = f"the data sets are {', '.join(DATASETS)}"
    raise UserError(f"there is no folder, text file or data set {data!r}: {known}")


def found(data: str) -> tuple[Path | None, str | None]:
    """The path that ``data`` is, if there is something to read, or the data set that it names."""
    path = expanded(data)
    named = path.parent.name in ("", "data") and not path.is_absolute()  # any other means a path
    name = known_name(path) if named else None
    if path.is_file() or (path.is_dir() and (name is None or texts_in(path))):
        return path, None
    return None, name


def located(data: str) -> str:
    """``data`` as it is found from any folder: an absolute path, or a known data set's name."""
    path, name = found(data)
    if name:
        say_taken(data, name)
    return str(path.resolve()) if path else name or data


def say_taken(data: str, name: str) -> None:
    """Tell that a path, of another toolkit or mistyped, is taken as a data set's name."""
    if len(Path(data).parts) > 1:
        print(f"{data} is not here: using the data set {name}", file=sys.stderr)


def known_name(path: Path) -> str | None:
    """The data set that the last part of a path names; None if it names none."""
    key = path.name.lower()
    return key if key in DATASETS else ALIASES.get(key)


def is_here(data: str) -> bool:
    """Whether :func:`resolve` would find ``data`` without a download."""
    path, name = found(data)
    return bool(path or (name and presence(DATASETS[name]) in ("bundled", "here")))


def texts_in(folder: Path) -> dict[str, dict[str, Path]]:
    """The texts in a folder: for each way of naming them, split -> file. Raises a UserError when
    two files are the same split."""
    families: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if (match := FILE_NAME.fullmatch(path.name)) and path.is_file():
            split = match["split"].lower()
            split = SPELLINGS.get(split, split)
            family = families.setdefault(f"{match['first']}{{}}{match['last']}".lower(), {})
            if split in family:
                raise UserError(f"{family[split]} and {path.name} are the same text: take one away")
            family[split] = path
    return families


def folder_files(folder: Path, wanted: Sequence[str]) -> DatasetFiles:
    """The texts in a folder, all of one family of names."""
    families = texts_in(folder)
    if len(families) > 1:
        several = " and of ".join(name.format("*") for name in families)
        raise UserError(f"{folder} has texts of {several}: keep those of one kind")
    pattern, found = next(iter(families.items()), ("", {}))
    missing = [f"{split}.txt" for split in wanted if split not in found]
    if missing:
        raise UserError(
            f"the folder {folder} has no {' and no '.join(missing)}: put train.txt, valid.txt and "
            f"test.txt there, make them of other texts with `python -m gluonlm.prepare`, or give "
            f"one text file or a data set ({', '.join(DATASETS)})"
        )
    spaced = pattern.startswith("ptb.char.")
    made = read_made(folder / "dataset.json")
    level = "char" if spaced else made.get("level", "word")
    spans = {split: Span(found[split], spaced=spaced) for split in SPLITS if split in found}
    return DatasetFiles(folder.resolve().name, level, spans, str(folder.resolve()), made=made)


def read_made(path: Path) -> dict:
    """What gluonlm.prepare wrote beside the texts; empty if it did not make them."""
    if not path.is_file():
        return {}
    try:
        made = parse(path.read_text(encoding="utf-8"), dict[str, Any])
        for name, kind in MADE.items():
            if name in made:
                typed(made[name], kind, name)
        if made.get("level", "word") not in ("word", "char", "subword"):
            raise ValueError(f"its level is {made['level']}")
        if made.get("level") == "subword":
            encoder(made.get("subwords", ""))
        for split, counts in made.get("splits", {}).items():
            for name in COUNTS:
                count = typed(counts.get(name), int, f"{name} of {split}")
                if count < 1 and made.get("level") != "char":
                    raise ValueError(f"{name} of {split} must be at least 1")
        return made
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): prepare the data set anew") from None


def dataset_files(dataset: Dataset) -> DatasetFiles:
    """The texts of a known data set, downloaded and verified."""
    folder = ensure(dataset)
    spans = {split: Span(folder / f"{split}.txt") for split in SPLITS}
    if dataset.name == "enwik8":  # Latin-1 has one character for each byte
        cuts = zip(SPLITS, ENWIK8_CUTS, ENWIK8_CUTS[1:])
        spans = {s: Span(folder / "enwik8", *cut, encoding="latin-1") for s, *cut in cuts}
    made = read_made(folder / "dataset.json")
    return DatasetFiles(dataset.name, dataset.level, spans, dataset.name, dataset.closed, made)
