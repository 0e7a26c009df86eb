"""Look at how sparse a trained model is, prune it at once, or find out which of its matrices bear it.

    python -m gluonlm.prune runs/NAME                                          # how sparse is it?
    python -m gluonlm.prune runs/NAME --sparsity 0.8 --save small.safetensors  # without the smallest 80 %
    python -m gluonlm.prune runs/NAME --sparsity 0.8 --tensors 'layers.*' --save small.safetensors
    python -m gluonlm.prune runs/NAME --compress schedule.yaml --save small.safetensors  # where its rules end
    python -m gluonlm.prune runs/NAME --sensitivity                            # each matrix alone, at several levels

What is saved is a model file like any other, smaller by what is missing: evaluate, generate and export take it. Pruning
at once costs quality that training gets back: ``python -m gluonlm.train --finetune small.safetensors``.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gluonlm.cli import Parser, run
from gluonlm.compress.pruning import Pruner, Rule, match, prunable, values
from gluonlm.compress.schedule import parse_schedule, read_schedule
from gluonlm.model.checkpoint import Trained, load_model, save_model
from gluonlm.model.rnn import RNNModel
from gluonlm.system.errors import UserError
from gluonlm.text.corpus import read_split
from gluonlm.training.loop import evaluate
from gluonlm.training.optim import Updater
from gluonlm.training.progress import displayed, named

LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
TOKENS = 20_000  # of the validation text that the scan reads
HEADER = (
    "tensor",
    "shape",
    "weights",
    "not 0",
    "pruned %",
    "rows %",
    "columns %",
    "std",
    "mean",
    "mean |w|",
)


def report(model: RNNModel) -> str:
    """The model's weight matrices as a table: size, how many weights are not zero, and statistics of all of them.

    "rows" and "columns" are the shares of those that are wholly zero, such as the row of a word in the embedding.
    """
    rows, weights, kept = [HEADER], 0, 0
    for name, tensor in prunable(model).items():
        matrix = values(model, tensor)
        present = matrix != 0
        weights, kept = weights + matrix.size, kept + np.count_nonzero(present)
        shares = (
            1 - present.mean(),
            1 - present.any(axis=1).mean(),
            1 - present.any(axis=0).mean(),
        )
        statistics = (matrix.std(), matrix.mean(), np.abs(matrix).mean())
        numbers = [f"{100 * share:.1f}" for share in shares] + [
            f"{value:.5f}" for value in statistics
        ]
        shape = "x".join(map(str, matrix.shape))
        rows.append((name, shape, f"{matrix.size}", f"{np.count_nonzero(present)}", *numbers))
    rows.append(
        ("total", "", f"{weights}", f"{kept}", f"{100 * (1 - kept / weights):.1f}", *[""] * 5)
    )
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as lines with columns, the first one flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(w.rjust(n) if i else w.ljust(n) for i, (w, n) in enumerate(zip(row, widths)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def prune_at_once(trained: Trained, rules: tuple[Rule, ...]) -> tuple[str, ...]:
    """Prune a model to where rules end; returns the names of all tensors that are pruned now."""
    pruner = Pruner(trained.model, Updater(trained.model.trainables(), "sgd", 0.0))
    pruner.keep_zeros(trained.pruned)
    pruner.prune({name: rule.final for name, rule in match(rules, pruner.tensors).items()})
    return tuple(pruner.kept)


def sensitivity(
    trained: Trained, ids: np.ndarray, levels: Sequence[float]
) -> dict[str, list[float]]:
    """The loss in nats per token with one matrix pruned at a time: tensor -> one loss for each level.

    :param ids: the text, encoded; :param levels: shares of the matrix's weights that are taken away.
    """
    model, losses = trained.model, {}
    for name, tensor in prunable(model).items():
        parameter = model.trainables()[tensor.parameter]
        before, losses[name] = parameter.data().copy(), []
        for level in levels:
            Pruner(model, Updater(model.trainables(), "sgd", 0.0)).prune({name: level})
            losses[name].append(
                evaluate(model, ids, trained.dictionary, trained.config.eval_batch_size)
            )
            parameter.set_data(before)
    return losses


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line's settings."""
    parser = Parser(
        prog="python -m gluonlm.prune",
        description="Report the sparsity of a trained model, prune it at once, or scan its sensitivity.",
    )
    parser.add_argument("checkpoint", help="folder of a run, or model file")
    parser.add_argument(
        "--sparsity", type=float, help="share of the weights to prune, of each matrix"
    )
    parser.add_argument("--tensors", nargs="+", help="only these matrices (names or patterns)")
    parser.add_argument("--compress", metavar="FILE", help="prune to where this schedule ends")
    parser.add_argument("--save", type=Path, help="file for the pruned model")
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="validation perplexity with each matrix pruned alone",
    )
    parser.add_argument("--levels", type=float, nargs="+", help="shares that the scan tries")
    parser.add_argument(
        "--tokens", type=int, help=f"validation tokens that the scan reads ({TOKENS})"
    )
    return parser.parse_args(argv)


