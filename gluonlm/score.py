"""Score lines one by one: log-probability, tokens, unknown words and perplexity of each.

python -m gluonlm.score runs/NAME sentences.txt                # tab-separated, in order
some command | python -m gluonlm.score runs/NAME --json        # lines of JSON, from standard input
python -m gluonlm.score runs/NAME nbest.txt | sort -gr | head -1     # the most probable candidate
python -m gluonlm.score model.onnx drafts.txt --words          # surprise of each word, in bits
python -m gluonlm.score runs/NAME - --next 10                  # and what might come next

A line is cut into tokens as the model's data set was, and its end is a token, too. Each line begins
with a fresh state; with --carry they are read as one text, as ``python -m gluonlm.evaluate`` does.
The log-probability is a natural logarithm; a blank line has one token, its end.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from gluonlm.cli import Parser, add_gpu, add_precision, at_least, open_model, run
from gluonlm.inference.lines import COLUMNS, Line, score_lines
from gluonlm.inference.scoring import bits, perplexity, storable
from gluonlm.system.errors import UserError
from gluonlm.system.streams import counted
from gluonlm.text.documents import physical_lines
from gluonlm.text.reader import decoded, open_file
from gluonlm.text.subwords import BLANK
from gluonlm.text.vocabulary import EOS, UNK

PIECE = 1 << 16  # bytes read at once
MANY = 100  # lines, of which a speed is said


def parser() -> Parser:
    parser = Parser("score", __doc__)
    add = parser.add_argument
    add("run", help="folder of a run, model file, or exported .onnx file")
    add("file", nargs="?", default="-", help="text file, or - for standard input (default)")
    add("--json", action="store_true", help="a JSON object per line instead of a table")
    surprise = f"add the surprise of each word in bits; that of a word={UNK} is of any unknown one"
    add("--words", action="store_true", help=surprise)
    words = "add the N most probable next tokens"
    add("--next", type=at_least(0), default=0, metavar="N", help=words)
    add("--carry", action="store_true", help="do not reset the state between lines")
    most = f"lines side by side at most (default: {COLUMNS})"
    add("--batch-size", type=at_least(1), default=COLUMNS, help=most)
    add_precision(parser)
    add_gpu(parser)
    return parser


def read_lines(name: str) -> Iterator[str]:
    """The lines of a file or of standard input, as they come."""
    with nullcontext(sys.stdin.buffer) if name == "-" else open_file(Path(name)) as file:
        read = getattr(file, "read1", file.read)
        chunks = iter(lambda: read(PIECE), b"")
        yield from physical_lines(decoded(chunks, "stdin" if name == "-" else name), None)


def words_of(line: Line, level: str) -> list[tuple[str, float, bool]]:
    """The words with their surprise in nats, and whether the vocabulary lacks them.

    Characters are words here; the pieces of a word are one, as probable as all of them together.
    """
    words: list[tuple[str, float, bool]] = []
    for token, nats, missing in zip(line.tokens, line.nats, line.missing):
        if level == "subword":
            if words and token != EOS and not token.startswith(BLANK):
                begun, before, lacked = words.pop()
                token, nats, missing = begun + token, before + nats, lacked or missing
            token = token.removeprefix(BLANK) or token
        words.append((token, nats, missing))
    return words


def row(line: Line, level: str, words: bool, following: bool) -> str:
    """A line of the table; the text comes last, since anything may be in it."""
    cells = [f"{line.log_probability:.4f}", len(line.ids), line.unknown, f"{line.perplexity:.2f}"]
    if words:
        parts = (
            (shown_token(w), f"={UNK}" * bool(m), bits(n)) for w, n, m in words_of(line, level)
        )
        cells.append(" ".join(f"{word}{mark}:{surprise:.2f}" for word, mark, surprise in parts))
    if following:
        cells.append(" ".join(f"{shown_token(t)}:{p:.4f}" for t, p in line.next))
    return "\t".join(map(str, [*cells, line.text.replace("\t", " ")]))


def as_json(line: Line, level: str, words: bool, following: bool) -> str:
    """A line as a JSON object."""
    values = {
        "log_probability": line.log_probability,
        "tokens": len(line.ids),
        "unknown": line.unknown,
        "perplexity": storable(line.perplexity),
    }
    if words:
        parts = words_of(line, level)
        values["words_bits"] = [(word, round(float(bits(nats)), 4)) for word, nats, _ in parts]
        values["unknown_words"] = [word for word, _, missing in parts if missing]
    if following:
        values["next"] = [[token, round(p, 6)] for token, p in line.next]
    return json.dumps({**values, "text": line.text}, ensure_ascii=False)


def shown_token(token: str) -> str:
    """A token that is no blank itself."""
    return {"\n": "\\n", " ": "␣", "\t": "\\t"}.get(token, token)


def main(argv: list[str]) -> dict[str, float]:
    """Score as the command line says; returns the totals, which stderr shows."""
    options = parser().parse_args(argv)
    model = open_model(options.run, options.gpu, precision=options.precision)
    lines = read_lines(options.file)
    first = next(lines, None)  # what is wrong with the text is said before the table begins
    if first is None:
        name = "standard input" if options.file == "-" else options.file
        raise UserError(f"{name} is empty: give text, a sentence a line")
    if not options.json:
        extra = ["words (bits)"] * options.words + ["next (probability)"] * bool(options.next)
        print("\t".join(["log_probability", "tokens", "unknown", "perplexity", *extra, "text"]))
    write = as_json if options.json else row
    count = tokens = 0
    total, began = 0.0, time.monotonic()
    how = options.batch_size, options.carry, options.next
    for line in score_lines(model, chain([first], lines), *how):
        print(write(line, model.level, options.words, options.next > 0))
        count, tokens = count + 1, tokens + len(line.ids)
        total += line.log_probability
    seconds = time.monotonic() - began
    mean = perplexity(-total / max(tokens, 1))
    speed = f" | {count / seconds:.0f} lines/s" if count >= MANY else ""
    print(
        f"{counted(count, 'line')}, {counted(tokens, 'token')} | log-probability {total:.4f} | "
        f"perplexity {mean:.2f}{speed}",
        file=sys.stderr,
    )
    return {"lines": count, "tokens": tokens, "log_probability": total, "perplexity": mean}


if __name__ == "__main__":
    run(main)
