"""What scoring many lines together gains over one line at a time, and what arithmetic allows.

    python benchmarks/scoring.py                       # in four minutes; results/scoring.json
    python benchmarks/scoring.py --lines 10000         # in one

Three models score stretches of 10 to 25 words of `austen`: an LSTM of 200 units over 10,000 words,
one of 200 units over characters (both of random weights), and the bundled 8-bit model; the first of
them also in bfloat16, where the processor can. ``together`` is `python -m gluonlm.score`, from
loading the model to writing the table. ``alone`` is a loop over ``model.perplexity(line)``.
``limit`` is the speed of the model's products alone, on batches of 2,048 tokens: no way of batching
can be faster. All is lines per second by the clock, on all cores, which should be free. The ways
take turns; figures are medians over rounds, ratios those of neighbours in time. ``off`` compares
the sum over lines, the state carried over, with that of `python -m gluonlm.evaluate`.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from memory_worker import peak_bytes

import gluonlm
from gluonlm import evaluate, score
from gluonlm.cli import run
from gluonlm.config import Config
from gluonlm.inference.lines import ROWS
from gluonlm.model.checkpoint import Trained, build_model, save_model
from gluonlm.model.precision import linear
from gluonlm.system.machine import RESULTS, cpu_flags, record
from gluonlm.text.corpus import load_corpus

BUNDLED = RESULTS.parent / "models" / "austen.safetensors"
STEPS = 32  # of the batches whose products are timed
WARM_UP = 100  # lines before those that are timed alone


def main(argv: list[str]) -> dict:
    """Measure the models, print and record what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--lines", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument("--alone", type=int, default=500, help="of a round (default: 500)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--out", type=Path, default=RESULTS / "scoring.json")
    options = parser.parse_args(argv)
    both = ["float32", "bfloat16"] if "avx512_bf16" in cpu_flags() else ["float32"]
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(1, options.rounds + 1)
        all_lines, some = (
            [write_lines(Path(folder, f"{count}-{seed}.txt"), count, seed) for seed in seeds]
            for count in (options.lines, options.lines // 5)
        )
        words, characters = (random_model(Path(folder), level) for level in ("word", "char"))
        rows = measured(words, all_lines, options.alone, both)
        for path in (characters, BUNDLED):  # a fifth of the lines, which take as long
            rows += measured(path, some, options.alone, both[:1])
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    command = ["python", "benchmarks/scoring.py", *argv]
    return record(options.out, command, lines=options.lines, models=rows)


def write_lines(path: Path, count: int, seed: int) -> Path:
    """Write stretches of 10 to 25 words, from anywhere in the training text of austen."""
    words = Path(gluonlm.text.sources.BUNDLED, "austen", "train.txt").read_text().split()
    random = np.random.default_rng(seed)
    lengths = random.integers(10, 26, count)
    starts = random.integers(0, len(words) - 25, count)
    with path.open("w") as file:
        for start, length in zip(starts, lengths, strict=True):
            file.write(" ".join(words[start : start + length]) + "\n")
    return path


def random_model(folder: Path, level: str) -> Path:
    """A model of 200 units, which is as fast as a trained one."""
    words = load_corpus("austen", level).dictionary
    config = Config(data="austen", level=level, tied=True)
    path = folder / f"{level}-200.safetensors"
    save_model(Trained(build_model(config, len(words)), words, config, level, path))
    return path


def measured(path: Path, texts: list[Path], alone: int, precisions: list[str]) -> list[dict]:
    """The lines per second of a model in each way and precision."""
    models = {one: gluonlm.load(path, precision=one) for one in precisions}
    speeds = {precision: defaultdict(list) for precision in precisions}
    tokens = 1.0
    for text in texts:
        lines = list(itertools.islice(text.open(), alone))
        for precision, model in models.items():
            found = speeds[precision]
            found["alone"].append(alone_speed(model, lines))
            speed, tokens = together_speed(path, text, precision)
            found["together"].append(speed)
            if path != BUNDLED:
                found["limit"].append(limit(model) / tokens)
    some = texts[0].with_name("some.txt")
    some.write_text("".join(itertools.islice(texts[0].open(), alone)))
    rows = []
    for precision, found in speeds.items():
        row = {"model": path.stem, "precision": "int8" if path == BUNDLED else precision}
        row |= {way: round(statistics.median(rounds)) for way, rounds in found.items()}
        row["ratio"] = ratio(found["together"], found["alone"])
        row["over_float32_alone"] = ratio(found["together"], speeds["float32"]["alone"])
        if path != BUNDLED:
            row["of_limit"] = ratio(found["together"], found["limit"])
            row["off"] = difference(path, some, ["--precision", precision])
        rows.append({**row, "tokens_per_line": tokens, "peak_mib": round(peak_bytes() / 2**20)})
    return rows


def ratio(first: list[float], second: list[float]) -> float:
    """The median of the ratios of each round."""
    return round(statistics.median(a / b for a, b in zip(first, second, strict=True)), 2)


def alone_speed(model: gluonlm.LanguageModel, lines: list[str]) -> float:
    """Lines per second, one at a time."""
    for line in lines[:WARM_UP]:
        model.perplexity(line)
    began = time.perf_counter()
    for line in lines:
        model.perplexity(line)
    return len(lines) / (time.perf_counter() - began)


def together_speed(path: Path, text: Path, precision: str) -> tuple[float, float]:
    """Lines per second of the command, and tokens of a line."""
    options = [str(path), str(text), "--precision", precision]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        began = time.perf_counter()
        totals = score.main(options)
        seconds = time.perf_counter() - began
    return totals["lines"] / seconds, totals["tokens"] / totals["lines"]


def difference(path: Path, text: Path, own: list[str]) -> float:
    """By what share the sum of a text's lines differs from evaluate's, which reads it as one."""
    lines = score.main([str(path), str(text), "--carry", *own])["log_probability"]
    whole = evaluate.main([str(path), "--data", str(text), "--batch-size", "1", *own])
    return abs(1 + lines / (whole.loss * whole.tokens))


def limit(model: gluonlm.LanguageModel) -> float:
    """Tokens per second through the layers and the decoder's product, without softmax."""
    from mxnet import nd

    arithmetic, columns = model.arithmetic, ROWS // STEPS
    decoder = arithmetic.model.decoder
    weight, bias = decoder.weight.data(), decoder.bias.data()
    ids = nd.array(np.random.default_rng(1).integers(0, len(model.dictionary), (STEPS, columns)))
    state, seconds = model.begin_state(columns), []
    for _ in range(9):
        nd.waitall()
        began = time.perf_counter()
        features = arithmetic.model.body(ids, state)[0].reshape((ROWS, -1))
        linear(features, weight, bias, arithmetic.model.precision)
        nd.waitall()
        seconds.append(time.perf_counter() - began)
    return ROWS / min(seconds)


if __name__ == "__main__":
    run(main)
