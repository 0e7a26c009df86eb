"""What each way of quantizing costs in perplexity, and saves in bytes and time: one table, from one command.

    python -m gluonlm.quantize runs/ptb --table               # prints it, and writes runs/ptb/quantized.json

Perplexities are those of the whole validation and test text, in 10 columns. Words per second are of evaluating the
validation text and of writing one word at a time, each variant in turn in several rounds, median: they depend on the
machine and on what else it does.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from gluonlm.compress.calibrate import Statistics
from gluonlm.compress.scheme import parts_of, quantize_model
from gluonlm.inference.sampling import stream
from gluonlm.model.checkpoint import Trained, load_model, save_model
from gluonlm.model.quantized import Scheme
from gluonlm.onnx.load import language_model
from gluonlm.system.machine import record
from gluonlm.text.corpus import read_split
from gluonlm.training.progress import displayed, unit_of

VARIANTS = {
    "float32": Scheme("fp32"),
    "float16": Scheme("fp16"),
    "INT8 symmetric, per tensor, extremes": Scheme(per="tensor", activations="extremes"),
    "INT8 asymmetric, per tensor, extremes": Scheme(
        mode="asymmetric", per="tensor", activations="extremes"
    ),
    "INT8 asymmetric, per row, extremes": Scheme(mode="asymmetric", activations="extremes"),
    "INT8 asymmetric, per row, averaged": Scheme(mode="asymmetric", activations="averaged"),
    "INT8 asymmetric, per row, KL": Scheme(mode="asymmetric", activations="kl"),
    "INT8 symmetric, per row, dynamic": Scheme(),
    "INT8 weights only": Scheme(activations="float"),
}
TABLE = "quantized.json"
COLUMNS, ROUNDS, WORDS = 10, 5, 100
SPEED_TOKENS, SENSITIVITY_TOKENS = 5000, 2000
Schemes = dict[str, Scheme]


@dataclass(frozen=True)
class Row:
    """One variant: its name, schemes by part, size of its file, perplexities and words per second."""

    name: str
    schemes: dict[str, str]
    bytes: int
    valid: float
    test: float
    evaluated: float
    generated: float


class Variant:
    """A quantized copy of a model in a temporary file, read back and ready to evaluate and to write."""

    def __init__(self, trained: Trained, schemes: Schemes, statistics: Statistics, folder: Path):
        path = folder / "model.safetensors"
        quantized = quantize_model(trained.model, schemes, statistics.ranges)
        is_float = all(scheme.kind == "fp32" for scheme in schemes.values())
        save_model(replace(trained, path=path, quantized=None if is_float else quantized))
        self.bytes, self.trained = path.stat().st_size, load_model(path)
        self.model = language_model(self.trained)

    def loss(self, ids: np.ndarray) -> float:
        """Mean loss in nats per token."""
        return self.model.evaluate(ids, COLUMNS)

    def write(self, words: int, seed: int) -> None:
        """Write so many words one at a time."""
        for _ in stream(self.model, self.model.dictionary, length=words, seed=seed):
            pass


def compare(
    trained: Trained, statistics: Statistics, command: list[str], out: Path, tokens: int | None
) -> list[Row]:
    """Measure all variants of a model, print the table and write it.

    :param command: that was typed. :param tokens: to evaluate of the validation and test text; None for all.
    """
    valid, test = (
        read_split(trained.config.data, split, trained.dictionary, trained.level)[:tokens]
        for split in ("valid", "test")
    )
    chosen = {
        name: dict.fromkeys(parts_of(trained.model), scheme) for name, scheme in VARIANTS.items()
    }
    part, mixed = mixed_schemes(trained, statistics, valid[:SENSITIVITY_TOKENS])
    chosen[f"mixed: INT8 averaged, {part} float16"] = mixed
    with tempfile.TemporaryDirectory() as folder:
        variants = {
            name: Variant(trained, schemes, statistics, Path(folder))
            for name, schemes in chosen.items()
        }
        losses = {
            name: [variant.loss(ids) for ids in (valid, test)] for name, variant in variants.items()
        }
        speeds = words_per_second(variants, valid[:SPEED_TOKENS])
    rows = [
        Row(
            name,
            {part: str(scheme) for part, scheme in chosen[name].items()},
            variant.bytes,
            *map(math.exp, losses[name]),
            *speeds[name],
        )
        for name, variant in variants.items()
    ]
    print(markdown(rows, trained.level))
    model = {
        "data": trained.config.data,
        "model": trained.config.model,
        "nhid": trained.config.nhid,
    }
    record(
        out, command, **model, tokens=[len(valid), len(test)], rows=[asdict(row) for row in rows]
    )
    return rows


def sensitivity(
    trained: Trained, scheme: Scheme, statistics: Statistics, ids: np.ndarray
) -> dict[str, tuple[float, float]]:
    """What each part costs: part -> mean loss in nats with that part alone quantized, and with all others.

    :param ids: text to evaluate, (tokens,).
    """
    parts, losses = parts_of(trained.model), {}
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            alone, others = {part: scheme}, {other: scheme for other in parts if other != part}
            losses[part] = tuple(
                Variant(trained, schemes, statistics, Path(folder)).loss(ids)
                for schemes in (alone, others)
            )
    return losses


def mixed_schemes(trained: Trained, statistics: Statistics, ids: np.ndarray) -> tuple[str, Schemes]:
    """INT8 with averaged ranges everywhere but in the part that costs most: which one, and the schemes."""
    scheme = Scheme(mode="asymmetric", activations="averaged")
    alone = {
        part: losses[0] for part, losses in sensitivity(trained, scheme, statistics, ids).items()
    }
    worst = max(alone, key=alone.get)
    return worst, {part: Scheme("fp16") if part == worst else scheme for part in alone}


def words_per_second(
    variants: dict[str, Variant], ids: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Of each variant, evaluating ``ids`` and writing word by word: medians over rounds in which all take turns."""
    seconds: dict[str, list] = {name: [] for name in variants}
    for seed in range(ROUNDS + 1):
        for name, variant in variants.items():
            evaluated = clock(lambda variant=variant: variant.loss(ids))
            seconds[name].append(
                (evaluated, clock(lambda variant=variant, seed=seed: variant.write(WORDS, seed)))
            )
    medians = {
        name: np.median(rounds[1:], axis=0) for name, rounds in seconds.items()
    }  # the first has warmed up
    return {
        name: (len(ids) / float(times[0]), WORDS / float(times[1]))
        for name, times in medians.items()
    }


def clock(work: Callable[[], object]) -> float:
    """Seconds by the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def markdown(rows: list[Row], level: str) -> str:
    """The table; sizes and speeds also relative to the first row. Of a character model in bits, not perplexities."""
    first, tokens, unit = rows[0], "characters" if level == "char" else "words", unit_of(level)
    lines = [
        f"| variant | MB | of float32 | validation {unit} | test | {tokens}/s evaluating | {tokens}/s writing |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        valid, test = (
            displayed(math.log(perplexity), level) for perplexity in (row.valid, row.test)
        )
        lines.append(
            f"| {row.name} | {row.bytes / 1e6:.2f} | {row.bytes / first.bytes:.1%} | {valid} | {test} "
            f"| {row.evaluated:.0f} ({row.evaluated / first.evaluated:.2f} x) "
            f"| {row.generated:.0f} ({row.generated / first.generated:.2f} x) |"
        )
    return "\n".join(lines)
