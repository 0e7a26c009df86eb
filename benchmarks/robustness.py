"""Damaged files, kills, full disks and bad input: what the commands make of them, as a table.

    python benchmarks/robustness.py                    # in about fifteen minutes on one core
    python benchmarks/robustness.py --share 0.02       # a fiftieth of it, chosen by --seed
    python benchmarks/robustness.py --only model text  # groups, anew in the record
    python benchmarks/robustness.py --table            # the table as recorded

Every call is one of a command in a process of its own, in a new folder, with a limit of time and
memory. Nothing outside of that folder is written: small disks are mounted where only the call sees
them (Linux, root; elsewhere a limit on the size of files takes their place), and the full device is
a node in the folder. What must not be is printed as it is found, with what repeats it. Recorded in
results/robustness.json.
"""

import argparse
import functools
import json
import multiprocessing
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from robustness_cases import cases
from robustness_disk import DISKS, on_disk
from robustness_files import KINDS, Kind, checked, make_files, mutated
from robustness_process import Outcome, Place, call
from robustness_surroundings import little_memory, operators, surroundings
from robustness_workers import call_workers

from gluonlm.cli import run
from gluonlm.model.checkpoint import BEST, LAST, MODEL_FORMAT, STATE_FORMAT
from gluonlm.model.storage import read_arrays
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record

COLUMNS = ("tried", "sentence", "fine", "accepted", "traceback", "hang", "other", "lost")
BAD = ("traceback", "hang", "other", "lost")
SMALL = [
    "--emsize",
    "8",
    "--nhid",
    "8",
    "--batch-size",
    "4",
    "--bptt",
    "5",
    "--max-batches",
    "4",
    "--checkpoint-seconds",
    "0",
]
RUNS = {  # what is killed: options of train
    "plain": ["--data", "../text", *SMALL, "--epochs", "2"],
    "finetuned": ["--finetune", "../run", "--epochs", "2", "--checkpoint-seconds", "0"],
    "pruned": ["--data", "../text", *SMALL, "--epochs", "3", "--prune", "0.5"],
    "averaged": ["--data", "../text", *SMALL, "--epochs", "5", "--lr", "60", "--nonmono", "1"],
    "distributed": ["--data", "../text", *SMALL, "--epochs", "2"],  # by two workers
}

KILLS = [f"kill -9, {name}" for name in RUNS]
CASES = {
    "cases": cases,
    "surroundings": surroundings,
    "compiled operator": operators,
    "little memory": lambda home: little_memory(home, gone_on, final),
}
GROUPS = [*KINDS, *KILLS, "full disk", *CASES]


@dataclass
class Table:
    """What was found: for each kind of trial, how often it ended how; and all that must not be."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, ending: str, said: str = "", trial: str = "") -> None:
        """Count a trial, and tell it if it must not be."""
        row = self.counts.setdefault(kind, dict.fromkeys(COLUMNS, 0))
        row["tried"] += 1
        row[ending] += 1
        if ending in BAD:
            self.failures.append(f"{kind}, {trial}: {ending}: {said[-700:]}")
            print(self.failures[-1], file=sys.stderr, flush=True)


def main(argv: list[str]) -> dict | None:
    """Try everything, print the table and record it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials (default: 1)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help="of the trials")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time (default: 1)")
    parser.add_argument(
        "--out", type=Path, help="default: results/robustness.json, if all is tried"
    )
    parser.add_argument("--table", action="store_true", help="print what is recorded")
    options = parser.parse_args(argv)
    if not 0 < options.share <= 1:
        raise UserError(f"--share {options.share}: must be above 0 and at most 1")
    out = options.out or RESULTS / "robustness.json"
    if options.table:
        print(shown(json.loads(out.read_text())["endings"]))
        return None
    table = Table()
    forks = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        made = Path(folder).resolve() / "made"
        make_files(made)
        tried = functools.partial(group_of_trials, made, options)
        with ProcessPoolExecutor(options.jobs, forks) as pool:
            for found in pool.map(tried, options.only or GROUPS):
                for trial in found:
                    table.add(*trial)
    if options.only and out.exists():  # the other groups stay as they were recorded
        older = json.loads(out.read_text())
        table.counts = older["endings"] | table.counts
        table.failures += [
            said for said in older["failures"] if not said.startswith(tuple(options.only))
        ]
    print(shown(table.counts))
    command = ["python", "benchmarks/robustness.py", *argv]
    found = {"endings": table.counts, "failures": table.failures}
    return record(out if options.share == 1 or options.out else None, command, **found)


