"""Words against subwords: the same text, as many parameters, bits per character.

    python benchmarks/subwords.py                     # austen and WikiText-2: a quarter of an hour
    python benchmarks/subwords.py --table             # what is recorded

Both models read the same lines of a word-level data set, ``<unk>`` included, so that neither has
less to say; there are half as many pieces as words, and the units are as many as give the model of
pieces the parameters of the model of words. Both see the text equally often, by the preset
fast-cpu. Recorded in results/subwords.json, where other data sets stay as they are.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

from precision import gather

from gluonlm import train
from gluonlm.cli import run
from gluonlm.model.weights import model_bytes
from gluonlm.presets import resolve
from gluonlm.system.errors import UserError
from gluonlm.system.machine import RESULTS
from gluonlm.text import locate
from gluonlm.text.subwords import encoder, learn_subwords
from gluonlm.text.vocabulary import EOS, RARE, UNK

EPOCHS = {"austen": 3, "wikitext-2": 1}
Text = dict[str, list[str]]  # split -> lines


def lines_of(data: str) -> Text:
    """The lines of a word-level data set, their words separated by single blanks."""
    spans = locate.resolve(data).spans
    return {
        split: [" ".join(line.split()) for line in span.path.read_text("utf-8").splitlines()]
        for split, span in spans.items()
    }


def in_pieces(words: Text, size: int) -> Text:
    """The same lines as pieces, which their training text teaches; ``<unk>`` is one of them."""
    plain = {split: [line.replace(UNK, RARE) for line in lines] for split, lines in words.items()}
    pieces_of = encoder(learn_subwords(filter(None, plain["train"]), size))
    return {s: [" ".join(pieces_of(line)) for line in lines] for s, lines in plain.items()}


def vocabulary(text: Text) -> int:
    """The number of different tokens in the training text, with those that reading adds."""
    return len({UNK, EOS}.union(*map(str.split, text["train"])))


def parameters(units: int, size: int) -> int:
    """The parameters of a model of so many units over so many tokens."""
    return model_bytes(resolve("fast-cpu", {"emsize": units, "nhid": units}), size) // 4


def trained(text: Text, units: int, epochs: int, more: list[str]) -> dict:
    """Train on a text; the figures of its test text."""
    with tempfile.TemporaryDirectory() as folder:
        for split, lines in text.items():
            Path(folder, f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        sizes = [f"--emsize={units}", f"--nhid={units}", f"--epochs={epochs}"]
        began, run = time.process_time(), f"{folder}/run"
        command = ["--preset", "fast-cpu", "--data", folder, "--save", run, *sizes, *more]
        result = train.main(command)
        seconds = time.process_time() - began
    if not result.finished:
        raise UserError("stopped before the end: nothing of this data set is recorded")
    tokens = sum(len(line.split()) + 1 for line in text["test"])
    figures = {"vocabulary": vocabulary(text), "units": units, "tokens": tokens}
    figures["parameters"] = parameters(units, figures["vocabulary"])
    return {**figures, "nats": result.test_loss * tokens, "processor_seconds": round(seconds)}


def compare(data: str, options: argparse.Namespace) -> dict:
    """Both models of a data set; the characters are those of the words and the blanks and line ends
    between them."""
    words = lines_of(data)
    pieces = in_pieces(words, vocabulary(words) // 2)
    wanted, size = parameters(options.units, vocabulary(words)), vocabulary(pieces)
    units = min(range(1, 4 * options.units), key=lambda n: abs(parameters(n, size) - wanted))
    epochs = options.epochs or EPOCHS.get(data, 4)
    both = {"words": (words, options.units), "subwords": (pieces, units)}
    return {
        "epochs": epochs,
        "characters": sum(len(line) + 1 for line in words["test"]),
        "words": sum(len(line.split()) + 1 for line in words["test"]),
        "models": {name: trained(*one, epochs, options.more.split()) for name, one in both.items()},
    }


def table(results: dict[str, dict]) -> str:
    """The results as Markdown."""
    lines = [
        "| data, epochs | tokens | vocabulary | units | parameters | test tokens "
        "| perplexity per token | per word | bits per character | processor seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for data, one in results.items():
        for name, model in one["models"].items():
            token, word = (math.exp(model["nats"] / n) for n in (model["tokens"], one["words"]))
            bits = model["nats"] / math.log(2) / one["characters"]
            whole = ("vocabulary", "units", "parameters", "tokens")
            shown = " | ".join(f"{model[key]:,}" for key in whole)
            lines.append(
                f"| {data}, {one['epochs']} | {name} | {shown} | {token:.2f} | {word:.2f} "
                f"| **{bits:.3f}** | {model['processor_seconds']:,} |"
            )
    return "\n".join(lines)


def main(argv: list[str]) -> dict:
    """Train, compare and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=list(EPOCHS))
    parser.add_argument("--epochs", type=int, help=f"(default: {EPOCHS})")
    parser.add_argument("--units", type=int, default=200, help="of the model of words (200)")
    parser.add_argument("--more", default="", help="further options of both trainings")
    parser.add_argument("--out", type=Path, default=RESULTS / "subwords.json")
    parser.add_argument("--table", action="store_true", help="only show what --out holds")
    options = parser.parse_args(argv)
    return gather(options, ["python", "benchmarks/subwords.py", *argv], compare, table)


if __name__ == "__main__":
    run(main)
