"""Files of every kind that the commands read, and damaged copies of them."""

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from robustness_process import Outcome, Place, call
from safetensors.numpy import load, save

from gluonlm.model.storage import digest
from gluonlm.system.errors import UserError

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "“mat”",
    "and",
    "the",
    "dog",
    "ran",
    "to",
    "the",
    "cat",
    "café",
]
SIZES = ["--emsize", "8", "--nhid", "8", "--batch-size", "4", "--bptt", "5", "--max-batches", "4"]
SCHEDULE = (
    "- tensors: [layers.*]\n  sparsity: 0.5\n  begin: 1\n  end: 3\n"
    "- tensors: encoder.weight\n  sparsity: 0.25\n"
)
HOSTILE = (b"-1", b"0", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'"x"', b"1000000")
HOSTILE += (b"9" * 30, b"1.5", b"-0.0", b"[" * 5000, b'"\\u001b[31m\\u202e"', b'"../../victim"')
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
TEXT = re.compile(rb'"[^"]*"')


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    :param path: the damaged file, in the folder of the trial.
    :param argv: the command that reads it there.
    :param place: makes the files of a trial: the folder of the originals, that of the trial.
    :param trials: how many damaged files are tried.
    :param proves_itself: that the result be another must not be; other files may be edited.
    """

    path: str
    argv: list[str]
    place: Callable[[Path, Path], Path]
    trials: int = 165
    proves_itself: bool = True
    forged: bool = False  # its digest fits what is wrong in it


def copied(*names: str) -> Callable[[Path, Path], Path]:
    """Makes a trial of copies of originals."""

    def place(home: Path, trial: Path) -> Path:
        for name in names:
            if (home / name).is_dir():
                shutil.copytree(home / name, trial / name)
            else:
                shutil.copy(home / name, trial)
        return trial

    return place


def resumed(path: str, proves_itself: bool = True, trials: int = 165) -> Kind:
    """A file of a run that --resume reads."""
    argv = ["train", "--resume", "run", "--epochs", "3"]
    return Kind(path, argv, copied("run"), trials, proves_itself)


def evaluated(path: str, **more: bool) -> Kind:
    """A model's file."""
    return Kind(path, ["evaluate", path, "--data", "../text/test.txt"], copied(path), **more)


PREPARED = ["train", "--data", "prepared", "--save", "new", *SIZES, "--epochs", "1"]
KINDS = {
    "model": evaluated("model.safetensors"),
    "INT8 model": evaluated("int8.safetensors"),
    "ONNX model": evaluated("model.onnx"),
    "model, forged": evaluated("model.safetensors", proves_itself=False, forged=True),
    "INT8 model, forged": evaluated("int8.safetensors", proves_itself=False, forged=True),
    "training state": resumed("run/last.safetensors"),
    "training state, forged": replace(
        resumed("run/last.safetensors", proves_itself=False), forged=True
    ),
    "config.json": resumed("run/config.json"),
    "log.jsonl": resumed("run/log.jsonl", trials=100),
    "dataset.json": Kind(
        "prepared/dataset.json", PREPARED, copied("prepared"), proves_itself=False
    ),
    "schedule": Kind(
        "schedule.yaml",
        ["prune", "../run", "--compress", "schedule.yaml", "--save", "pruned.safetensors"],
        copied("schedule.yaml"),
        proves_itself=False,
    ),
    "text": Kind(
        "text/train.txt",
        ["train", "--data", "text", "--save", "new", *SIZES, "--epochs", "1"],
        copied("text"),
        proves_itself=False,
    ),
    "text to score": Kind(
        "text/test.txt",
        ["score", "../run", "text/test.txt", "--words"],
        copied("text"),
        proves_itself=False,
    ),
}


