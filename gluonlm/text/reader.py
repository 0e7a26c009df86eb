"""Reading text files in pieces: a :class:`Span` of a file comes as blocks of whole words.

>>> for block in blocks(Span(Path("train.txt"))): ...
"""

import codecs
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from gluonlm.system.errors import UserError
from gluonlm.system.streams import counted
from gluonlm.text.recognize import complaint, other_kind

BLOCK = 1 << 20  # bytes read at once: NumPy's work on it dwarfs Python's, its words stay small
UNSPACED = {ord(" "): None, ord("_"): " "}
LONGEST_WORD = 1 << 20  # characters
INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060"))  # byte-order mark, zero-width blanks
SPLITS = ("train", "valid", "test")
SHARES = (0.8, 0.1)  # of a single file that train and validate; the rest is the test
BAR_FROM = 64 << 20  # bytes from which on reading takes long enough for a progress bar


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``stop`` (None: the end) of a text file in an encoding."""

    path: Path
    start: int = 0
    stop: int | None = None
    encoding: str = "utf-8"
    spaced: bool = False  # blanks only separate characters, and _ is a blank (ptb.char.train.txt)

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
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
        raise UserError(f"{path} {why}: give a text file that you may read") from None


def blocks(span: Span) -> Iterator[str]:
    """The text of a span in pieces of about ``BLOCK`` bytes, cut at blanks and line ends. Raises a
    UserError when the file cannot be read or is not text in the span's encoding."""
    carry = ""
    for text in decoded(byte_blocks(span), span.path, span.encoding, span.start):
        text = carry + (text.translate(UNSPACED) if span.spaced else text)
        cut = max(text.rfind(" "), text.rfind("\n")) + 1
        if len(text) - cut > LONGEST_WORD:  # there are no words in this text
            cut = len(text)
        carry = text[cut:]
        if cut:
            yield text[:cut]
    if carry:
        yield carry


def decoded(
    chunks: Iterable[bytes], path: Path | str, encoding: str = "utf-8", start: int = 0
) -> Iterator[str]:
    """Bytes as text; CR and CRLF become line ends, invisible characters go, but not in Latin-1. A
    UserError when they are no text in this encoding: what they seem to be, and what to do.

    :param start: the offset in the file at which the chunks begin.
    """
    exact = encoding == "latin-1"
    bytes_decoder = codecs.getincrementaldecoder(encoding)()
    decoder = io.IncrementalNewlineDecoder(bytes_decoder, translate=not exact)
    done = lines = 0
    for data in chain(chunks, [b""]):
        if encoding == "utf-8" and (problem := other_kind(data, start + done)):
            raise UserError(f"{path} is {problem}")
        pending = len(bytes_decoder.getstate()[0])  # bytes of a character begun in the chunk before
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeError as error:
            if encoding != "utf-8":
                wrong = f"{path} is not in the encoding {encoding}"
                raise UserError(f"{wrong}: give another with --encoding") from None
            if start:
                lines += len(line_ends(Span(Path(path), 0, start)))
            begin = max(0, error.start - 2000)
            lines += 1 + error.object.count(b"\n", 0, error.start)
            around = error.object[begin : error.start + 2000]
            raise complaint(path, around, start + done - pending + error.start, lines) from None
        done += len(data)
        lines += data.count(b"\n")
        if text:
            yield text if exact else text.translate(INVISIBLE)


def progress_bar(total: int | None, name: str, **options) -> tqdm:
    """A bar that counts bytes; rarely drawn in a log file, where each state is a line."""
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


def split_by_lines(path: Path) -> list[Span]:
    """Cut a file into contiguous spans of ``SHARES`` of its lines, and the rest; one of fewer than
    ten lines at blanks, or where there are none between characters. A UserError if it is shorter.
    """
    whole = Span(path)
    size, ends = whole.size(), line_ends(whole)
    if size == 0:
        raise UserError(f"{path} is empty: give a file with text")
    if len(ends) >= 10:
        cuts = [int(ends[round(share * len(ends)) - 1]) for share in np.cumsum(SHARES)]
    else:
        cuts = [gap(path, round(share * size)) for share in np.cumsum(SHARES)]
    if size < 10 or not cuts[0] < cuts[1] < size:
        raise UserError(
            f"{path} has only {counted(size, 'character')}, too few to be split 80/10/10: give a "
            "longer text, or a folder with train.txt, valid.txt and test.txt"
        )
    cuts = [0, *cuts, None]
    return [Span(path, start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]


def gap(path: Path, offset: int) -> int:
    """The next offset after a blank or line end, or at least between two characters."""
    with open_file(path) as file:
        file.seek(offset - 1)
        data = file.read(1 << 16)
    if blank := re.search(rb" |\r?\n|\r", data):
        return offset - 1 + blank.end()
    return offset + next((i for i, byte in enumerate(data[1:]) if byte & 0xC0 != 0x80), 0)


def line_ends(span: Span) -> np.ndarray:
    """The offsets in a span just after its line ends, int64 (lines,); of those of old Macs, too."""
    offsets, done = [np.empty(0, np.int64)], 0
    for data in byte_blocks(span):
        end = b"\n" if b"\n" in data else b"\r"
        offsets.append(np.flatnonzero(np.frombuffer(data, np.uint8) == ord(end)) + done + 1)
        done += len(data)
    return np.concatenate(offsets)
