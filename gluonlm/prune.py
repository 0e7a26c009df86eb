"""Look at how sparse a trained model is, prune it at once, or find out which matrices bear it.

python -m gluonlm.prune runs/NAME                                # how sparse is it?
python -m gluonlm.prune runs/NAME --sparsity 0.8 --save small.safetensors
python -m gluonlm.prune runs/NAME --sparsity 0.8 --tensors 'layers.*' --save small.safetensors
python -m gluonlm.prune runs/NAME --compress schedule.yaml --save small.safetensors  # to its end
python -m gluonlm.prune runs/NAME --sensitivity                  # each matrix alone

What is saved is a model file like any other, smaller by what is missing: evaluate, generate and
export take it. Pruning at once costs quality that training gets back: ``python -m gluonlm.train
--finetune small.safetensors``.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gluonlm.cli import Parser, at_least, run
from gluonlm.compress.pruning import Pruner, Rule, match, prunable, values
from gluonlm.compress.schedule_file import parse_schedule, read_schedule
from gluonlm.inference.scoring import displayed, named
from gluonlm.model.checkpoint import Trained, load_model, save_output
from gluonlm.model.rnn import RNNModel
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output
from gluonlm.text.corpus import read_split
from gluonlm.training.loop import evaluate
from gluonlm.training.optim import Updater

LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
TOKENS = 20_000  # of the validation text that the scan reads
HEADER = (
    *("tensor", "shape", "weights", "not 0", "pruned %"),
    *("rows %", "columns %", "std", "mean", "mean |w|"),
)


def report(model: RNNModel) -> str:
    """The model's weight matrices as a table: size, how many weights are not zero, which shares of
    rows (a word's, in the embedding) and columns are wholly zero, statistics."""
    rows, weights, kept = [HEADER], 0, 0
    for name, tensor in prunable(model).items():
        matrix = values(model, tensor)
        present, size = matrix != 0, "x".join(map(str, matrix.shape))
        weights, kept = weights + matrix.size, kept + present.sum()
        shares = present.mean(), present.any(axis=1).mean(), present.any(axis=0).mean()
        statistics = matrix.std(), matrix.mean(), np.abs(matrix).mean()
        row = [name, size, f"{matrix.size}", f"{present.sum()}"]
        row += [f"{100 * (1 - share):.1f}" for share in shares]
        rows.append(row + [f"{value:.5f}" for value in statistics])
    pruned = f"{100 * (1 - kept / weights):.1f}"
    rows.append(["total", "", str(weights), str(kept), pruned, *[""] * 5])
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as lines with columns, the first one flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(w.rjust(n) if i else w.ljust(n) for i, (w, n) in enumerate(zip(row, widths)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def sensitivity(
    trained: Trained, ids: np.ndarray, levels: Sequence[float]
) -> dict[str, list[float]]:
    """The loss in nats per token of a text (tokens,) with one matrix pruned at a time: tensor -> a
    loss for each level, the share of the weights that is taken away."""
    model, losses = trained.model, {}
    for name, tensor in prunable(model).items():
        parameter = model.trainables()[tensor.parameter]
        before, losses[name] = parameter.data().copy(), []
        for level in levels:
            Pruner(model, Updater(model.trainables(), "sgd", 0.0)).prune({name: level})
            losses[name].append(loss(trained, ids))
            parameter.set_data(before)
    return losses


def share(text: str) -> float:
    """The ``type`` of an option that takes shares of weights."""
    if not 0 < float(text) < 1:
        words = f"{text} is no share of weights to prune: give one between 0 and 1"
        raise argparse.ArgumentTypeError(words)
    return float(text)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("prune", __doc__)
    add = parser.add_argument
    add("checkpoint", help="folder of a run, or model file")
    how_far = parser.add_mutually_exclusive_group().add_argument
    how_far("--sparsity", type=share, help="share of the weights to prune, of each matrix")
    how_far("--compress", metavar="FILE", help="prune to where this schedule ends")
    add("--tensors", nargs="+", help="only these matrices (names or patterns)")
    add("--save", type=Path, help="file for the pruned model")
    words = "validation perplexity with each matrix pruned alone"
    add("--sensitivity", action="store_true", help=words)
    add("--levels", type=share, nargs="+", help="shares that the scan tries")
    add("--tokens", type=at_least(1), help=f"validation tokens that the scan reads ({TOKENS})")
    return parser.parse_args(argv)


def check(options: argparse.Namespace) -> None:
    """Raise a UserError for options that do not fit each other."""
    if options.tensors and not options.sparsity:
        needs = "--tensors says what --sparsity is for: add that"
        raise UserError(f"{needs} (a schedule names its tensors itself)")
    if (options.levels or options.tokens) and not options.sensitivity:
        raise UserError("--levels and --tokens are for the scan: add --sensitivity")
    if save := options.save:
        if not (options.sparsity or options.compress):
            raise UserError("--save needs a pruned model: add --sparsity or --compress")
        if not save.suffix:
            raise UserError(f"--save {save}: give a file such as small.safetensors")
        check_output(save)


def main(argv: list[str]) -> Trained:
    """Do what the command line says; returns the model, pruned if that was asked for."""
    options = parse(argv)
    check(options)
    trained = load_model(options.checkpoint)
    rules = ()
    if options.compress:
        rules = parse_schedule(read_schedule(options.compress))
    elif options.sparsity:
        rules = (Rule(tuple(options.tensors or ["*"]), options.sparsity),)
    if options.sensitivity or rules:
        if trained.quantized:
            advice = "prune what training wrote, then quantize"
            raise UserError(f"{trained.path} is quantized: {advice}")
        valid = read_split(trained.config.data, "valid", trained.dictionary, trained.level)
    if options.sensitivity:
        print_sensitivity(trained, valid[: options.tokens or TOKENS], options.levels or LEVELS)
    if rules:
        trained = pruned(trained, rules, valid)
    if options.save:
        save_output(trained, options.save)
        size, dense = options.save.stat().st_size, trained.path.stat().st_size
        print(f"{options.save}: {size / 1e6:.2f} MB, {size / dense:.1%} of {trained.path.name}")
    print(report(trained.model))
    return trained


def pruned(trained: Trained, rules: tuple[Rule, ...], ids: np.ndarray) -> Trained:
    """The model pruned to where the rules end; prints its loss on a text before and after."""
    before = loss(trained, ids)
    pruner = Pruner(trained.model, Updater(trained.model.trainables(), "sgd", 0.0))
    pruner.keep_zeros(trained.pruned)
    pruner.prune({name: rule.final for name, rule in match(rules, pruner.tensors).items()})
    after = displayed(loss(trained, ids), trained.level)
    print(f"validation {named(before, trained.level)} before, {after} after pruning")
    return replace(trained, pruned=tuple(pruner.kept))


def loss(trained: Trained, ids: np.ndarray) -> float:
    """Mean loss in nats per token of a text (tokens,)."""
    return evaluate(trained.model, ids, trained.dictionary, trained.config.eval_batch_size)


def print_sensitivity(trained: Trained, ids: np.ndarray, levels: Sequence[float]) -> None:
    """The scan as a table of perplexities, or bits per character."""
    dense = named(loss(trained, ids), trained.level)
    print(f"{len(ids)} validation tokens: {dense}; with one matrix pruned alone:")
    rows = [("tensor", *(f"{100 * level:g} %" for level in levels))]
    for name, losses in sensitivity(trained, ids, levels).items():
        rows.append((name, *(displayed(loss, trained.level) for loss in losses)))
    print(align(rows), end="\n\n")


if __name__ == "__main__":
    run(main)
