"""Score text with a trained model.

    python -m gluonlm.evaluate runs/ptb                     # the test split of the data set it was trained on
    python -m gluonlm.evaluate model.pt --data wikitext-2 --split valid
    python -m gluonlm.evaluate runs/ptb --data my_text.txt  # any text file, whole
    python -m gluonlm.evaluate runs/ptb --cache             # with a continuous cache (gluonlm.inference.neural_cache)
    python -m gluonlm.evaluate runs/ptb --tune-cache        # the same, its parameters searched on the validation text
    python -m gluonlm.evaluate --onnx model.onnx            # an exported model; MXNet need not be installed
    python -m gluonlm.evaluate runs/ptb --record score.json # the figures with the command and the machine, too

Words that the model does not know count as ``<unk>``; their share is printed, with a caution when it is large.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gluonlm.cli import contexts, dashes, run
from gluonlm.onnx.session import OnnxModel
from gluonlm.system.errors import UserError
from gluonlm.system.files import expanded
from gluonlm.system.machine import record
from gluonlm.text.corpus import (
    MUCH_UNKNOWN,
    encode_file,
    evaluation_batches,
    evaluation_columns,
    load_corpus,
)
from gluonlm.text.sources import known_name
from gluonlm.training.progress import bits, named

if TYPE_CHECKING:
    from gluonlm.model.checkpoint import Trained

ONNX_STEPS = 16  # ONNX Runtime holds the (T, N, V) logits of a segment: short ones save memory and cost nothing
Evaluate = Callable[
    [np.ndarray, int], float
]  # ids (tokens,), batch size -> mean loss in nats per token


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
        return bits(self.loss)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(
        prog="python -m gluonlm.evaluate",
        description="Perplexity of a trained model on a text.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", nargs="?", help="folder of a run, or model file")
    parser.add_argument("--onnx", metavar="FILE", help="an exported model instead, on the CPU")
    parser.add_argument(
        "--data", help="data set, folder or text file (default: what the model was trained on)"
    )
    splits = ("train", "valid", "test")
    parser.add_argument("--split", choices=splits, help="of a data set (default: test)")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="text columns side by side (default: the run's; with a cache 1)",
    )
    parser.add_argument(
        "--cache", action="store_true", help="look up what followed similar states before"
    )
    parser.add_argument(
        "--tune-cache", action="store_true", help="search the cache's parameters on the valid split"
    )
    parser.add_argument(
        "--theta", type=float, help="how sharply the cache looks (default: what suits the data set)"
    )
    parser.add_argument("--lambdasm", type=float, help="share of the cache in the mixture")
    parser.add_argument("--window", type=int, help="tokens that the cache reaches back")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write the figures as JSON, too"
    )
    parser.add_argument("--gpu", help="number of the GPU to use")
    parser.add_argument("--cuda", action="store_true", help="the same as --gpu 0")
    return parser.parse_args(dashes(argv))


def read_ids(model: "Trained | OnnxModel", data: str | None, split: str | None) -> np.ndarray:
    """The ids of a whole text file that was named, or of a data set's split."""
    if is_file(data):
        return encode_file(expanded(data), model.dictionary, model.level)
    corpus = load_corpus(data or model.config.data, model.level, model.dictionary)
    return getattr(corpus, split)


def is_file(data: str | None) -> bool:
    """Whether ``--data`` names a single text file, which is read whole."""
    return data is not None and expanded(data).is_file()


def open_checkpoint(options: argparse.Namespace) -> tuple["Trained", Evaluate, dict[str, float]]:
    """A trained model, what computes its loss, and with a cache its parameters and what they reached in a search."""
    from gluonlm.model.checkpoint import (
        load_model,  # here, because a model in ONNX is evaluated without MXNet
    )
    from gluonlm.onnx.integer_model import has_integers, integer_model, simulated
    from gluonlm.training.loop import evaluate

    ctx = contexts("0" if options.gpu is None and options.cuda else options.gpu)[:1]
    trained = load_model(options.checkpoint, ctx)
    if options.cache:
        if has_integers(trained):
            simulated("with a cache")
        return trained, *with_cache(options, trained, ctx[0])
    if integers := integer_model(trained, ctx[0], losses=True):
        return trained, lambda ids, batch_size: evaluate_onnx(integers, ids, batch_size), {}
    return (
        trained,
        lambda ids, batch_size: evaluate(
            trained.model, ids, trained.dictionary, batch_size, ctx[0]
        ),
        {},
    )


