"""Memory of training AWD-LSTM and AWD-QRNN as published, beside the same models in PyTorch.

    python benchmarks/memory.py --torch-python torch-env/bin/python    # twenty minutes

Steps on random words at the published sizes (V = 10,000, batch 20), in segments of the lengths that
the recipe draws; both programs get the same, in each epoch again. The peak is what the process had
at most, the growth by how much that rose after the second epoch: the first warms up. Recorded in
results/memory.json, where settings that are not measured again stay as they are.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from step import HERE, NO_TORCH, competitor_environment, find_torch

from gluonlm.cli import run
from gluonlm.presets import resolve
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, cpu_flags, record
from gluonlm.text.batches import random_length

VOCAB, BATCH, MIB = 10_000, 20, 2**20


def measure(name: str, python: str, job: dict) -> dict[str, list[int] | int]:
    """Peak and growth in MiB of one program, in a process of its own."""
    kind = "torch" if name == "torch" else "ours"
    ended = subprocess.run(
        [python, str(HERE / f"memory_{kind}.py"), json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        env=competitor_environment(kind),
    )
    if ended.returncode:
        raise UserError(f"{name} ended with code {ended.returncode}: see its message above")
    epochs = [json.loads(line) for line in ended.stdout.splitlines()]
    after = [round(one["bytes"] / MIB) for one in epochs]
    peaks = [round(one["peak_bytes"] / MIB) for one in epochs]
    growth = peaks[-1] - peaks[1]
    return {"peak": peaks[-1], "growth": growth, "peaks": peaks, "after_epochs": after}


def compare(preset: str, options: argparse.Namespace, torch: str | None) -> dict:
    """Both precisions of ours and PyTorch with the settings of a recipe."""
    config = resolve(preset, {"batch_size": BATCH, **options.sizes})
    count = options.steps
    epochs = [[random_length(config.bptt, config.seed, i) for i in range(count)]] * options.epochs
    measured, names = {}, ["float32"]
    if config.model == "LSTM" and "avx512_bf16" in cpu_flags():
        names.append("bfloat16")
    for name in names:
        settings = asdict(config) | {"precision": name}
        job = {"settings": settings, "vocab": VOCAB, "epochs": epochs}
        measured[name] = measure(name, sys.executable, job)
    if torch:
        measured["torch"] = measure("torch", torch, job)
    ratios = {
        name: round(one["peak"] / measured["torch"]["peak"], 3)
        for name, one in measured.items()
        if torch and name != "torch"
    }
    steps = options.epochs * options.steps
    return {"steps": steps, "mib": measured, "peak_over_torch": ratios}


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--torch-python", default=os.environ.get("GLUONLM_TORCH_PYTHON"), metavar="PYTHON"
    )
    parser.add_argument("--presets", nargs="+", default=["awd-ptb", "qrnn"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="of an epoch")
    parser.add_argument("--out", type=Path, help="file to record in (default: results/memory.json)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    options = parser.parse_args(argv)
    options.sizes = {"emsize": 8, "nhid": 12, "bptt": 10} if options.quick else {}
    if options.epochs < 2:
        raise UserError("--epochs must be at least 2, for growth to be seen")
    return options


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    options = parse(argv)
    torch = find_torch(options.torch_python)
    if torch is None:
        print(NO_TORCH, file=sys.stderr)
    out = options.out or (None if options.quick else RESULTS / "memory.json")
    presets = json.loads(out.read_text())["presets"] if out and out.is_file() else {}
    for preset in options.presets:
        presets[preset] = one = compare(preset, options, torch)
        peaks = ", ".join(f"{name} {mib['peak']}" for name, mib in one["mib"].items())
        print(f"{preset}: peak MiB {peaks}; ours / PyTorch: {one['peak_over_torch']}", flush=True)
    return record(out, ["python", "benchmarks/memory.py", *argv], presets=presets)


if __name__ == "__main__":
    run(main)
