"""AWD-LSTM at a size that two cores manage, and the same without each of its regularizers in turn.

    python benchmarks/ablation.py --epochs 8 --only none            # Penn Treebank, from nothing
    python benchmarks/ablation.py --finetune runs/ptb-awd-400-9 --epochs 3   # all, from a model
    python benchmarks/ablation.py --finetune runs/ptb-awd-400-9 --epochs 3 --table  # the recorded

In its first epochs a model gains by having no regularizers at all, they pay when it begins to learn
by heart. That is hundreds of epochs for nine models from nothing, or a few for nine that go on from
one that was trained with all of them. Runs that are recorded are not repeated, runs that were
stopped go on. All have the same seed, sizes and learning rate, which falls to 0 by the end, so none
is averaged.
"""

import argparse
import math
from pathlib import Path

import records

from gluonlm import train
from gluonlm.cli import run
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS
from gluonlm.training.run import read_log

# the toolkit's for Penn Treebank, smaller: layers of 400, 400 and 200 units instead of 1,150, 1,150
# and 400
BASE = (
    "--preset awd --no-adaptive --softmax-samples 1000 --emsize 200 --nhid 400 --batch-size 20 "
    "--dropout 0.3 --dropouti 0.3 --dropouth 0.2 --dropoute 0.05 --wdrop 0.3"
)
FOLDER = RESULTS / "ablation"
NO_DROPOUT = "--dropout 0 --dropouti 0 --dropouth 0"
VARIANTS = {
    "all": "",
    "no-weight-drop": "--wdrop 0",
    "no-embedding-dropout": "--dropoute 0",
    "no-locked-dropout": NO_DROPOUT,
    "unlocked-dropout": "--no-locked",
    "no-penalties": "--alpha 0 --beta 0",
    "no-random-lengths": "--no-random-bptt",
    "no-weight-decay": "--wdecay 0",
    "none": f"{NO_DROPOUT} --dropoute 0 --wdrop 0 --alpha 0 --beta 0 --no-random-bptt --wdecay 0",
}


def record_name(variant: str, options: argparse.Namespace) -> str:
    """Its folder, where it trains and where it is recorded: what it began with, its epochs, what it
    lacks."""
    begun = options.finetune.name if options.finetune else f"{Path(options.data).stem}-awd-400"
    return f"{begun}-{options.epochs}-{variant}".replace(
        ".", "-"
    )  # what follows a dot would make it a file


def train_variant(variant: str, options: argparse.Namespace) -> None:
    """Train, or go on with, one variant and record it; nothing if that was done.

    :raises UserError: when the training was stopped.
    """
    name = record_name(variant, options)
    folder, kept = options.runs / name, options.out / name
    if (kept / "result.json").exists():
        return
    print(f"--- {variant}", flush=True)
    if (folder / "config.json").exists():
        command = ["--resume", str(folder)]
    else:
        begin = (
            ["--finetune", str(options.finetune)]
            if options.finetune
            else [*BASE.split(), "--data", options.data]
        )
        command = [*begin, "--schedule", "linear", "--epochs", str(options.epochs)]
        command += [*VARIANTS[variant].split(), *options.more, "--save", str(folder)]
    if not train.main(command).finished:
        raise UserError(f"{variant} is not finished: the same command goes on with it")
    records.add(folder, kept)


def table(options: argparse.Namespace) -> str:
    """Validation perplexity of the recorded variants as Markdown, and what each costs against all
    regularizers.

    It is that of the last epoch, when the learning rate is 0: a run that goes on from a trained
    model and gets worse than that counts with what it came to.

    :raises UserError: when none is recorded.
    """
    found = {}
    for variant in VARIANTS:
        log = options.out / record_name(variant, options) / "log.jsonl"
        if log.exists():
            found[variant] = math.exp(read_log(log, "epoch")[-1]["valid_loss"])
    if not found:
        raise UserError(
            f"no run with --epochs {options.epochs} is recorded in {options.out}: leave out "
            f"--table first"
        )
    lines = ["| regularizers | validation | against all |", "|---|---|---|"]
    for variant, perplexity in found.items():
        change = (
            f"{perplexity / found['all'] - 1:+.1%}" if "all" in found and variant != "all" else ""
        )
        lines.append(f"| {variant.replace('-', ' ')} | {perplexity:.2f} | {change} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0], allow_abbrev=False)
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--data", default="ptb", help="of models that begin with nothing (default: ptb)"
    )
    begin.add_argument(
        "--finetune",
        type=Path,
        metavar="RUN",
        help="a trained run that all go on from, with its data",
    )
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder to train in (default: runs)"
    )
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder to record in (default: results/ablation)"
    )
    parser.add_argument("--table", action="store_true", help="only show what is recorded")
    options, options.more = parser.parse_known_args(
        argv
    )  # what is unknown here is for every training
    if options.more and options.out == FOLDER:
        raise UserError(
            f"{options.more[0]} makes it another ablation: give --out FOLDER to record it in, and "
            f"--runs"
        )
    if not options.table:
        for variant in options.only:
            train_variant(variant, options)
    print(table(options))


if __name__ == "__main__":
    run(main)