def with_cache(
    options: argparse.Namespace, trained: "Trained", ctx
) -> tuple[Evaluate, dict[str, float]]:
    """What computes the loss with a cache, and its parameters: given, searched, or known for the data set."""
    from gluonlm.inference.neural_cache import TUNED, CacheSettings, evaluate_with_cache, tune

    data, given = options.data or trained.config.data, cache_options(options)
    known = None if is_file(data) else TUNED.get(known_name(Path(data)))
    settings, found = dataclasses.replace(known or CacheSettings(), **given), {}
    if options.tune_cache:
        if is_file(options.data):
            raise UserError(
                "--tune-cache needs a data set with a validation text, and --data names a single file"
            )
        ids = read_ids(trained, options.data, "valid")
        settings, loss = tune(
            trained.model, ids, trained.dictionary, given, options.batch_size or 1, ctx
        )
        print(f"on the validation text: loss {loss:.4f} | {named(loss, trained.level)}")
        found = {"valid_loss": loss, "valid_perplexity": math.exp(loss)}
    print(
        f"cache: --theta {settings.theta:g} --lambdasm {settings.lambdasm:g} --window {settings.window}",
        flush=True,
    )
    if not (known or options.tune_cache or len(given) == len(dataclasses.fields(CacheSettings))):
        print(
            "no settings are known for this text, these suit Penn Treebank: --tune-cache searches better ones"
        )

    def loss_of(ids: np.ndarray, columns: int) -> float:
        return evaluate_with_cache(trained.model, ids, trained.dictionary, settings, columns, ctx)

    return loss_of, found | dataclasses.asdict(settings)


def cache_options(options: argparse.Namespace) -> dict[str, float]:
    """Those parameters of the cache that were given."""
    given = {name: getattr(options, name) for name in ("theta", "lambdasm", "window")}
    return {name: value for name, value in given.items() if value is not None}


def open_onnx(options: argparse.Namespace) -> tuple[OnnxModel, Evaluate, dict[str, float]]:
    """An exported model, what computes its loss, and no parameters of a cache."""
    if options.gpu or options.cuda:
        raise UserError("--onnx computes on the CPU: leave out --gpu and --cuda")
    model = OnnxModel(options.onnx)
    return model, lambda ids, batch_size: evaluate_onnx(model, ids, batch_size), {}


def evaluate_onnx(model: OnnxModel, ids: np.ndarray, batch_size: int) -> float:
    """Mean loss in nats per token, as :func:`gluonlm.training.loop.evaluate` defines it."""
    batch_size = evaluation_columns(ids, batch_size)
    state, total = model.begin_state(batch_size), 0.0
    for inputs, targets, mask in evaluation_batches(
        ids, model.dictionary.start_id, batch_size, ONNX_STEPS
    ):
        losses, state = model.losses(inputs, targets, state)
        total += float((losses * mask).sum())
    return total / len(ids)


def usual_columns(model: "Trained | OnnxModel", split: str | None) -> int:
    """As many text columns as training evaluated the split in, so that both come to the same; 10 in an ONNX file."""
    if isinstance(model, OnnxModel):
        return 10
    config = model.config
    return (config.test_batch_size if split == "test" else 0) or config.eval_batch_size


def main(argv: list[str]) -> Score:
    """Evaluate as the command line says and print the score."""
    options = parse(argv)
    options.cache |= options.tune_cache
    if is_file(options.data) and options.split:
        raise UserError(
            f"--data {options.data} is a single file, which is read whole: leave out --split"
        )
    split = None if is_file(options.data) else options.split or "test"
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: must be at least 1")
    if (options.checkpoint is None) == (options.onnx is None):
        raise UserError("say what to evaluate: a run's folder, a model file, or --onnx FILE")
    if cache_options(options) and not options.cache:
        raise UserError(f"--{min(cache_options(options))} is a parameter of the cache: add --cache")
    if options.cache and options.onnx:
        raise UserError(
            "--cache needs the model's hidden states, which an exported model does not give: name its run"
        )
    model, evaluate, cache = open_onnx(options) if options.onnx else open_checkpoint(options)
    columns = options.batch_size or (1 if options.cache else usual_columns(model, split))
    ids = read_ids(model, options.data, split)
    unknown = (
        int((ids == model.dictionary.unk_id).sum()) if model.dictionary.unk_id is not None else 0
    )
    score = Score(len(ids), unknown, evaluate(ids, columns))
    share = score.unknown / score.tokens
    print(
        f"{score.tokens} tokens, {share:.2%} unknown | loss {score.loss:.4f} | {named(score.loss, model.level)}"
    )
    if share > MUCH_UNKNOWN:
        print(
            "caution: all unknown words count as one that is easy to guess, which makes the perplexity look too good"
        )
    if options.record:
        data = options.data or model.config.data
        figures = dataclasses.asdict(score) | {"perplexity": score.perplexity}
        if model.level == "char":
            figures["bits_per_character"] = score.bits
        command = ["python", "-m", "gluonlm.evaluate", *argv]
        record(options.record, command, data=data, split=split, **figures, cache=cache)
    return score


if __name__ == "__main__":
    run(main)
