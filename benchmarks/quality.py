"""Time to a perplexity: the preset fast-cpu against PyTorch's word-level example, tied, 6 epochs.

    export GLUONLM_TORCH_PYTHON=torch-env/bin/python
    python benchmarks/quality.py --options "--dropout 0.1 --precision bfloat16"
    python benchmarks/quality.py --data wikitext-2 --torch-epochs 0.2 --published 130.3
    python benchmarks/quality.py --table    # the recorded races

Both are whole programs, from reading the text to the test perplexity. They run by turns of half a
minute, one halted while the other works, and only working time counts: a load on the machine meets
both. PyTorch's time for six epochs is taken from --torch-epochs of them where that is less; its
perplexity is then not measured, but quoted: that of --published. (Less than one epoch has no
evaluation, but its start is counted with it: an estimate.) Recorded in results/quality-DATA.json,
with how many epochs each was trained.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from step import HERE, NO_TORCH, competitor_environment, find_torch

from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record
from gluonlm.text.corpus import Corpus, load_corpus
from gluonlm.text.vocabulary import EOS

EPOCHS = 6  # of the example


@dataclass
class Racer:
    """A program that works only in its turns."""

    name: str
    process: subprocess.Popen
    seconds: float = 0.0

    @classmethod
    def start(cls, name: str, command: list[str], log: Path) -> "Racer":
        """The program at its start, halted; what it prints goes to ``log``."""
        with log.open("w") as out:
            process = subprocess.Popen(command, stdout=out, env=competitor_environment(name))
        process.send_signal(signal.SIGSTOP)
        return cls(name, process)

    @property
    def done(self) -> bool:
        """Whether it has ended.

        :raises UserError: when it has failed.
        """
        code = self.process.poll()
        if code:
            raise UserError(f"{self.name} ended with code {code}: see its message above")
        return code == 0

    def turn(self, seconds: float) -> None:
        """Let it work for so long, or to its end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGSTOP)
        self.seconds += time.monotonic() - started


def race(racers: list[Racer], seconds: float) -> None:
    """Turns for all until the last has ended."""
    try:
        while not all(one.done for one in racers):
            for one in racers:
                if not one.done:
                    one.turn(seconds)
    finally:
        for one in racers:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()


def write_texts(corpus: Corpus, folder: Path) -> list[Path]:
    """The three texts as files of the very tokens that gluonlm reads, a line for each that ends in
    ``<eos>``."""
    paths = []
    for split in ("train", "valid", "test"):
        paths.append(folder / f"{split}.txt")
        words = corpus.dictionary.decode(getattr(corpus, split))
        paths[-1].write_text(" ".join(words).replace(EOS, "\n"), encoding="utf-8")
    return paths


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", default="ptb", help="a word-level data set, as for gluonlm.train")
    parser.add_argument("--preset", default="fast-cpu")
    parser.add_argument("--epochs", type=int, default=4, help="of ours")
    parser.add_argument("--options", default="", help="what else ours is given, in one string")
    parser.add_argument("--seed", type=int, default=1111, help="of both")
    parser.add_argument(
        "--torch-python", default=os.environ.get("GLUONLM_TORCH_PYTHON"), metavar="PYTHON"
    )
    parser.add_argument(
        "--torch-epochs",
        type=float,
        default=EPOCHS,
        help=f"that are run, of the example's {EPOCHS}",
    )
    parser.add_argument(
        "--published", type=float, help=f"what others report of the example after {EPOCHS} epochs"
    )
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument(
        "--turn", type=float, default=30.0, help="seconds of work before the other has its turn"
    )
    parser.add_argument("--out", type=Path, help="file to record the figures in")
    parser.add_argument(
        "--table", action="store_true", help="print the recorded races, measure nothing"
    )
    options = parser.parse_args(argv)
    if options.torch_epochs <= 0 or options.torch_epochs > 1 and options.torch_epochs % 1:
        raise UserError(
            f"--torch-epochs {options.torch_epochs:g}: must be a whole number, or a part of one "
            f"epoch"
        )
    if options.torch_epochs > EPOCHS:
        raise UserError(
            f"--torch-epochs {options.torch_epochs:g}: the example is compared after {EPOCHS}"
        )
    if options.torch_epochs < EPOCHS and options.published is None:
        raise UserError(
            f"--torch-epochs {options.torch_epochs:g}: give --published, what {EPOCHS} epochs reach"
        )
    return options