def check(options: argparse.Namespace) -> None:
    """Raise a UserError for options that do not make sense."""
    if options.sparsity is not None and options.compress:
        raise UserError("--sparsity and --compress both say how far to prune: leave one out")
    if options.save and options.sparsity is None and not options.compress:
        raise UserError("--save needs a pruned model: add --sparsity or --compress")
    if options.save and (options.save.exists() or not options.save.suffix):
        raise UserError(f"--save {options.save}: give a new file such as small.safetensors")
    if options.tensors and options.sparsity is None:
        raise UserError(
            "--tensors says what --sparsity is for: add that (a schedule names its tensors itself)"
        )
    if (options.levels or options.tokens is not None) and not options.sensitivity:
        raise UserError("--levels and --tokens are for the scan: add --sensitivity")
    if options.tokens is not None and options.tokens < 1:
        raise UserError(f"--tokens {options.tokens}: must be at least 1")
    for level in [
        *(options.levels or ()),
        *([] if options.sparsity is None else [options.sparsity]),
    ]:
        if not 0 < level < 1:
            raise UserError(f"{level:g} is no share of weights to prune: give one between 0 and 1")


def main(argv: list[str]) -> Trained:
    """Do what the command line says; returns the model, pruned if that was asked for."""
    options = parse(argv)
    check(options)
    trained = load_model(options.checkpoint)
    if trained.quantized and (
        options.sensitivity or options.sparsity is not None or options.compress
    ):
        raise UserError(
            f"{trained.path} is quantized: prune the model that training wrote, then quantize"
        )
    valid = None
    if options.sensitivity or options.sparsity is not None or options.compress:
        valid = read_split(trained.config.data, "valid", trained.dictionary, trained.level)
    if options.sensitivity:
        print_sensitivity(trained, valid[: options.tokens or TOKENS], options.levels or LEVELS)
    if options.sparsity is not None or options.compress:
        rules = (Rule(tuple(options.tensors or ["*"]), options.sparsity),)
        if options.compress:
            rules = parse_schedule(read_schedule(options.compress))
        before = evaluate(trained.model, valid, trained.dictionary, trained.config.eval_batch_size)
        pruned = prune_at_once(trained, rules)
        after = evaluate(trained.model, valid, trained.dictionary, trained.config.eval_batch_size)
        print(
            f"validation {named(before, trained.level)} before, {displayed(after, trained.level)} after pruning"
        )
        if options.save:
            save_model(replace(trained, path=options.save, pruned=pruned))
            size, dense = options.save.stat().st_size, trained.path.stat().st_size
            print(f"{options.save}: {size / 1e6:.2f} MB, {size / dense:.1%} of {trained.path.name}")
    print(report(trained.model))
    return trained


def print_sensitivity(trained: Trained, ids: np.ndarray, levels: Sequence[float]) -> None:
    """The scan as a table of perplexities, or bits per character."""
    dense = evaluate(trained.model, ids, trained.dictionary, trained.config.eval_batch_size)
    print(
        f"{len(ids)} validation tokens: {named(dense, trained.level)}; with one matrix pruned alone:"
    )
    rows = [("tensor", *(f"{100 * level:g} %" for level in levels))]
    for name, losses in sensitivity(trained, ids, levels).items():
        rows.append((name, *(displayed(loss, trained.level) for loss in losses)))
    print(align(rows), end="\n\n")


if __name__ == "__main__":
    run(main)
