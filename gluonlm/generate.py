"""Write text with a trained model.

python -m gluonlm.generate runs/ptb                                    # 1000 words as they come
python -m gluonlm.generate runs/ptb --seed-text "she was" --sentences 3 --temperature 0.7
python -m gluonlm.generate runs/ptb --top-p 0.9 --samples 8 --words 50 --capitals
python -m gluonlm.generate runs/ptb --no-repeat 3 --repetition-penalty 1.1   # not in circles
python -m gluonlm.generate runs/ptb --beam 10 --samples 3 --words 20   # the 3 most probable found
python -m gluonlm.generate --checkpoint model.pt --outf generated.txt --cuda
python -m gluonlm.generate model.onnx --words 100     # exported; MXNet need not be installed
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from gluonlm.cli import Parser, add_gpu, at_least, open_model, run
from gluonlm.config import option
from gluonlm.inference.beam import beam_search
from gluonlm.inference.language_model import LanguageModel
from gluonlm.inference.sampling import FINISHED, Strategy, end_id, stream
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output, write_output
from gluonlm.system.machine import check_memory
from gluonlm.system.streams import printable
from gluonlm.text.detokenize import Detokenizer, tokens_of
from gluonlm.text.vocabulary import UNK, Dictionary

DEFAULT_MODEL = Path("model.pt")  # where the word-level example has it
SAMPLING = ("temperature", "top_k", "top_p", "greedy")


def parser() -> Parser:
    parser = Parser("generate", __doc__)
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group().add_argument
    model("run", nargs="?", help="a run's folder, model file or .onnx file (or ./model.pt)")
    model("--checkpoint", help="the same by option")
    model("--onnx", metavar="FILE", help="an exported model, whatever its name, on the CPU")
    add("--seed-text", default="", metavar="TEXT", help="continue this phrase")
    add("--words", type=int, default=1000, help="words or characters to write (default: 1000)")
    add("--sentences", type=int, help="stop after so many sentences, or lines")
    add("--samples", type=at_least(1), default=1, help="number of texts (default: 1)")
    add("--seed", type=at_least(0), default=1111, help="seed of what is random (default: 1111)")
    add_strategy(parser.add_argument_group("how words are chosen"))
    style = parser.add_mutually_exclusive_group().add_argument
    style("--capitals", action="store_true", help="begin sentences with a capital letter")
    style("--raw", action="store_true", help="print the tokens as they are, <eos> too")
    add("--outf", type=Path, metavar="FILE", help="write to this file and show progress instead")
    words = "with --outf: words between progress lines"
    add("--log-interval", type=at_least(1), default=100, help=words)
    add_gpu(parser)
    add("--data", help="accepted and not needed: the vocabulary is in the model's file")
    return parser


def add_strategy(group: argparse._ArgumentGroup) -> None:
    """Add the options of :class:`gluonlm.inference.sampling.Strategy`, and beam search."""
    add, choices = group.add_argument, ("forbid", "keep")
    add("--temperature", type=float, help="below 1 safer, above 1 more adventurous (default: 1)")
    add("--top-k", type=int, help="draw among the K most probable words")
    add("--top-p", type=float, help="draw among the fewest words with probability P together")
    add("--greedy", action="store_true", help="always the most probable word")
    add("--beam", type=int, metavar="WIDTH", help="search the most probable text with WIDTH beams")
    add("--repetition-penalty", type=float, help="above 1: words used before are less probable")
    add("--no-repeat", type=int, metavar="N", help="write no N words in a row a second time")
    add("--unk", choices=choices, default="forbid", help="whether to write <unk> (default: forbid)")
    add("--eos", choices=choices, default="keep", help="whether sentences end (default: keep)")


def model_path(options: argparse.Namespace) -> Path:
    """The model that the user means."""
    path = options.run or options.checkpoint
    if not (path or options.onnx or DEFAULT_MODEL.exists()):
        raise UserError("say which model is to write: austen, a run's folder or a model file")
    return Path(path or DEFAULT_MODEL)


def strategy(options: argparse.Namespace, dictionary: Dictionary) -> Strategy:
    """How words are chosen, of the options that were given."""
    values = ((field.name, getattr(options, field.name, None)) for field in fields(Strategy))
    given = {name: value for name, value in values if value is not None and value is not False}
    drawn = [option(name) for name in SAMPLING if name in given]
    if options.beam is not None and drawn:
        raise UserError(f"--beam draws nothing: leave out {drawn[0]}")
    if options.beam is not None and options.beam < options.samples:
        raise UserError(f"--beam {options.beam} finds as many texts: lower --samples or raise it")
    forbidden = [dictionary.unk_id] if options.unk == "forbid" else []
    forbidden += [end_id(dictionary)] if options.eos == "forbid" else []
    return Strategy(**given, forbidden=tuple(index for index in forbidden if index is not None))


def tokens(
    options: argparse.Namespace, model: LanguageModel, chosen: Strategy, prompt: Sequence[int]
) -> Iterator[Sequence[int]]:
    """Yield the next token of each text."""
    if options.beam is None:
        return stream(model, model.dictionary, prompt, options.words, chosen)
    found = beam_search(model, model.dictionary, prompt, options.words, options.beam, chosen)
    texts = [text.ids for text in found[: options.samples]]
    return itertools.zip_longest(*texts, fillvalue=FINISHED)


def write(options: argparse.Namespace, model: LanguageModel, written: list[str]) -> None:
    """Fill ``written`` with the texts, as far as they are; a single one is shown as it comes."""
    chosen = strategy(options, model.dictionary)
    opening = tokens_of(options.seed_text, model.dictionary, model.level)
    prompt, alone = model.dictionary.encode(opening), options.samples == 1 and not options.outf
    if unknown := [token for token in opening if token not in model.dictionary]:
        words = printable(" ".join(unknown))
        print(f"not in the vocabulary, read as {UNK}: {words}", file=sys.stderr)
    style, samples = (model.level, options.capitals, options.raw), range(options.samples)
    writers = [Detokenizer(*style) for _ in samples]
    written += ["".join(map(writer, opening)) for writer in writers]
    if alone:
        print(printable(written[0]), end="", flush=True)
    for number, row in enumerate(tokens(options, model, chosen, prompt), 1):
        for sample, token in enumerate(row):
            if token != FINISHED:
                piece = writers[sample](model.dictionary.idx2word[token])
                written[sample] += piece
                print(printable(piece) if alone else "", end="", flush=alone)
        if options.outf and number % options.log_interval == 0:
            print(f"| generated {number}/{options.words} words", flush=True)


def joined(written: list[str]) -> str:
    """All texts as one, numbered if there are several."""
    if len(written) == 1:
        return written[0].rstrip("\n") + "\n"
    return "".join(f"--- {number} ---\n{text.rstrip()}\n" for number, text in enumerate(written, 1))


def main(argv: list[str]) -> list[str]:
    """Write as the command line says and return the texts, with the phrase that they go on from."""
    options, written = parser().parse_args(argv), []
    out = options.outf
    if out:
        check_output(out)  # told now, not after an hour of writing
    model = open_model(model_path(options), options.gpu, options.onnx)
    if options.capitals and model.level == "char":
        raise UserError("--capitals has no effect on a model of characters: leave it out")
    texts = max(options.samples, options.beam or 1)
    each = 16 * len(model.dictionary) + 8 * max(options.words, 0) + 2000  # logits, ids, its text
    check_memory(texts * each, "writing so much at once", "lower --samples, --beam or --words")
    try:
        write(options, model, written)
    finally:  # after Ctrl-C, too
        if out and written:
            write_output(out, joined(written))
    if not out and options.samples == 1:
        print("" if written[0].endswith("\n") else "\n", end="")
    elif not out:
        print(printable(joined(written)), end="")
    return written


if __name__ == "__main__":
    run(main)
