"""Score text with a trained model.

python -m gluonlm.evaluate runs/ptb                     # the test split of its data set
python -m gluonlm.evaluate model.pt --data wikitext-2 --split valid
python -m gluonlm.evaluate runs/ptb --data my_text.txt  # any text file, whole
python -m gluonlm.evaluate runs/ptb --cache             # gluonlm.inference.neural_cache
python -m gluonlm.evaluate runs/ptb --tune-cache        # its parameters searched on the valid text
python -m gluonlm.evaluate --onnx model.onnx            # exported; MXNet need not be installed
python -m gluonlm.evaluate runs/ptb --record score.json # with the command and the machine

A data set is read as it stands. A single file is read by the rules of the model's data set, as
``score --carry`` does, a line a sentence. Words that the model does not know count as ``<unk>``;
their share is printed, with a caution when it is large.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from gluonlm.cli import Parser, add_gpu, add_precision, at_least, open_model, run
from gluonlm.config import MODELS
from gluonlm.inference.language_model import LanguageModel
from gluonlm.inference.scoring import Score, named, per_unit, perplexity, storable, units_shown
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output, expanded
from gluonlm.system.machine import record
from gluonlm.system.streams import counted
from gluonlm.text.corpus import MUCH_UNKNOWN, digest, encode_file, read_split
from gluonlm.text.locate import known_name

CACHE = ("theta", "lambdasm", "window")
# tokens of a file in each text column, at least: a sentence or two
COLUMN = {"word": 40, "subword": 40, "char": 200}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("evaluate", __doc__)
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True).add_argument
    model("checkpoint", nargs="?", help="folder of a run, model file, or exported .onnx file")
    model("--onnx", metavar="FILE", help="an exported model, whatever its name, on the CPU")
    model("--save", metavar="FILE", help="pointer.py's: the same as FILE --cache")
    add("--data", help="data set, folder or text file (default: what the model was trained on)")
    add("--split", choices=("train", "valid", "test"), help="of a data set (default: test)")
    columns = "text columns (default: the run's, fewer of a short file; with a cache 1)"
    add("--batch-size", type=at_least(1), help=columns)
    add("--cache", action="store_true", help="look up what followed similar states before")
    add("--tune-cache", action="store_true", help="search its parameters on the valid split")
    add("--theta", type=float, help="how sharply the cache looks (default: what suits the data)")
    add("--lambdasm", type=float, help="share of the cache in the mixture")
    add("--window", type=int, help="tokens that the cache reaches back")
    add("--model", choices=MODELS, help="pointer.py's: the file knows it")
    add("--bptt", type=int, help="pointer.py's: the result does not depend on it")
    add("--record", type=Path, metavar="FILE", help="write the figures as JSON, too")
    add_precision(parser)
    add_gpu(parser)
    options = parser.parse_args(argv)
    if options.save:
        options.checkpoint, options.cache = options.save, True
    options.cache |= options.tune_cache
    options.file = options.data and expanded(options.data)
    if not (options.file and options.file.is_file()):  # a data set or a folder
        options.file, options.split = None, options.split or "test"
    return options


def check(options: argparse.Namespace) -> None:
    """Raise a UserError for options that do not fit each other."""
    if options.file and options.split:
        raise UserError("--data is a single file, which is read whole: leave out --split")
    if (given := cache_options(options)) and not options.cache:
        raise UserError(f"--{min(given)} is a parameter of the cache: add --cache")
    if options.file and options.tune_cache:
        raise UserError("--tune-cache needs a validation text, and --data names a single file")
    if options.record:
        check_output(options.record)


def cache_options(options: argparse.Namespace) -> dict[str, float]:
    """Those parameters of the cache that were given."""
    return {name: getattr(options, name) for name in CACHE if getattr(options, name) is not None}


def loss_with_cache(
    options: argparse.Namespace, model: LanguageModel, ids: np.ndarray
) -> tuple[float, dict[str, float]]:
    """The loss with a cache, and its parameters: given, searched, or known."""
    from gluonlm.inference.neural_cache import TUNED, CacheSettings, evaluate_with_cache, tune

    data, given = options.data or model.config.data, cache_options(options)
    network, dictionary, found = model.arithmetic.model, model.dictionary, {}
    where = {"batch_size": options.batch_size or 1, "ctx": model.arithmetic.ctx}
    known = None if options.file else TUNED.get(known_name(Path(data)))
    settings = dataclasses.replace(known or CacheSettings(), **given)
    if options.tune_cache:
        valid = read_split(data, "valid", dictionary, model.level)
        settings, loss = tune(network, valid, dictionary, given, **where)
        print(f"on the validation text: loss {loss:.4f} | {named(loss, model.level)}")
        found = {"valid_loss": loss, "valid_perplexity": storable(perplexity(loss))}
    shown = " ".join(f"--{name} {value:.10g}" for name, value in vars(settings).items())
    print(f"cache: {shown}", flush=True)
    if not (known or options.tune_cache or len(given) == len(CACHE)):
        print("no settings are known for this text, these suit Penn Treebank: try --tune-cache")
    loss = evaluate_with_cache(network, ids, dictionary, settings, **where)
    return loss, found | vars(settings)


def main(argv: list[str]) -> Score:
    """Evaluate as the command line says and print the score."""
    options = parse(argv)
    check(options)
    where = options.gpu, options.onnx, options.cache, options.precision
    model = open_model(options.checkpoint, *where)
    data, split, cache = options.data or model.config.data, options.split, {}
    if options.file:
        ids = encode_file(options.file, model.dictionary, model.level)
    else:
        ids = read_split(data, split, model.dictionary, model.level)
    if options.cache:
        loss, cache = loss_with_cache(options, model, ids)
    else:
        columns = model.columns(split)
        if options.file:  # a short one would be cut in the middle of most of its sentences
            columns = min(columns, max(1, len(ids) // COLUMN[model.level]))
        loss = model.evaluate(ids, options.batch_size or columns)
    score = Score(len(ids), int(np.sum(ids == model.dictionary.unk_id)), loss)
    known = {of: own for own, of in model.dictionary.about.get("texts", {}).items()}
    units = per_unit(model.dictionary, known.get(digest(ids)[:16]), score.loss * score.tokens)
    name = options.file.name if options.file else f"{Path(data).name}, {split}"
    report(name, score, model.level, units)
    if options.record:
        figures = {**dataclasses.asdict(score), "perplexity": storable(score.perplexity), **units}
        if model.level == "char":
            figures["bits_per_character"] = score.bits
        command = ["python", "-m", "gluonlm.evaluate", *argv]
        record(options.record, command, data=data, split=split, **figures, cache=cache)
    return score


def report(name: str, score: Score, level: str, units: dict[str, float]) -> None:
    """Print the score of a text, with a caution where it looks better than it is."""
    share = score.unknown / score.tokens
    print(
        f"{name}: {counted(score.tokens, 'token')}, {share:.2%} unknown | loss {score.loss:.4f} | "
        f"{named(score.loss, level)}{units_shown(units, score.loss)}"
    )
    if share > MUCH_UNKNOWN:
        easy = "all unknown words count as one that is easy to guess"
        print(f"caution: {easy}, which makes the perplexity look too good")


if __name__ == "__main__":
    run(main)
