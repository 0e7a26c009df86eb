"""Recorded runs: how a run becomes one, and the table of all.

python benchmarks/records.py add runs/NAME results/NAME  # keep its settings, log and result
python benchmarks/records.py table                       # all recorded runs in Markdown
python benchmarks/records.py table results/trials        # ... of a folder: short runs, compared
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.files import write_atomically
from gluonlm.system.machine import RESULTS, recorded

KEPT = ("config.json", "log.jsonl", "result.json")
NAMING = ("--save", "--save-path", "--save_path", "--resume")  # options that name the run's folder


def add(folder: Path, record: Path) -> None:
    """Copy what a recorded result keeps of a finished run, in its command the run's folder as
    ``runs/NAME``.

    :raises UserError: when the run is not finished.
    """
    missing = [name for name in KEPT if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} has no {missing[0]}: only a run that training has finished can be recorded"
        )
    if folder.resolve() == record.resolve():
        raise UserError(f"{record} is the run itself: give another folder to record it in")
    record.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(folder / name, record / name)
    config = json.loads((record / "config.json").read_text())
    config["command"] = in_folder(config["command"], f"runs/{record.name}")
    write_atomically(record / "config.json", json.dumps(config, indent=1).encode())


def in_folder(commands: str, folder: str) -> str:
    """Commands, parted by semicolons, with another folder for the run that they make or go on
    with."""
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


def table(folder: Path = RESULTS) -> str:
    """The runs recorded in a folder as a Markdown table, with the figure that others published
    where there is one."""
    published = json.loads((RESULTS / "published.json").read_text())
    lines = [
        "| run | data | epochs | parameters | validation | test | published test | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (config, result) in recorded(folder).items():
        theirs = published.get(name, {}).get("test")
        shown = f"[{name}](../../results/{name})" if folder == RESULTS else name
        lines.append(
            f"| {shown} | {config['data']} | {result['epochs']} | "
            f"{result['parameters'] / 1e6:.2f} M "
            f"| {result['valid_perplexity']:.2f} | **{result['test_perplexity']:.2f}** "
            f"| {f'{theirs:.2f}' if theirs else ''} | {result['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Record a run or print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks/records.py", description="Recorded results.")
    commands = parser.add_subparsers(required=True, dest="command")
    adding = commands.add_parser("add", help="keep a finished run's settings, log and result")
    adding.add_argument("run", type=Path)
    adding.add_argument("record", type=Path)
    tabling = commands.add_parser("table", help="recorded runs as a Markdown table")
    tabling.add_argument("folder", type=Path, nargs="?", default=RESULTS)
    options = parser.parse_args(argv)
    if options.command == "add":
        add(options.run, options.record)
    else:
        print(table(options.folder))


if __name__ == "__main__":
    run(main)