def table() -> str:
    """The recorded races as Markdown, the shortest of a data set first."""
    races = [json.loads(path.read_text()) for path in RESULTS.glob("quality-*.json")]
    lines = [
        "| data | seed | our epochs | our test | seconds | PyTorch's test, 6 epochs | seconds | "
        "ours / PyTorch's seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for race in sorted(races, key=lambda race: (race["data"], race["seed"])):
        seconds, reached, theirs = race["seconds"], race["test_perplexity"], race["epochs"]["torch"]
        source = "" if theirs == EPOCHS else f" (from {theirs:g} epochs)"
        lines.append(
            f"| {race['data']} | {race['seed']} | {race['epochs']['ours']} | "
            f"{reached['ours']:.2f} | {seconds['ours']:,.0f} "
            f"| {reached['torch']:.2f} ({'measured' if theirs == EPOCHS else 'quoted'}) | "
            f"{seconds['torch']:,.0f}{source} "
            f"| **{race['ours_over_torch_time']:.2f}** |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> dict | None:
    """Race, print and record."""
    options = parse(argv)
    if options.table:
        print(table())
        return None
    python = find_torch(options.torch_python)
    if python is None:
        raise UserError(NO_TORCH)
    with tempfile.TemporaryDirectory() as folder:
        texts = write_texts(load_corpus(options.data), Path(folder))
        save, logs = Path(folder) / "run", {name: Path(folder) / name for name in ("ours", "torch")}
        ours = [sys.executable, "-m", "gluonlm.train", "--preset", options.preset]
        ours += ["--data", options.data, "--epochs", options.epochs, "--save", save]
        ours += ["--emsize", options.units, "--nhid", options.units, "--seed", options.seed]
        ours += shlex.split(options.options)
        torch = [python, HERE / "quality_torch.py", *texts, "--epochs", f"{options.torch_epochs:g}"]
        torch += ["--units", options.units, "--seed", options.seed]
        racers = [
            Racer.start(name, list(map(str, command)), logs[name])
            for name, command in (("ours", ours), ("torch", torch))
        ]
        race(racers, options.turn)
        our_result = json.loads((save / "result.json").read_text())
        their_result = json.loads(logs["torch"].read_text().splitlines()[-1])
    seconds = {one.name: round(one.seconds, 1) for one in racers}
    seconds["torch"] = round(seconds["torch"] * EPOCHS / options.torch_epochs, 1)
    whole = options.torch_epochs >= EPOCHS
    shown = {
        "ours": round(our_result["test_perplexity"], 2),
        "torch": round(their_result["test_perplexity"], 2) if whole else options.published,
    }
    source = "measured" if whole else "published"
    print(
        f"{options.data}: ours reached test perplexity {shown['ours']} in {seconds['ours']:.0f} "
        f"s, PyTorch "
        f"{shown['torch']} ({source}) in {seconds['torch']:.0f} s of working time"
    )
    return record(
        options.out or RESULTS / f"quality-{Path(options.data).stem}.json",
        ["python", "benchmarks/quality.py", *argv],
        data=options.data,
        epochs={"ours": options.epochs, "torch": options.torch_epochs},
        options=options.options,
        seed=options.seed,
        seconds=seconds,
        test_perplexity=shown,
        torch_perplexity_is=source,
        ours_over_torch_time=round(seconds["ours"] / seconds["torch"], 3),
        torch=their_result,
    )


if __name__ == "__main__":
    run(main)
