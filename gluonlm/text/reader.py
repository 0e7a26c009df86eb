"""Reading text files in pieces: a :class:`Span` of a file comes as blocks of whole words, never all at once.

>>> for block in blocks(Span(Path("train.txt"))): ...
"""

import codecs
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from gluonlm.system.errors import UserError

BLOCK = (
    1 << 20
)  # bytes read at once: numpy's work on it dwarfs Python's, its words as strings stay small
BAR_FROM = 64 << 20  # bytes from which on reading takes long enough for a progress bar


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``stop`` (None: the end) of a text file in an encoding."""

    path: Path
    start: int = 0
    stop: int | None = None
    encoding: str = "utf-8"

    def size(self) -> int:
        """Length in bytes; raises UserError if the file cannot be read."""
        with open_file(self.path) as file:
            end = os.fstat(file.fileno()).st_size
        return max(0, (end if self.stop is None else min(self.stop, end)) - self.start)


def open_file(path: Path) -> BinaryIO:
    """Open a file to read bytes; raises UserError that says why it cannot be."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give a text file") from None
    except PermissionError:
        raise UserError(
            f"{path} may not be read: change its permissions (chmod u+r) or give another file"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def blocks(span: Span) -> Iterator[str]:
    """The text of a span in pieces of about ``BLOCK`` bytes that end behind a blank or a line end.

    :raises UserError: when the file cannot be read or is not text in the span's encoding.
    """
    decoder = codecs.getincrementaldecoder(span.encoding)()
    carry, done = "", 0  # done: bytes decoded so far
    for data in byte_blocks(span):
        text = decode(decoder, data, span, done)
        if done == 0:
            text = text.removeprefix("\ufeff")  # the mark that some editors put at the start
        done += len(data)
        text = carry + text
        cut = max(text.rfind(" "), text.rfind("\n")) + 1
        carry = text[cut:]
        if cut:
            yield text[:cut]
    decode(decoder, b"", span, done)  # raises if the file ends within a character
    if carry:
        yield carry


def progress_bar(total: int | None, name: str, **options) -> tqdm:
    """A bar that counts bytes; in a log file, where each state is printed below the last, a rare one."""
    seconds = 0.2 if sys.stderr.isatty() else 20
    return tqdm(total=total, desc=name, unit="B", unit_scale=True, mininterval=seconds, **options)


def byte_blocks(span: Span) -> Iterator[bytes]:
    """The bytes of a span in pieces of ``BLOCK``, with a progress bar if there are many."""
    left = span.size()
    bar = progress_bar(left, f"reading {span.path.name}", disable=left < BAR_FROM)
    with open_file(span.path) as file, bar:
        file.seek(span.start)
        while left > 0 and (data := file.read(min(BLOCK, left))):
            yield data
            left -= len(data)
            bar.update(len(data))


def decode(decoder: codecs.IncrementalDecoder, data: bytes, span: Span, done: int) -> str:
    """Decode the next bytes; ``done`` bytes of the span came before them."""
    if span.encoding == "utf-8" and (zero := data.find(b"\0")) >= 0:
        raise UserError(
            f"{span.path} is not a text file: there is a zero byte at offset {span.start + done + zero}; "
            "give plain text in UTF-8"
        )
    pending = len(decoder.getstate()[0])  # bytes of a character begun in the piece before
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        offset = span.start + done - pending + error.start
        line = 1 + count_lines(Span(span.path, 0, offset))
        raise UserError(
            f"{span.path} is not UTF-8: the byte at offset {offset} (line {line}) is no part of a character; "
            f"convert the file, for instance with `iconv -f latin1 -t utf-8`"
        ) from None


def count_lines(span: Span) -> int:
    """The number of line ends in a span."""
    return sum(data.count(b"\n") for data in byte_blocks(span))


def split_by_lines(path: Path, shares: tuple[float, ...] = (0.8, 0.1)) -> list[Span]:
    """Cut a file at line ends into contiguous spans: these shares of its lines, then the rest.

    :raises UserError: when the file has too few lines for that.
    """
    whole = Span(path)
    size, lines = whole.size(), count_lines(whole)
    if size == 0:
        raise UserError(f"{path} is empty: give a file with text")
    if lines < 10:
        raise UserError(
            f"{path} has only {lines} line{'s' * (lines != 1)}, too few to be split 80/10/10 into training, "
            "validation and test: give at least 10 lines, or a folder with train.txt, valid.txt and test.txt"
        )
    wanted = np.round(np.cumsum(shares) * lines).astype(int)  # lines before each cut
    cuts = [0, *line_ends(whole, wanted), None]
    return [Span(path, start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]


def line_ends(span: Span, numbers: np.ndarray) -> list[int]:
    """The offsets just behind the line ends with these numbers (counted from 1)."""
    offsets, seen, done = [], 0, 0
    for data in byte_blocks(span):
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
        here = numbers[(numbers > seen) & (numbers <= seen + len(ends))]
        offsets += [done + int(ends[number - seen - 1]) for number in here]
        seen, done = seen + len(ends), done + len(data)
    return offsets
