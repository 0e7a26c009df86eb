"""Raw texts as they are found: files, folders, archives, standard input; a document at a time.

    >>> for title, lines in Sources(["novel.txt.gz", "articles/"]).documents(): ...

A line comes without its line end; a piece of a line that is too long to be read at once ends with
``JOIN`` instead. Project Gutenberg's licence, byte-order marks and zero-width blanks are left out.
"""

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, dropwhile, islice, takewhile
from pathlib import Path
from typing import BinaryIO

from gluonlm.system.errors import UserError
from gluonlm.system.streams import counted
from gluonlm.text.reader import decoded, open_file
from gluonlm.text.recognize import HEAD, compression, other_format, other_kind
from gluonlm.text.vocabulary import RARE

JOIN = "\x1f"  # at the end of a piece: the line goes on
LONG = 1_000  # characters of a line that are read at once
OFFICE = {"[Content_Types].xml", "mimetype"}  # in the zips of .docx, .odt, .epub and the like
UNPACK = {"gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open}
LICENCE_FROM = 800  # lines in which Project Gutenberg's header ends, if there is one
GUTENBERG = r"\*\*\* ?{} (?:OF )?(?:THE|THIS) PROJECT GUTENBERG"
HEADER_END = re.compile(GUTENBERG.format("START"), re.IGNORECASE)
FOOTER = re.compile(GUTENBERG.format("END") + r"|^End of (?:the )?Project Gutenberg", re.IGNORECASE)
CREDITS = re.compile(r"(?:Produced|Transcribed|Prepared|E-?text prepared) by", re.IGNORECASE)
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what JSON can write, and no file in UTF-8 should have
# encrypted files and JSON that is nested too deeply are RuntimeErrors
UNREADABLE = (EOFError, OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError)
csv.field_size_limit(1 << 30)


@dataclass
class Sources:
    """Files, folders or "-" for standard input, and what is found out about them on the way."""

    paths: list[str]
    encoding: str = "utf-8"
    column: str | None = None  # the field of JSON lines and CSV that holds the text
    notes: list[str] = field(default_factory=list)  # what was left out, for the report
    files: list[dict] = field(default_factory=list)  # name, bytes and sha256 of what was read
    recorded: bool = False  # whether there were JSON lines or CSV
    skipped: int = 0  # files in a folder or archive that are no text
    unicode: int = 0  # files in UTF-8, whatever the encoding

    def documents(self) -> Iterator[tuple[str, Iterator[str]]]:
        """Title and lines of each document; take all lines of one before the next."""
        for path in self.paths:
            if path == "-":
                yield from self.read("stdin", sys.stdin.buffer)
            elif Path(path).is_dir():
                yield from self.folder(Path(path))
            else:
                with open_file(Path(path)) as file:
                    yield from self.read(Path(path).name, file)
            if self.skipped:
                without = f"left out {counted(self.skipped, 'file')} that cannot be read as text"
                self.notes.append(f"{path}: {without}")
                self.skipped = 0
            if self.unicode:
                those = f"{counted(self.unicode, 'file')} in UTF-8"
                self.notes.append(f"{path}: {those} read as such, and not as {self.encoding}")
                self.unicode = 0
        if not self.files:
            found = "; ".join(self.notes) or "no file is there"
            raise UserError(f"there is nothing to read ({found}): give plain text in UTF-8")
        if self.column and not self.recorded:
            unused = f"--field {self.column}: there is no CSV, and no JSON with an object a line"
            raise UserError(f"{unused}: convert the text, or leave the option out")

    def folder(self, folder: Path) -> Iterator[tuple[str, Iterator[str]]]:
        """The texts in a folder and the folders in it, by name, except hidden files."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder)
            if not hidden(name):
                with open_file(path) as file:
                    yield from self.one_of_many(str(name), file)

    def one_of_many(self, name: str, file: BinaryIO) -> Iterator[tuple[str, Iterator[str]]]:
        """The documents of a file in a folder or archive; none, and it is counted, if it is no
        text."""
        head = file.read(HEAD)  # peek would give less
        if packed := UNPACK.get(compression(head)):
            file.seek(0)
            head = b""
            with suppress(*UNREADABLE):  # read() tells of a damaged one
                head = packed(file).read(HEAD)
        file.seek(0)
        wide = re.match("utf.?(16|32)", self.encoding, re.IGNORECASE)  # has zero bytes
        if compression(head) or (other_format(head) if wide else other_kind(head)):
            self.skipped += 1
        else:
            yield from self.read(name, file)

    def read(self, name: str, file: BinaryIO) -> Iterator[tuple[str, Iterator[str]]]:
        """The documents of one file: one, or those of an archive, or one for each record."""
        with readable(name):
            kind = compression(file.peek(16)[:16])
            if kind == "zip":
                yield from self.archive(name, file if file.seekable() else io.BytesIO(file.read()))
                return
            chunks = self.hashed(name, UNPACK[kind](file) if kind else file)
            first = next(chunks, b"")
            text = decoded(chain([first], chunks), name, self.encoding_of(first))
            yield from self.records(name, text)
            for _ in chunks:  # what is no text, such as a licence, for the checksum
                pass

    def encoding_of(self, head: bytes) -> str:
        """The encoding given, but UTF-8 for a file that begins with letters of that: in a folder
        they are mixed, and as cp1252 it would be a text of other letters."""
        if self.encoding != "utf-8" and not head.isascii():
            with suppress(UnicodeDecodeError):
                codecs.getincrementaldecoder("utf-8")().decode(head)
                self.unicode += 1
                return "utf-8"
        return self.encoding

    def archive(self, name: str, file: BinaryIO) -> Iterator[tuple[str, Iterator[str]]]:
        """The documents of the files in a zip; a UserError when it is a document itself."""
        with zipfile.ZipFile(file) as archive:
            if OFFICE.intersection(archive.namelist()):
                raise UserError(f"{name} is an office document or e-book: save it as plain text")
            for member in archive.infolist():
                if not member.is_dir() and not hidden(Path(member.filename)):
                    with archive.open(member) as inner:
                        yield from self.one_of_many(member.filename, inner)

    def hashed(self, name: str, file: BinaryIO) -> Iterator[bytes]:
        """The bytes of a file in pieces; at its end, their number and checksum are noted."""
        digest, size = hashlib.sha256(), 0
        with readable(name):  # who takes a document's lines is not within read()
            while data := file.read(HEAD):
                digest.update(data)
                size += len(data)
                yield data
        self.files.append({"name": name, "bytes": size, "sha256": digest.hexdigest()})

    def records(self, name: str, text: Iterator[str]) -> Iterator[tuple[str, Iterator[str]]]:
        """One document of plain text, or one for each record of JSON lines or CSV."""
        head = next(text, "")
        kind, text = record_kind(name, head, self.column), chain([head], text)
        if kind is None:
            yield name, self.without_licence(name, physical_lines(text))
            return
        self.recorded = True
        lines = (line + "\n" for line in physical_lines(text, None) if line)
        most = max(",;\t", key=first_line(head).count)
        columns = "\t" if ".tsv" in name else most
        rows = csv.DictReader(lines, delimiter=columns) if kind == "CSV" else map(json.loads, lines)
        try:
            for number, row in enumerate(rows, 1):
                if self.column is None or not isinstance(row, dict) or self.column not in row:
                    raise self.wrong_field(name, kind, row)
                if any(row.get(None, ())):  # a separator in the text, which would end there
                    raise csv.Error(f"record {number} has more fields than the first line names")
                content = row[self.column]
                if isinstance(content, list | dict):
                    wrong = f"in record {number} of {name} the field {self.column} is no string"
                    raise UserError(f"{wrong} but JSON in itself: take the text out of it first")
                if content:
                    cleaned = NO_TEXT.sub(RARE, str(content))
                    yield f"{name}:{number}", iter(cleaned.splitlines())
        except (json.JSONDecodeError, csv.Error) as error:
            raise UserError(f"{name} is not {kind} as it seemed ({error}): correct it") from None

    def wrong_field(self, name: str, kind: str, row: object) -> UserError:
        """The sentence that asks for --field, or for another one."""
        if not isinstance(row, dict):
            return UserError(f"{name}: a line of {kind} is no object: give one object a line")
        fields = ", ".join(map(str, row))
        found = f"has no field {self.column}" if self.column else f"is {kind}, not plain text"
        return UserError(f"{name} {found}: say which of {fields} holds the text with --field NAME")

    def without_licence(self, name: str, lines: Iterator[str]) -> Iterator[str]:
        """The lines between Project Gutenberg's header and licence; all lines of another text."""
        head = list(islice(lines, LICENCE_FROM))
        start = next((i for i, line in enumerate(head) if HEADER_END.search(line)), None)
        if start is None:
            yield from chain(head, lines)
            return
        self.notes.append(f"{name}: Project Gutenberg's header and licence were left out")
        marker = enumerate(head[start : start + 3], start)  # a long title takes several lines
        last = next((i for i, line in marker if line.rstrip().endswith("***")), start)
        body = chain(head[last + 1 :], lines)
        first = next((line for line in body if line.strip()), "")
        credits = CREDITS.match(first.strip())  # a paragraph that says who produced the text
        body = dropwhile(str.strip, body) if credits else chain([first], body)
        yield from takewhile(lambda line: not FOOTER.search(line), body)


def hidden(name: Path) -> bool:
    """Whether a file, or a folder that it is in, is one of a program, such as .git."""
    return any(part.startswith(".") for part in name.parts)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what damaged and encrypted files lead to into a sentence for the user."""
    try:
        yield
    except UNREADABLE as error:
        cure = "fetch it again, or give its text as a plain file"
        raise UserError(f"{name} cannot be read ({error}): {cure}") from None


def physical_lines(text: Iterator[str], longest: int | None = LONG) -> Iterator[str]:
    """The lines of a text; one longer than ``longest`` in pieces, cut at blanks if it has any."""
    carry = ""
    for block in text:
        *lines, carry = (carry + block).split("\n")
        for line in lines:
            yield from cut(line, longest)
        *pieces, carry = cut(carry, longest)
        yield from pieces
    if carry:
        yield carry


def cut(line: str, longest: int | None) -> Iterator[str]:
    """Pieces of a long line, all but the last with ``JOIN`` at the end."""
    while longest and len(line) > longest:
        end = line.rfind(" ", longest // 2, longest) + 1 or longest
        yield line[:end] + JOIN
        line = line[end:]
    yield line


def first_line(head: str) -> str:
    """The first line of a text."""
    return head.partition("\n")[0].strip()


def record_kind(name: str, head: str, column: str | None) -> str | None:
    """ "JSON lines" or "CSV", by the file's name or its first line; None for plain text."""
    suffixes, first = set(Path(name.lower()).suffixes), first_line(head)
    cells = re.split(r'"?[,;\t]"?', first.strip('"'))
    named = len(cells) > 1 and column in cells
    if named or {".csv", ".tsv"} & suffixes:
        return "CSV"
    if {".jsonl", ".ndjson"} & suffixes or re.match(r'\{\s*"', first):
        return "JSON lines"
    return None