def make_files(home: Path) -> None:
    """The originals: texts, a run, its model in all formats, a data set, a schedule."""
    (home / "text").mkdir(parents=True)
    rng = random.Random(1)
    for split, lines in (("train", 40), ("valid", 10), ("test", 10)):
        text = "\n".join(" ".join(rng.choices(WORDS, k=12)) for _ in range(lines))
        (home / "text" / f"{split}.txt").write_text(text + "\n", encoding="utf-8")
    (home / "schedule.yaml").write_text(SCHEDULE)
    for argv in (
        ["train", "--data", "text", "--save", "run", *SIZES, "--epochs", "2", "--lr", "2"],
        ["quantize", "run", "--out", "int8.safetensors"],
        ["export", "run", "model.onnx"],
        ["prepare", "text/train.txt", "--out", "prepared"],
    ):
        checked(argv, home)
    shutil.copy(home / "run/best.safetensors", home / "model.safetensors")


def checked(argv: list[str], folder: Path, do: Callable[[list[str], Place], Outcome] = call) -> str:
    """What a command prints that must succeed for anything to be tried at all."""
    outcome = do(argv, Place(folder))
    if outcome.kind != "fine":
        raise UserError(f"{' '.join(argv)}: {outcome.kind}: {outcome.said}")
    return outcome.said


def mutated(rng: random.Random, content: bytes, kind: Kind) -> tuple[str, bytes]:
    """A damaged copy, and what was done to it."""
    if kind.forged:
        return forged(rng, content)
    way = rng.choice(WAYS)
    start = rng.randrange(len(content) or 1)
    if way in (hostile_number, hostile_text) and kind.path.endswith(".safetensors"):
        size = int.from_bytes(content[:8], "little")
        header = way(rng, content[8 : 8 + size], start)
        changed = len(header).to_bytes(8, "little") + header + content[8 + size :]
    else:
        changed = way(rng, content, start)
    return f"{way.__name__} at {start}", changed


def forged(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Something hostile in the metadata, under a digest that fits."""
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    del metadata["digest"]
    name = rng.choice([name for name in sorted(metadata) if name != "format"])
    what = rng.choice((NUMBER, NUMBER, TEXT))
    metadata[name] = hostile(rng, metadata[name].encode(), what).decode(errors="replace")
    arrays = load(content)
    return f"forged {name}", save(arrays, {**metadata, "digest": digest(arrays, metadata)})


def flip_bit(rng: random.Random, content: bytes, start: int) -> bytes:
    """One bit is another."""
    return replaced(content, start, 1, bytes([content[start] ^ 1 << rng.randrange(8)]))


def other_byte(rng: random.Random, content: bytes, start: int) -> bytes:
    """One byte is another."""
    return replaced(content, start, 1, rng.randbytes(1))


def remove(rng: random.Random, content: bytes, start: int) -> bytes:
    """A part is missing."""
    return replaced(content, start, rng.randrange(1, 100), b"")


def insert(rng: random.Random, content: bytes, start: int) -> bytes:
    """There is something between."""
    return replaced(content, start, 0, rng.randbytes(rng.randrange(1, 100)))


def repeat(rng: random.Random, content: bytes, start: int) -> bytes:
    """A part is there twice."""
    return replaced(content, start, 0, content[start : start + rng.randrange(1, 100)])


def cut(rng: random.Random, content: bytes, start: int) -> bytes:
    """The end is missing, or everything."""
    return content[: start if rng.randrange(4) else 0]


def zeros(rng: random.Random, content: bytes, start: int) -> bytes:
    """What a disk gives after a power cut."""
    return replaced(content, start, 512, bytes(min(512, len(content) - start)))


def hostile_number(rng: random.Random, content: bytes, start: int) -> bytes:
    """A number is something else."""
    return hostile(rng, content, NUMBER)


def hostile_text(rng: random.Random, content: bytes, start: int) -> bytes:
    """A string is something else."""
    return hostile(rng, content, TEXT)


def hostile(rng: random.Random, content: bytes, what: re.Pattern) -> bytes:
    """One place that matches is replaced."""
    places = list(what.finditer(content))
    if not places:
        return content + rng.choice(HOSTILE)
    place = rng.choice(places)
    return content[: place.start()] + rng.choice(HOSTILE) + content[place.end() :]


def replaced(content: bytes, start: int, size: int, new: bytes) -> bytes:
    """The content with other bytes at one place."""
    return content[:start] + new + content[start + size :]


WAYS = (flip_bit, flip_bit, other_byte, remove, insert, repeat, cut, zeros)
WAYS += (hostile_number, hostile_number, hostile_text)
