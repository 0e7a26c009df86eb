"""What a file is that does not read as UTF-8 text, by its bytes, and what to do about it.

>>> complaint(Path("novel.txt"), b"caf\\xe9 noir", 3)
UserError('novel.txt is not UTF-8 but probably Windows-1252 ...')
"""

import codecs
import re
from pathlib import Path

from gluonlm.system.errors import UserError

HEAD = 1 << 16  # bytes that are looked at
COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
OTHERS = {
    b"%PDF": "a PDF document",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\xd0\xcf\x11\xe0": "an old Word document",
    b"{\\rtf": "a rich-text document",
}
COMMON_CHINESE = re.compile("[的一是不了在人有我他这中大来上国]")


def compression(head: bytes) -> str | None:
    """The kind of compressed file that begins so; None if it is none."""
    return next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)


def other_format(head: bytes) -> str | None:
    """The kind of file of another program that begins so; None if it is none of those known."""
    return next((kind for magic, kind in OTHERS.items() if head.startswith(magic)), None)


def other_kind(head: bytes, start: int = 0) -> str | None:
    """What a file is that is no text in UTF-8, with what to do; None if it may be one. ``head`` are
    its bytes from the offset ``start`` on."""
    if start == 0:
        if kind := compression(head):
            return f"compressed with {kind}: unpack it, or {prepared()}"
        if kind := other_format(head):
            return f"{kind}: give its text as a plain file"
        if head[257:262] == b"ustar":
            return "a tar archive: unpack it, and give the folder"
        if encoding := utf_16(head):
            return f"text in {encoding.upper()}: {converted(encoding)}"
    if (zero := head.find(b"\0")) >= 0:
        offset = f"there is a zero byte at offset {start + zero}"
        return f"not a text file: {offset}; give plain text in UTF-8"
    return None


def utf_16(head: bytes) -> str | None:
    """The kind of UTF-16 that begins so, by its mark or the zero bytes of most letters."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        zeros, others = head[first::2].count(0), head[1 - first :: 2].count(0)
        if len(head) >= 8 and zeros > 0.4 * len(head) / 2 and not others:
            return encoding
    return None


def prepared(encoding: str | None = None) -> str:
    """The command that reads such a file."""
    option = f" --encoding {encoding}" if encoding else ""
    return f"make a data set of it with `python -m gluonlm.prepare FILE{option} --out FOLDER`"


def converted(encoding: str) -> str:
    """What to do with a text in another encoding."""
    theirs = encoding.replace("16-", "16")  # iconv's name
    return f"convert it with `iconv -f {theirs} -t utf-8`, or {prepared(encoding)}"


def guess(data: bytes) -> str | None:
    """The likely encoding of bytes that are not UTF-8; None if they fit no usual one."""
    try:
        text = data.decode("gb18030", errors="ignore")
        if data.decode("gbk", errors="replace").count("\ufffd") < len(text) / 100:
            chinese = sum("\u4e00" <= char <= "\u9fff" for char in text)
            if chinese > 0.5 * sum(byte > 127 for byte in data) / 2 and COMMON_CHINESE.search(text):
                return "gb18030"  # has all of GBK
        data.decode("cp1252")
        mostly_latin = sum(byte > 127 for byte in data) <= len(re.findall(b"[A-Za-z]", data))
        return "cp1252" if mostly_latin else None
    except UnicodeDecodeError:
        return None


def complaint(path: Path | str, data: bytes, offset: int, line: int) -> UserError:
    """The sentence for a file that is not in UTF-8; ``data`` are the bytes around the first one,
    at ``offset``, that is no part of a character."""
    where = f"the byte at offset {offset} (line {line})"
    found = f"{path} is not UTF-8: {where} is no part of a character"
    good = data.decode(errors="ignore").encode()
    cut = len(data) < 4 and not codecs.getincrementaldecoder("utf-8")("ignore").decode(data)
    if cut or sum(byte > 127 for byte in good) > 0.9 * sum(byte > 127 for byte in data):
        but = "with which the file ends" if cut else "but the text around it is UTF-8"
        cure = "correct it, or leave such bytes out with `iconv -c -f utf-8 -t utf-8`"
        return UserError(f"{found}, {but}: {cure}")
    if encoding := guess(data):
        name = {"gb18030": "GBK (Chinese)", "cp1252": "Windows-1252 (Latin letters)"}[encoding]
        return UserError(f"{found}; it is probably {name}: {converted(encoding)}")
    others = "cp1251 or koi8-r of Russian, big5, shift_jis or cp949"
    return UserError(f"{found}: find out its encoding, such as {others}, and {prepared('NAME')}")