def group_of_trials(made: Path, options: argparse.Namespace, name: str) -> list[tuple]:
    """All trials of a group, in a folder of its own: kind, ending, what was said, what it was."""
    home = made.with_name(f"{GROUPS.index(name)}")
    shutil.copytree(made, home)
    rng = random.Random(f"{options.seed} {name}")
    return list(trials(home, name, options.share, rng))


def trials(home: Path, name: str, share: float, rng: random.Random) -> Iterator[tuple]:
    """A share of the trials of a group."""
    if name in KINDS:
        yield from fuzzed(home, name, KINDS[name], max(1, round(KINDS[name].trials * share)), rng)
    elif name.startswith("kill -9"):
        yield from kills(home, name, RUNS[name.partition(", ")[2]], share, rng)
    elif name == "full disk":
        yield from full_disks(home, share, rng)
    else:
        fresh(home)
        for kind, trial in CASES[name](home):
            if rng.random() < share:
                yield (kind, *trial(fresh(home)))


def fresh(home: Path) -> Path:
    """An empty folder for a trial."""
    shutil.rmtree(home / "trial", ignore_errors=True)
    (home / "trial").mkdir()
    return home / "trial"


# 1. Damaged files


def fuzzed(home: Path, name: str, kind: Kind, count: int, rng: random.Random) -> Iterator[tuple]:
    """Damage a file in many ways, one at a time, and let a command read it."""
    expected = comparable(checked(kind.argv, kind.place(home, fresh(home))))
    for _ in range(count):
        trial = kind.place(home, fresh(home))
        path = trial / kind.path
        how, content = mutated(rng, path.read_bytes(), kind)
        path.write_bytes(content)
        best = trial / "run" / "best.safetensors"
        before = best.read_bytes() if best.exists() else b""
        outcome = call(kind.argv, Place(trial))
        ending = ending_of(outcome, expected, kind)
        if ending == "sentence" and before and best.read_bytes() != before:
            ending = "lost"
        yield name, ending, outcome.said, how


def ending_of(outcome: Outcome, expected: str, kind: Kind) -> str:
    """The column that an outcome belongs to."""
    if outcome.kind != "fine":
        return "traceback" if outcome.kind == "killed" else outcome.kind
    if comparable(outcome.said) == expected:
        return "fine"
    return "other" if kind.proves_itself else "accepted"


def comparable(said: str) -> str:
    """What a command prints, without what differs each time: seconds, and a name."""
    return re.sub(r"(?m)^(epoch|run:).*\n", "", said)


# 2. Kills


def kills(
    home: Path, name: str, options: list[str], share: float, rng: random.Random
) -> Iterator[tuple]:
    """Kill a run before each of its file operations, go on with it, and compare the end."""
    argv, number, killed = ["train", "--save", "run", *options], 0, True
    do = call_workers if name.endswith("distributed") else call
    checked(argv, fresh(home), do)
    undisturbed = final(home / "trial/run")
    if name.endswith("averaged") and not undisturbed["progress"]["averaged_steps"]:
        raise UserError("the run that should average its weights does not: choose another --lr")
    while killed:
        number += 1
        if number > 1 and rng.random() > share:
            killed = number < 40  # a share of the trials need not see the end
            continue
        outcome = do(argv, Place(fresh(home), kill_at=number))
        killed = outcome.kind == "killed"
        if killed:
            ending, said = gone_on(home / "trial", argv, undisturbed, do)
            yield name, ending, said, f"operation {number}"
        elif outcome.kind != "fine":
            yield name, "traceback", outcome.said, f"operation {number}"


