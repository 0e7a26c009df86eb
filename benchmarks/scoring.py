"""What scoring many lines together gains over one line at a time, and what arithmetic allows.

    python benchmarks/scoring.py                       # in five minutes; results/scoring.json
    python benchmarks/scoring.py --lines 10000         # in half a minute

Three models score stretches of 10 to 25 words of `austen`: an LSTM of 200 units over 10,000 words,
one of 200 units over characters (both of random weights), and the bundled 8-bit model; the first of
them also in bfloat16, where the processor can. ``together`` is `python -m gluonlm.score`, from
reading the file to writing the table. ``alone`` is a loop over ``model.perplexity(line)``. ``limit``
is the speed of the model's products alone, on batches of 2,048 tokens: no way of batching can be
faster. All is lines per second of processor time on one thread, which programs beside it hardly
disturb. ``off`` compares the sum over the lines that were scored alone, the state carried over, with
that of `python -m gluonlm.evaluate`.
"""

import argparse
import contextlib
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from memory_worker import peak_bytes

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"

import gluonlm  # isort: skip
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
WARM_UP = 200  # lines before those that are timed alone


def main(argv: list[str]) -> dict:
    """Measure the models, print and record what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--lines", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument("--alone", type=int, default=500, help="lines one at a time (default: 500)")
    parser.add_argument("--out", type=Path, default=RESULTS / "scoring.json")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "lines.txt")
        write_lines(text, options.lines)
        paths = [random_model(Path(folder), level) for level in ("word", "char")]
        rows = [measured(path, text, options.alone) for path in [*paths, BUNDLED]]
        if "avx512_bf16" in cpu_flags():
            rows.append(measured(paths[0], text, options.alone, "bfloat16"))
    for row in rows:
        limit = f", limit {row['limit']:,.0f}" if row["limit"] else ""
        off = "" if row["off"] is None else f", sum off by {row['off']:.0e}"
        print(
            f"{row['model']}, {row['precision']}: {row['together']:,.0f} lines/s together, "
            f"{row['alone']:,.0f} alone, ratio {row['ratio']:.1f}{limit}{off}"
        )
    command = ["python", "benchmarks/scoring.py", *argv]
    return record(options.out, command, lines=options.lines, models=rows)


def write_lines(path: Path, count: int) -> None:
    """Write stretches of 10 to 25 words, from anywhere in the training text of austen."""
    words = Path(gluonlm.text.sources.BUNDLED, "austen", "train.txt").read_text().split()
    random = np.random.default_rng(1)
    lengths = random.integers(10, 26, count)
    starts = random.integers(0, len(words) - 25, count)
    with path.open("w") as file:
        for start, length in zip(starts, lengths, strict=True):
            file.write(" ".join(words[start : start + length]) + "\n")


def random_model(folder: Path, level: str) -> Path:
    """A model of 200 units, which is as fast as a trained one."""
    words = load_corpus("austen", level).dictionary
    config = Config(data="austen", level=level, tied=True)
    path = folder / f"{level}-200.safetensors"
    save_model(Trained(build_model(config, len(words)), words, config, level, path))
    return path


def measured(path: Path, text: Path, alone: int, precision: str = "float32") -> dict:
    """The lines per processor second of a model in each way."""
    model, own = gluonlm.load(path, precision=precision), ["--precision", precision]
    lines = list(itertools.islice(text.open(), alone))
    for line in lines[:WARM_UP]:
        model.perplexity(line)
    began = time.process_time()
    for line in lines:
        model.perplexity(line)
    one = alone / (time.process_time() - began)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        began = time.process_time()
        totals = score.main([str(path), str(text), *own])
        together = totals["lines"] / (time.process_time() - began)
        some = text.with_name("some.txt")
        some.write_text("".join(lines))
        off = difference(path, some, own) if path != BUNDLED else None
    tokens = totals["tokens"] / totals["lines"]  # of a line
    return {
        "model": path.stem,
        "precision": "int8" if path == BUNDLED else precision,
        "tokens_per_line": tokens,
        "together": together,
        "alone": one,
        "ratio": together / one,
        "limit": limit(model) / tokens if path != BUNDLED else None,
        "off": off,
        "peak_mib": peak_bytes() / 2**20,
    }


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
        began = time.process_time()
        features = arithmetic.model.body(ids, state)[0].reshape((ROWS, -1))
        linear(features, weight, bias, arithmetic.model.precision)
        nd.waitall()
        seconds.append(time.process_time() - began)
    return ROWS / min(seconds)


if __name__ == "__main__":
    run(main)
