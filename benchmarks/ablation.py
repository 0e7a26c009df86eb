"""AWD-LSTM at a size that two cores manage, and the same without each of its regularizers in turn.

    python benchmarks/ablation.py --epochs 6                   # Penn Treebank, nine runs, an hour or more each
    python benchmarks/ablation.py --epochs 6 --only all none   # some of them
    python benchmarks/ablation.py --table                      # the recorded runs

Runs that are recorded are not repeated, runs that were stopped go on. All have the same seed, sizes and learning rate,
which falls to 0 by the end: what averaging (NT-ASGD) adds shows only in runs that last until validation stalls.
"""

import argparse
import json
from pathlib import Path

from gluonlm import results, train
from gluonlm.cli import run
from gluonlm.errors import UserError

# the toolkit's rates for Penn Treebank, smaller: three layers of 400 units instead of 1,150, and few epochs
BASE = (
    "--preset awd --no-adaptive --softmax-samples 1000 --emsize 200 --nhid 400 --batch-size 20 --schedule linear "
    "--dropout 0.3 --dropouti 0.3 --dropouth 0.2 --dropoute 0.05 --wdrop 0.3"
)
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


def record_name(data: str, variant: str, epochs: int) -> str:
    """Its folder in results/."""
    return f"{Path(data).stem}-awd-400-{epochs}-{variant}"


def train_variant(variant: str, options: argparse.Namespace) -> None:
    """Train, or go on with, one variant and record it; nothing if that was done.

    :raises UserError: when the training was stopped.
    """
    name = record_name(options.data, variant, options.epochs)
    folder, kept = options.runs / name, options.out / name
    if (kept / "result.json").exists():
        return
    print(f"--- {variant}", flush=True)
    if (folder / "config.json").exists():
        command = ["--resume", str(folder)]
    else:
        command = f"{BASE} --data {options.data} --epochs {options.epochs} {VARIANTS[variant]}".split()
        command += [*options.more, "--save", str(folder)]
    if not train.main(command).finished:
        raise UserError(f"{variant} is not finished: the same command goes on with it")
    results.add(folder, kept)


def table(options: argparse.Namespace) -> str:
    """The recorded variants as Markdown, with what each costs against all regularizers together.

    :raises UserError: when none is recorded.
    """
    found = {}
    for variant in VARIANTS:
        path = options.out / record_name(options.data, variant, options.epochs) / "result.json"
        if path.exists():
            found[variant] = json.loads(path.read_text())
    if "all" not in found:
        raise UserError(f"no run with --epochs {options.epochs} is recorded in {options.out}: leave out --table first")
    whole = found["all"]["valid_perplexity"]
    lines = ["| regularizers | validation | against all | test |", "|---|---|---|---|"]
    for variant, result in found.items():
        change = f"{result['valid_perplexity'] / whole - 1:+.1%}" if variant != "all" else ""
        lines.append(
            f"| {variant.replace('-', ' ')} | {result['valid_perplexity']:.2f} | {change} "
            f"| {result['test_perplexity']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", default="ptb")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder to train in (default: runs)")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder to record in (default: results)")
    parser.add_argument("--table", action="store_true", help="only show what is recorded")
    options, options.more = parser.parse_known_args(argv)  # what is unknown here is for every training
    if not options.table:
        for variant in options.only:
            train_variant(variant, options)
    print(table(options))


if __name__ == "__main__":
    run(main)
