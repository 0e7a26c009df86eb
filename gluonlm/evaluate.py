"""Score text with a trained model.

    python -m gluonlm.evaluate runs/ptb                     # the test split of the data set it was trained on
    python -m gluonlm.evaluate model.pt --data wikitext-2 --split valid
    python -m gluonlm.evaluate runs/ptb --data my_text.txt  # any text file, whole

Words that the model does not know count as ``<unk>``; their share is printed.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from gluonlm.checkpoint import Trained, load_model
from gluonlm.cli import contexts, dashes, run
from gluonlm.corpus import encode_file, load_corpus
from gluonlm.errors import UserError
from gluonlm.training import evaluate


@dataclass(frozen=True)
class Score:
    """The result of an evaluation."""

    tokens: int
    unknown: int
    loss: float  # nats per token

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(self.loss)

    @property
    def bits(self) -> float:
        """Mean loss in bits per token."""
        return self.loss / math.log(2)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(
        prog="python -m gluonlm.evaluate",
        description="Perplexity of a trained model on a text.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", help="folder of a run, or model file")
    parser.add_argument("--data", help="data set, folder or text file (default: what the model was trained on)")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test")
    parser.add_argument("--batch-size", type=int, default=10, help="text columns side by side (default: 10)")
    parser.add_argument("--gpu", help="number of the GPU to use")
    parser.add_argument("--cuda", action="store_true", help="the same as --gpu 0")
    return parser.parse_args(dashes(argv))


def read_ids(trained: Trained, data: str | None, split: str):
    """The ids of a whole text file that was named, or of a data set's split."""
    if data and Path(data).is_file():
        return encode_file(Path(data), trained.dictionary, trained.level)
    corpus = load_corpus(data or trained.config.data, trained.level, trained.dictionary)
    return getattr(corpus, split)


def main(argv: list[str]) -> Score:
    """Evaluate as the command line says and print the score."""
    options = parse(argv)
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: must be at least 1")
    ctx = contexts(options.gpu or ("0" if options.cuda else None))[:1]
    trained = load_model(options.checkpoint, ctx)
    ids = read_ids(trained, options.data, options.split)
    loss = evaluate(trained.model, ids, trained.dictionary, options.batch_size, ctx[0])
    unknown = int((ids == trained.dictionary.unk_id).sum()) if trained.dictionary.unk_id is not None else 0
    score = Score(len(ids), unknown, loss)
    per_token = (
        f"bits per character {score.bits:.4f}" if trained.level == "char" else f"perplexity {score.perplexity:.2f}"
    )
    print(f"{score.tokens} tokens, {score.unknown / score.tokens:.2%} unknown | loss {score.loss:.4f} | {per_token}")
    return score


if __name__ == "__main__":
    run(main)
