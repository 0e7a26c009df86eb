"""What each way of quantizing costs in perplexity, and saves in bytes and time: one table, from one
command.

    python -m gluonlm.quantize runs/ptb --table       # prints it; writes runs/ptb/quantized.json

Perplexities are those of the whole validation and test text, in 10 columns. Words per second are of
evaluating the validation text and of writing one word at a time, each variant in turn in several
rounds, median: they depend on the machine and on what else it does.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from gluonlm.compress.calibrate import Statistics
from gluonlm.compress.quantization import parts_of, quantize_model
from gluonlm.inference.language_model import LanguageModel
from gluonlm.inference.sampling import Strategy, stream
from gluonlm.inference.scoring import displayed, perplexity, storable, unit_of
from gluonlm.model.checkpoint import Trained, save_model
from gluonlm.model.quantized import Scheme
from gluonlm.text.corpus import read_split

VARIANTS = {
    "float32": Scheme("fp32"),
    "float16": Scheme("fp16"),
    "INT8 symmetric, per tensor, extremes": Scheme(per="tensor", activations="extremes"),
    "INT8 asymmetric, per tensor, extremes": Scheme("int8", "asymmetric", "tensor", "extremes"),
    "INT8 asymmetric, per row, extremes": Scheme(mode="asymmetric", activations="extremes"),
    "INT8 asymmetric, per row, averaged": Scheme(mode="asymmetric", activations="averaged"),
    "INT8 asymmetric, per row, KL": Scheme(mode="asymmetric", activations="kl"),
    "INT8 symmetric, per row, dynamic": Scheme(),
    "INT8 weights only": Scheme(activations="float"),
}
TABLE = "quantized.json"
COLUMNS, ROUNDS, WORDS = 10, 5, 100
SPEED_TOKENS, SENSITIVITY_TOKENS = 5000, 2000
MIXED = "INT8 asymmetric, per row, averaged"  # of all parts but the costliest
Schemes = dict[str, Scheme]
Load = Callable[[Path], LanguageModel]  # such as gluonlm.load


@dataclass(frozen=True)
class Row:
    """A variant: name, schemes by part, size of its file, perplexities and words per second."""

    name: str
    schemes: dict[str, str]
    bytes: int
    valid: float
    test: float
    evaluated: float
    generated: float


class Variant:
    """A quantized copy of a model, written, read back, and ready to evaluate and to write."""

    def __init__(self, trained: Trained, schemes: Schemes, statistics: Statistics, load: Load):
        quantized = quantize_model(trained.model, schemes, statistics.ranges)
        is_float = all(scheme.kind == "fp32" for scheme in schemes.values())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.safetensors")
            save_model(replace(trained, path=path, quantized=None if is_float else quantized))
            self.bytes, self.model = path.stat().st_size, load(path)

    def loss(self, ids: np.ndarray) -> float:
        """Mean loss in nats per token."""
        return self.model.evaluate(ids, COLUMNS)

    def write(self, words: int, seed: int) -> None:
        for _ in stream(self.model, self.model.dictionary, (), words, Strategy(seed=seed)):
            pass


def compare(
    trained: Trained, statistics: Statistics, load: Load, tokens: int | None = None
) -> tuple[list[Row], list[int]]:
    """All variants of a model, each as a row; how many tokens of each text were evaluated, at most
    ``tokens``."""
    source = trained.dictionary, trained.level
    valid, test = texts = [
        read_split(trained.config.data, split, *source)[:tokens] for split in ("valid", "test")
    ]
    parts = parts_of(trained.model)
    make = partial(Variant, trained, statistics=statistics, load=load)
    # 1. the usual schemes, and a mixed one that spares the part which costs most by itself
    chosen = {name: dict.fromkeys(parts, scheme) for name, scheme in VARIANTS.items()}
    few = valid[:SENSITIVITY_TOKENS]
    worst = max(parts, key=lambda part: make({part: VARIANTS[MIXED]}).loss(few))
    mixed = f"mixed: INT8 averaged, {worst} float16"
    chosen[mixed] = chosen[MIXED] | {worst: Scheme("fp16")}
    # 2. what each has and does
    variants = {name: make(schemes) for name, schemes in chosen.items()}
    speeds = words_per_second(variants, valid[:SPEED_TOKENS])
    rows = []
    for name, variant in variants.items():
        schemes = {part: str(scheme) for part, scheme in chosen[name].items()}
        perplexities = (storable(perplexity(variant.loss(ids))) for ids in texts)
        rows.append(Row(name, schemes, variant.bytes, *perplexities, *speeds[name]))
    return rows, [len(valid), len(test)]


def words_per_second(
    variants: dict[str, Variant], ids: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Of each variant, evaluating ``ids`` and writing word by word: medians of rounds by turns."""
    seconds: dict[str, list] = {name: [] for name in variants}
    for seed in range(ROUNDS + 1):
        for name, variant in variants.items():
            seconds[name].append((clock(variant.loss, ids), clock(variant.write, WORDS, seed)))
    words = np.array([len(ids), WORDS])
    # the first round has warmed up
    return {name: tuple(words / np.median(s[1:], axis=0)) for name, s in seconds.items()}


def clock(work: Callable, *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def markdown(rows: list[Row], level: str) -> str:
    """The table; sizes and speeds also relative to the first row. Of a character model in bits."""
    first, tokens = rows[0], "characters" if level == "char" else "words"
    heads = ["variant", "MB", "of float32", f"validation {unit_of(level)}", "test"]
    heads += [f"{tokens}/s evaluating", f"{tokens}/s writing"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        valid, test = (displayed(math.log(one), level) for one in (row.valid, row.test))
        lines.append(
            f"| {row.name} | {row.bytes / 1e6:.2f} | {row.bytes / first.bytes:.1%} "
            f"| {valid} | {test} "
            f"| {row.evaluated:.0f} ({row.evaluated / first.evaluated:.2f} x) "
            f"| {row.generated:.0f} ({row.generated / first.generated:.2f} x) |"
        )
    return "\n".join(lines)
