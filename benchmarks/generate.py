"""Words per second of generation: against PyTorch's word-level example, and as a batch.

    python benchmarks/generate.py --torch-python /path/to/a/python/that/has/torch

Two-layer LSTM of 200 units, V = 10,000, one word at a time, each side on the threads that it takes
by itself. The two take turns, round by round, each in a process of its own; the ratio is the median
over rounds. On a machine that does other things too, several threads that wait for each other
suffer far more than one: set OMP_NUM_THREADS=1 there, which both sides obey, and look at the
processor time. Records results/generate.json.
"""

import argparse
import functools
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import gluonlm
from gluonlm.cli import run
from gluonlm.config import Config
from gluonlm.inference.predictor import Predictor
from gluonlm.inference.sampling import Strategy, stream
from gluonlm.model.checkpoint import build_model
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS, record
from gluonlm.text.corpus import EOS, Dictionary
from gluonlm.text.detokenize import Detokenizer

V, CONFIG = 10_000, Config(model="LSTM", emsize=200, nhid=200, nlayers=2)
BATCHES, LEAST_STEPS = (1, 8, 64), 16


class Torch:
    """The example in its process."""

    def __init__(self, python: str):
        script = str(Path(__file__).with_name("generate_torch.py"))
        command = [python, script, *map(str, (V, CONFIG.nhid, CONFIG.nlayers))]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise UserError(
                f"cannot run {python} ({error.strerror}): give a python with torch as "
                f"--torch-python"
            ) from None
        hello = self.process.stdout.readline().split()
        if len(hello) != 2:
            raise UserError(
                f"{python} has no torch: install it there, or give another as --torch-python"
            )
        self.version, self.threads = hello[0], int(hello[1])

    def seconds(self, words: int) -> tuple[float, float]:
        """What it takes to write so many words: seconds by the clock, seconds of processor time."""
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        wall, cpu = self.process.stdout.readline().split()
        return float(wall), float(cpu)


def seconds(
    predictor: Predictor, dictionary: Dictionary, words: int, samples: int, seed: int
) -> tuple[float, float]:
    """What we take to write so many words of each of so many samples, down to the text."""
    start, started = time.perf_counter(), time.process_time()
    text, write = io.StringIO(), Detokenizer()
    strategy = Strategy(seed=seed, samples=samples)
    for tokens in stream(predictor, dictionary, (), words, strategy):
        for token in tokens:
            text.write(write(dictionary.idx2word[token]))
    return time.perf_counter() - start, time.process_time() - started


def measure(torch: Torch, rounds: int, words: int) -> dict[str, np.ndarray]:
    """Words per second of each side, (rounds, 2): by the clock and by processor time."""
    dictionary = Dictionary([EOS, *(f"w{index}" for index in range(1, V))])
    model = build_model(CONFIG, V)
    sides = {"torch": (words, lambda seed: torch.seconds(words))}
    for n in BATCHES:  # a predictor for each: its plan is for one number of columns
        steps, predictor = max(words // n, LEAST_STEPS), Predictor(model)
        run = functools.partial(seconds, predictor, dictionary, steps, n)
        sides[f"gluonlm, {n} at once"] = steps * n, run
    speeds: dict[str, list] = {side: [] for side in sides}
    for seed in range(rounds + 1):
        for side, (written, run) in sides.items():
            speeds[side].append(written / np.array(run(seed)))
    return {
        side: np.array(values[1:]) for side, values in speeds.items()
    }  # the first round has warmed up


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description="Words per second of generation, against PyTorch's example."
    )
    parser.add_argument("--torch-python", default=sys.executable, help="a python that has torch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--words", type=int, default=256, help="words of a round")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "generate.json", help="file to record the figures in"
    )
    options = parser.parse_args(argv)
    torch = Torch(options.torch_python)
    speeds = measure(torch, options.rounds, options.words)
    wall, cpu = (speeds["gluonlm, 1 at once"] / speeds["torch"]).T  # (rounds,) each
    figures = {
        "model": f"LSTM, 2 layers of 200 units, V = {V}",
        "words_per_second": {
            side: round(float(np.median(values[:, 0]))) for side, values in speeds.items()
        },
        "times_torch_by_the_clock": spread(wall),
        "times_torch_by_processor_time": spread(cpu),
        "threads": {"torch": torch.threads, "gluonlm": gluonlm.RUNTIME.threads},
        "load": os.getloadavg()[0],  # about 1 or 2 when nothing else runs
        "torch": torch.version,
    }
    command = ["python", "benchmarks/generate.py"]
    command += ["--rounds", str(options.rounds), "--words", str(options.words)]
    if gluonlm.RUNTIME.threads_given:
        command.insert(0, f"OMP_NUM_THREADS={gluonlm.RUNTIME.threads}")
    result = record(options.out, command, **figures)
    print(json.dumps(result, indent=1))
    return result


def spread(ratios: np.ndarray) -> dict[str, float]:
    """Median and extremes."""
    return {
        name: round(float(function(ratios)), 2)
        for name, function in {"median": np.median, "lowest": np.min, "highest": np.max}.items()
    }


if __name__ == "__main__":
    run(main)
