"""Recorded results: where they were measured, how a run becomes one, and the table that README shows.

python -m gluonlm.results add runs/NAME results/NAME    # keep a finished run's settings, log and result
python -m gluonlm.results table                         # all recorded runs as a Markdown table
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gluonlm.cli import run
from gluonlm.errors import UserError
from gluonlm.files import write_atomically, writing

FOLDER = Path(__file__).parents[1] / "results"
KEPT = ("config.json", "log.jsonl", "result.json")
NAMING = ("--save", "--save-path", "--save_path", "--resume")  # options that name the run's folder


def machine_record() -> dict[str, str | int | None]:
    """Versions of python, numpy and mxnet (without importing them), processor, usable cores, date."""
    return {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "mxnet": version("mxnet") or version("mxnet-cu112"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def record(out: Path | None, command: Sequence[str], **figures: Any) -> dict[str, Any]:
    """What a benchmark measured, with the command that did it and the machine, written to ``out`` as JSON if given.

    :raises UserError: when it cannot be written.
    """
    result = {"command": shlex.join(command), "machine": machine_record(), **figures}
    if out:
        with writing(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, (json.dumps(result, indent=1) + "\n").encode())
    return result


def add(folder: Path, record: Path) -> None:
    """Copy what a recorded result keeps of a finished run, in its command the run's folder as ``runs/NAME``.

    :raises UserError: when the run is not finished.
    """
    missing = [name for name in KEPT if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: only a run that training has finished can be recorded")
    if folder.resolve() == record.resolve():
        raise UserError(f"{record} is the run itself: give another folder to record it in")
    record.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(folder / name, record / name)
    config = json.loads((record / "config.json").read_text())
    config["command"] = in_folder(config["command"], f"runs/{record.name}")
    write_atomically(record / "config.json", json.dumps(config, indent=1).encode())


def in_folder(commands: str, folder: str) -> str:
    """Commands, parted by semicolons, with another folder for the run that they make or go on with."""
    lexer = shlex.shlex(commands, posix=True, punctuation_chars=";")
    lexer.whitespace_split, lexer.commenters = True, ""
    words = list(lexer)
    for i, word in enumerate(words):
        option, equals, _ = word.partition("=")
        if option in NAMING and equals:
            words[i] = f"{option}={folder}"
        elif option in NAMING:
            words[i + 1] = folder
    return shlex.join(words).replace(" ';'", ";")


def recorded(folder: Path = FOLDER) -> dict[str, tuple[dict, dict]]:
    """All runs recorded in ``folder``: name -> (config.json, result.json)."""
    runs = {}
    for path in sorted(folder.glob("*/result.json")):
        runs[path.parent.name] = (json.loads((path.parent / "config.json").read_text()), json.loads(path.read_text()))
    return runs


def table() -> str:
    """The recorded runs as a Markdown table, with the figure that others published where there is one."""
    published = json.loads((FOLDER / "published.json").read_text())
    lines = [
        "| run | data | epochs | parameters | validation | test | published test | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (config, result) in recorded().items():
        theirs = published.get(name, {}).get("test")
        lines.append(
            f"| [{name}](results/{name}) | {config['data']} | {result['epochs']} | {result['parameters'] / 1e6:.2f} M "
            f"| {result['valid_perplexity']:.2f} | **{result['test_perplexity']:.2f}** "
            f"| {f'{theirs:.2f}' if theirs else ''} | {result['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Record a run or print the table."""
    parser = argparse.ArgumentParser(prog="python -m gluonlm.results", description="Recorded results.")
    commands = parser.add_subparsers(required=True, dest="command")
    adding = commands.add_parser("add", help="keep a finished run's settings, log and result")
    adding.add_argument("run", type=Path)
    adding.add_argument("record", type=Path)
    commands.add_parser("table", help="all recorded runs as a Markdown table")
    options = parser.parse_args(argv)
    if options.command == "add":
        add(options.run, options.record)
    else:
        print(table())


if __name__ == "__main__":
    run(main)
