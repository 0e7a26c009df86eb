"""What a run ended with, and what result.json tells of it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gluonlm.inference.scoring import bits, per_unit, perplexity, storable
from gluonlm.system.machine import machine_record
from gluonlm.text.corpus import Corpus
from gluonlm.text.ngrams import baselines
from gluonlm.training.loop import Training

# training tokens that the baselines read: 650 MB of counts, some ten seconds
COUNTED = 10_000_000


@dataclass(frozen=True)
class Result:
    """What a run ended with."""

    finished: bool  # False when it was stopped before its last epoch
    best_epoch: int  # from 1; 0 when none was finished, or better than what was finetuned
    valid_loss: float | None  # nats per token, None when there is no best model
    test_loss: float
    folder: Path

    @property
    def test_perplexity(self) -> float:
        return perplexity(self.test_loss)


def baselines_of(corpus: Corpus) -> dict[str, float]:
    """The test perplexity of uniform, unigram and Kneser-Ney trigram models, which count only a
    part of a very long training text: all of enwik8 would take them gigabytes."""
    return baselines(corpus.train[:COUNTED], corpus.test, len(corpus.dictionary))


def compared(corpus: Corpus, trivial: dict[str, float]) -> str:
    """What the baselines reach on the test text, as a line."""
    others = (
        f"{name} {math.log2(value):.4f}" if corpus.level == "char" else f"{name} {value:.1f}"
        for name, value in trivial.items()
    )
    part = f" (of the first {COUNTED:,} tokens)" if len(corpus.train) > COUNTED else ""
    return f"for comparison{part}: {', '.join(others)}"


def record(training: Training, result: Result, trivial: dict[str, float]) -> dict[str, Any]:
    """What result.json tells of a finished run, with what the baselines reach."""
    progress, corpus = training.progress, training.corpus
    units = per_unit(corpus.dictionary, "test", result.test_loss * len(corpus.test))
    figures: dict[str, Any] = {f"test_{name}": value for name, value in units.items()}
    if corpus.level == "char":
        figures["test_bits_per_character"] = bits(result.test_loss)
        figures["valid_bits_per_character"] = bits(progress.best_loss)
    if training.pruner.kept:
        figures["sparsity"] = training.pruner.sparsity
    return {
        **figures,
        "test_perplexity": storable(result.test_perplexity),
        "test_loss": result.test_loss,
        "valid_perplexity": storable(perplexity(progress.best_loss)),
        "best_epoch": result.best_epoch,
        "parameters": training.parameter_count,
        "epochs": progress.epoch,
        "seconds": progress.seconds,
        "baselines": trivial,
        "baselines_of_tokens": min(len(corpus.train), COUNTED),
        "machine": machine_record(),
    }
