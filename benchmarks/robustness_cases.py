"""Single cases: what people and programs do to runs, outputs, sizes and surroundings."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from robustness_files import SIZES
from robustness_process import Outcome, Place, call, finish, start

from gluonlm.model.checkpoint import MODEL_FORMAT
from gluonlm.model.storage import read_arrays, write_arrays
from gluonlm.onnx.session import seal

TRAIN = ["train", "--data", "text", *SIZES, "--epochs", "1"]
RESUME = ["train", "--resume", "run", "--epochs", "3"]
EVALUATE = ["evaluate", "run", "--data", "text/test.txt"]
LONGEST = 2000  # characters of a sentence
Ending = tuple[str, str, str]  # column, what was said, what it was


@dataclass(frozen=True)
class Case:
    """A command on a run and a text, and how it must end.

    :param ends: "sentence" or "fine".
    :param change: what happens to the files before.
    """

    kind: str
    argv: list[str]
    ends: str = "sentence"
    change: Callable[[Path], object] = lambda folder: None

    def attempt(self, home: Path, folder: Path) -> Ending:
        """Try it in an empty folder."""
        for name in ("run", "text"):
            shutil.copytree(home / name, folder / name)
        self.change(folder)
        before = contents(folder)
        outcome = call(self.argv, Place(folder))
        return ending(outcome, self.ends, folder, before), outcome.said, " ".join(self.argv)[:90]


def contents(folder: Path) -> dict[Path, bytes]:
    """All files in a folder; a device counts as its number."""
    files = (path for path in folder.rglob("*") if not path.is_dir() and path.name != ".lock")
    return {p: p.read_bytes() if p.is_file() else str(p.stat().st_rdev).encode() for p in files}


def ending(outcome: Outcome, expected: str, folder: Path, before: dict[Path, bytes]) -> str:
    """The column of the table."""
    if outcome.kind not in ("sentence", "fine"):
        return outcome.kind
    if len(outcome.said) > LONGEST and outcome.kind == "sentence":
        return "other"
    after = contents(folder)
    if outcome.kind == "sentence" and any(after.get(path) != old for path, old in before.items()):
        return "lost"
    return outcome.kind if outcome.kind == expected else "other"


def cases(home: Path) -> Iterator[tuple[str, Callable[[Path], Ending]]]:
    """All cases of this process: the name of their kind, and what tries one in an empty folder."""
    for case in [*outputs(), *damages(), *hostile_files(), *sizes()]:
        yield case.kind, partial(case.attempt, home)
    for first, second, both in rivals():
        yield "two at a time", partial(at_once, home, first, second, both)


def outputs() -> Iterator[Case]:
    """Outputs that would replace what training has made, or a device."""
    kind = "outputs"
    for name in ("config.json", "log.jsonl", "best.safetensors", "last.safetensors", "result.json"):
        path = f"run/{name}"
        yield Case(kind, ["generate", "run", "--words", "5", "--outf", path])
        yield Case(kind, [*EVALUATE, "--record", path])
        yield Case(kind, ["export", "run", path])
        yield Case(kind, ["quantize", "run", "--out", path])
        yield Case(kind, ["prune", "run", "--sparsity", "0.5", "--save", path])
        yield Case(kind, [*TRAIN, "--save", "new", "--onnx-export", path])
    for path in ("text", "text/train.txt/x", "run/config.json/x", "x" * 300):
        yield Case(kind, ["generate", "run", "--words", "5", "--outf", path])
        yield Case(kind, [*EVALUATE, "--record", path])
    for argv in (["generate", "run", "--outf", "full"], [*EVALUATE, "--record", "full"]):
        yield Case(kind, argv, change=full_device)
    yield Case(kind, [*TRAIN, "--save", "run"])
    yield Case(kind, [*TRAIN, "--save", "exp_lr0.25"], "fine", lambda f: (f / "exp_lr0").mkdir())
    yield Case(kind, [*TRAIN, "--save", "PTB.pt"], "fine")
    yield Case(kind, [*TRAIN, "--save", "x" * 300])
    yield Case(kind, ["prune", "run", "--sparsity", "0.5", "--save", "text/train.txt/x.pt"])
    gluon = ["export", "run", "new", "--format", "gluon"]
    yield Case(kind, gluon, change=lambda f: (f / "new-settings.json").mkdir())
    yield Case(kind, gluon, "fine")
    yield Case(kind, [*TRAIN, "--save", "text/train.txt/run"])


def full_device(folder: Path) -> None:
    """A device on which nothing has room; without leave for one, a file that cannot be written."""
    try:
        os.mknod(folder / "full", 0o20666, os.makedev(1, 7))
    except (OSError, AttributeError):
        (folder / "full").mkdir()


def damages() -> Iterator[Case]:
    """Parts of a run that are missing, are others', or say what cannot be."""
    kind = "damaged runs"
    for name in ("last.safetensors", "best.safetensors", "config.json"):
        yield Case(kind, RESUME, change=lambda f, name=name: (f / "run" / name).unlink())
    for name in ("log.jsonl", "result.json", "curve.png"):
        yield Case(kind, RESUME, "fine", lambda f, name=name: (f / "run" / name).unlink())
    yield Case(kind, RESUME, "fine", lambda f: (f / "run/log.jsonl").write_bytes(b"\xff{\n"))
    for best in ("../victim", "/etc/passwd", "..", "", "run", 5, None):
        yield Case(kind, RESUME, change=partial(set_json, "run/config.json", best=best))
    for name, value in (("lr", 5.0), ("nhid", 9), ("bptt", 7), ("dropout", 0.1), ("seed", 3)):
        yield Case(kind, RESUME, change=partial(set_json, "run/config.json", **{name: value}))
    for split in ("train", "valid", "test"):
        yield Case(kind, RESUME, change=partial(change_text, split, append))
        yield Case(kind, RESUME, change=partial(change_text, split, Path.unlink))
    for number in (np.nan, np.inf, -np.inf):
        yield Case(kind, EVALUATE, change=partial(forge, "first", number))
    for name, value in (("nlayers", 1_000_000), ("nhid", 10**9), ("emsize", -1), ("model", "X")):
        yield Case(kind, EVALUATE, change=partial(forge, name, value))
    yield Case(kind, EVALUATE, change=partial(forge, "type", np.int8))