def gone_on(
    folder: Path,
    argv: list[str],
    undisturbed: dict,
    do: Callable[[list[str], Place], Outcome] = call,
) -> tuple[str, str]:
    """How a run that was ended goes on: with --resume, or anew when it had hardly begun."""
    begun = (folder / "run/config.json").exists()
    outcome = do(["train", "--resume", "run"] if begun else argv, Place(folder))
    if outcome.kind == "sentence":
        return "lost", outcome.said
    if outcome.kind != "fine":
        return outcome.kind, outcome.said
    now = final(folder / "run")
    others = ", ".join(name for name in now if now[name] != undisturbed[name])
    return ("other" if others else "fine"), f"other {others}"


def final(folder: Path) -> dict:
    """The best model and the state at a run's end, bit for bit, without the time it took."""
    state, metadata = read_arrays(folder / LAST, STATE_FORMAT)
    best, described = read_arrays(folder / BEST, MODEL_FORMAT)
    progress = json.loads(metadata["progress"])
    for name in ("seconds", "log_bytes"):  # the log says how fast it went
        progress.pop(name)
    arrays = [*state.items(), *best.items()]
    return {"arrays": [(name, array.tobytes()) for name, array in arrays]} | {
        "progress": progress,
        "model": described,
    }


# 3. Full disks


def full_disks(home: Path, share: float, rng: random.Random) -> Iterator[tuple]:
    """Train, and write outputs over older ones, on disks of several sizes."""
    plain = [option.replace("..", str(home)) for option in RUNS["plain"]]
    argv = ["train", "--save", "run", *plain]
    checked(argv, fresh(home))
    undisturbed = final(home / "trial/run")
    for size in DISKS:
        if rng.random() > share and size != DISKS[3]:
            continue
        folder = fresh(home)
        outcome = call(["train", "--save", "disk/run", *plain], on_disk(folder, size))
        ending, said = outcome.kind, outcome.said
        if outcome.kind in ("sentence", "fine"):
            again, text = gone_on(folder / "left", argv, undisturbed)
            ending, said = (ending, said) if again == "fine" else (again, text)
        yield "full disk, training", ending, said, f"{size} bytes"
        if size > DISKS[4]:  # all outputs have room
            continue
        for name in ("generate", "quantize", "export", "evaluate"):
            yield output_on_disk(home, name, size)


def output_on_disk(home: Path, name: str, size: int) -> tuple:
    """Replace an old file on a disk of that size: it stays, or the new one is whole."""
    folder = fresh(home)
    target = {"quantize": "disk/old.safetensors", "export": "disk/old.onnx"}.get(name, "disk/old")
    argv = {
        "generate": ["generate", "../run", "--words", "2000", "--outf", target],
        "quantize": ["quantize", "../run", "--out", target],
        "export": ["export", "../run", target],
        "evaluate": ["evaluate", "../run", "--record", target],
    }[name]
    outcome = call(argv, on_disk(folder, size, old=Path(target).name))
    left = folder / "left" / Path(target).name
    whole = left.exists() and (left.read_bytes() == b"old" * 999) == (outcome.kind != "fine")
    ending = outcome.kind if whole or not left.parent.exists() else "lost"
    return "full disk, outputs", ending, outcome.said, f"{name}, {size} bytes"


def shown(endings: dict[str, dict[str, int]]) -> str:
    """The table in Markdown."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" + "|--:" * len(COLUMNS) + "|"]
    total = {name: sum(row[name] for row in endings.values()) for name in COLUMNS}
    for kind, row in [*endings.items(), ("all", total)]:
        lines.append(f"| {kind} | {' | '.join(str(row[name]) for name in COLUMNS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
