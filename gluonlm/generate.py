"""Write text with a trained model.

python -m gluonlm.generate runs/ptb                                    # 1000 words as they come
python -m gluonlm.generate runs/ptb --seed-text "she was" --sentences 3 --temperature 0.7
python -m gluonlm.generate runs/ptb --top-p 0.9 --samples 8 --words 50 --capitals
python -m gluonlm.generate runs/ptb --beam 10 --samples 3 --words 20   # the 3 most probable that it finds
python -m gluonlm.generate --checkpoint model.pt --outf generated.txt --cuda
python -m gluonlm.generate --onnx model.onnx --words 100               # exported; MXNet need not be installed
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

from gluonlm.cli import Parser, contexts, run
from gluonlm.inference.language_model import LanguageModel
from gluonlm.inference.sampling import FINISHED, Strategy, beam_search, end_id, stream
from gluonlm.onnx.load import load, load_onnx
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output, write_output
from gluonlm.text.detokenize import Detokenizer, tokens_of
from gluonlm.text.vocabulary import UNK, Dictionary

DEFAULT_MODEL = Path("model.pt")  # where the word-level example has it
SAMPLING = ("temperature", "top_k", "top_p", "greedy")


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m gluonlm.generate", description="Write text with a trained model."
    )
    add = parser.add_argument
    add(
        "run",
        nargs="?",
        help="folder of a run, or model file (default: model.pt here, if there is one)",
    )
    add("--checkpoint", help="the same by option")
    add("--onnx", metavar="FILE", help="an exported model instead, on the CPU")
    add(
        "--seed-text",
        default="",
        metavar="TEXT",
        help="go on from this phrase instead of from nothing",
    )
    add(
        "--words",
        type=int,
        default=1000,
        help="words to write, or characters; <eos> counts as one (default: 1000)",
    )
    add(
        "--sentences",
        type=int,
        help="stop after so many sentences, or lines (and after --words at the latest)",
    )
    add("--samples", type=int, default=1, help="number of texts, written side by side (default: 1)")
    add("--seed", type=int, default=1111, help="seed of what is random (default: 1111)")
    add("--temperature", type=float, help="below 1 safer, above 1 more adventurous (default: 1)")
    add("--top-k", type=int, help="draw among the k most probable words")
    add(
        "--top-p",
        type=float,
        help="draw among the most probable words that have probability p together",
    )
    add("--greedy", action="store_true", help="always the most probable word")
    add(
        "--beam",
        type=int,
        metavar="WIDTH",
        help="look for the most probable text, keeping WIDTH candidates",
    )
    add(
        "--unk",
        choices=("forbid", "keep"),
        default="forbid",
        help="whether <unk> may be written (default: forbid)",
    )
    add(
        "--eos",
        choices=("forbid", "keep"),
        default="keep",
        help="whether a sentence may end (default: keep)",
    )
    add("--capitals", action="store_true", help="begin sentences with a capital letter")
    add("--raw", action="store_true", help="print the tokens as they are, <eos> too")
    add("--outf", type=Path, metavar="FILE", help="write to this file and show progress instead")
    add(
        "--log-interval",
        type=int,
        default=100,
        help="with --outf: words between two progress lines (default: 100)",
    )
    add("--gpu", help="number of the GPU to use")
    add("--cuda", dest="gpu", action="store_const", const="0", help="the same as --gpu 0")
    add("--data", help="accepted and not needed: the vocabulary is in the model's file")
    return parser


def model_path(options: argparse.Namespace) -> Path:
    """The model that the user means."""
    if options.run and options.checkpoint:
        raise UserError("give the model once: as the first argument or with --checkpoint")
    path = options.run or options.checkpoint
    if path is None and not DEFAULT_MODEL.exists():
        raise UserError("say which model is to write: a run's folder or a model file")
    return Path(path or DEFAULT_MODEL)


def open_model(options: argparse.Namespace) -> LanguageModel:
    """The model that the options name, on the device that they name."""
    if options.onnx:
        if options.run or options.checkpoint or options.gpu:
            raise UserError(
                "--onnx FILE is the model, and is computed on the CPU: leave out other models and --gpu"
            )
        return load_onnx(options.onnx)
    return load(model_path(options), None if options.gpu is None else contexts(options.gpu)[0])


def strategy(options: argparse.Namespace, dictionary: Dictionary) -> Strategy:
    """How words are chosen, of the options that were given."""
    given = {name: getattr(options, name) for name in SAMPLING}
    given = {
        name: value for name, value in given.items() if value is not None and value is not False
    }
    if options.beam is not None and given:
        option = min(given).replace("_", "-")
        raise UserError(
            f"--beam looks for the most probable text and draws nothing: leave out --{option}"
        )
    if options.beam is not None and options.beam < options.samples:
        raise UserError(
            f"--beam {options.beam} finds {options.beam} texts: lower --samples or raise --beam"
        )
    forbidden = [dictionary.unk_id] if options.unk == "forbid" else []
    forbidden += [end_id(dictionary)] if options.eos == "forbid" else []
    return Strategy(**given, forbidden=tuple(index for index in forbidden if index is not None))


def texts(
    options: argparse.Namespace,
    model: LanguageModel,
    show: Callable[[str], None],
    written: list[str],
) -> None:
    """Fill ``written`` with the texts the user wants, as far as they are; a single one is shown piece by piece, too."""
    dictionary, chosen = model.dictionary, strategy(options, model.dictionary)
    opening, unknown = tokens_of(options.seed_text, dictionary, model.level)
    prompt = dictionary.encode(opening)
    if unknown:
        print(f"not in the vocabulary, read as {UNK}: {' '.join(unknown)}", file=sys.stderr)
    writers = [
        Detokenizer(model.level, options.capitals, options.raw) for _ in range(options.samples)
    ]
    written += ["".join(map(writer, opening)) for writer in writers]

    def add(sample: int, token: int) -> None:
        piece = writers[sample](dictionary.idx2word[token])
        written[sample] += piece
        if options.samples == 1:
            show(piece)

    if options.samples == 1:
        show(written[0])
    if options.beam is not None:
        found = beam_search(
            model,
            dictionary,
            prompt,
            options.words,
            options.beam,
            chosen.forbidden,
            options.sentences,
        )
        steps = itertools.zip_longest(
            *(text.ids for text in found[: options.samples]), fillvalue=FINISHED
        )
    else:
        lengths = (options.words, chosen, options.seed, options.samples, options.sentences)
        steps = stream(model, dictionary, prompt, *lengths)
    for number, tokens in enumerate(steps, 1):
        for sample, token in enumerate(tokens):
            if token != FINISHED:
                add(sample, token)
        if options.outf and number % options.log_interval == 0:
            print(f"| generated {number}/{options.words} words", flush=True)


def joined(written: list[str]) -> str:
    """All texts as one, numbered if there are several."""
    if len(written) == 1:
        return written[0].rstrip("\n") + "\n"
    return "".join(f"--- {number} ---\n{text.rstrip()}\n" for number, text in enumerate(written, 1))


def main(argv: list[str]) -> list[str]:
    """Write as the command line says and return the texts, each with the seed phrase that it goes on from."""
    options = parser().parse_args(argv)
    if options.seed < 0 or options.log_interval < 1:
        raise UserError("--seed must be at least 0 and --log-interval at least 1")
    if options.samples < 1:
        raise UserError(f"--samples {options.samples}: must be at least 1")
    model, written = open_model(options), []
    if options.outf:
        to_file(options.outf, written, lambda: texts(options, model, lambda piece: None, written))
    elif options.samples == 1:
        texts(options, model, lambda piece: print(piece, end="", flush=True), written)
        print("" if written[0].endswith("\n") else "\n", end="")
    else:
        texts(options, model, lambda piece: None, written)
        print(joined(written), end="")
    return written


def to_file(path: Path, written: list[str], write: Callable[[], None]) -> None:
    """Let ``write`` fill ``written`` and put that into a file, after Ctrl-C too; before, the file stays as it was."""
    check_output(path)  # told now, not after an hour of writing
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}, make it first")
    try:
        write()
    finally:
        if written:
            write_output(path, joined(written))


if __name__ == "__main__":
    run(main)