def hostile_files() -> Iterator[Case]:
    """Files that would take all memory, or read what they should not."""
    kind = "hostile files"
    bomb = "a: &a0 [x, x]\n" + "".join(
        f"b{i}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(40)
    )
    for command in (["prune", "run", "--save", "new.pt"], [*TRAIN, "--save", "new"]):
        argv = [*command, "--compress", "bomb.yaml"]
        yield Case(kind, argv, change=lambda f: (f / "bomb.yaml").write_text(bomb))
    for place in ("text/test.txt", "../text/test.txt", "/etc/passwd"):
        argv = ["evaluate", "external.onnx", "--data", "text/test.txt"]
        yield Case(kind, argv, change=partial(external_data, place))


def external_data(place: str, folder: Path) -> None:
    """An ONNX file whose weights are said to lie in another file, under a digest that fits."""
    model = onnx.load(folder.parent / "model.onnx")
    del model.metadata_props[-1]  # the digest
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data"):
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=place)
    (folder / "external.onnx").write_bytes(seal(model.SerializeToString()))


def set_json(path: str, folder: Path, **values: object) -> None:
    """Change values in a JSON file."""
    file = folder / path
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_text(split: str, change: Callable[[Path], object], folder: Path) -> None:
    """The run's text is that beside it, and no longer what it was."""
    set_json("run/config.json", folder, data=str(folder / "text"))
    change(folder / f"text/{split}.txt")


def append(path: Path) -> None:
    """A line more."""
    with path.open("a") as file:
        file.write("the cat\n")


def forge(name: str, value: object, folder: Path) -> None:
    """A model file with a right digest and wrong content."""
    path = folder / "run/best.safetensors"
    arrays, metadata = read_arrays(path, MODEL_FORMAT)
    first = min(arrays)
    if name == "first":
        arrays[first].flat[0] = value
    elif name == "type":
        arrays[first] = arrays[first].astype(value)
    else:
        metadata["config"] = json.dumps(json.loads(metadata["config"]) | {name: value})
    write_arrays(path, MODEL_FORMAT, arrays, metadata)


def sizes() -> Iterator[Case]:
    """Sizes and numbers that cannot be."""
    kind = "sizes"
    for name, *values in (
        ("--nhid", "60000", "1000000000000", "-1", "x"),
        ("--emsize", "2147483648", "0"),
        ("--nlayers", "100000000", "0"),
        ("--lr", "1e308", "nan", "-1"),
        ("--clip", "-1", "nan"),
        ("--batch-size", "99999999999"),
        ("--bptt", "99999999999"),
        ("--softmax-samples", "99999999999"),
        ("--seed", "-1", "99999999999"),
        ("--epochs", "1e3", "-2"),
        ("--vocab-size", "-5"),
        ("--data", "missing", "", "run"),
        ("--compress", "missing.yaml", "text/train.txt"),
        ("--finetune", "missing", "text"),
        ("--gpu", "0", "x"),
    ):
        for value in values:
            yield Case(kind, [*TRAIN, "--save", "new", name, value])
    for name, *values in (
        ("--samples", "99999999999", "0"),
        ("--words", "-1", "x"),
        ("--temperature", "1e39", "nan", "-1"),
        ("--top-k", "-1"),
        ("--top-p", "2"),
        ("--beam", "99999999999"),
    ):
        for value in values:
            yield Case(kind, ["generate", "run", name, value])
    yield Case("divergence", [*TRAIN, "--save", "new", "--lr", "3000", "--clip", "0"])


def rivals() -> Iterator[tuple[list[str], list[str], str]]:
    """Two commands at the same time, and whether both may succeed."""
    for _ in range(3):
        yield [*TRAIN, "--save", "new"], [*TRAIN, "--save", "new"], "one"
        yield TRAIN, [*TRAIN, "--lr", "5"], "both"
        yield RESUME, RESUME, "one"
        yield [*RESUME[:-1], "60"], EVALUATE, "both"


def at_once(home: Path, first: list[str], second: list[str], succeed: str, folder: Path) -> Ending:
    """Try two commands at the same time; one that comes second gets a sentence."""
    for name in ("run", "text"):
        shutil.copytree(home / name, folder / name)
    outcomes = [finish(*one) for one in [start(argv, Place(folder)) for argv in (first, second)]]
    kinds = {one.kind for one in outcomes}
    said = " / ".join(one.said for one in outcomes)
    fine = [one.kind for one in outcomes].count("fine")
    trial = f"{' '.join(first)[-40:]} and {' '.join(second)[-40:]}"
    if bad := kinds - {"fine", "sentence"}:
        return min(bad), said, trial
    runs = re_runs(said)
    if succeed == "both":
        return ("fine" if fine == 2 and len(runs) == len(set(runs)) else "lost"), said, trial
    one_after_the_other = fine == 2 and first[1] == "--resume"  # both may find it finished
    return ("sentence" if fine == 1 or one_after_the_other else "lost"), said, trial


def re_runs(said: str) -> list[str]:
    """The folders that trainings say they work in."""
    return [line for line in said.splitlines() if line.startswith("run: ")]
