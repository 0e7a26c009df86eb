"""Downloads that can be trusted: several mirrors in turn, resumed after a break, verified before use.

pooch fetches and verifies; what it lacks is here: going on with a broken transfer in ``NAME.part``, mirrors in turn,
and one process at a time in a folder. A file under its own name is complete.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from gluonlm.system.errors import UserError
from gluonlm.system.files import write_atomically
from gluonlm.text.reader import progress_bar

TIMEOUT = (10.0, 30.0)  # seconds to connect, and of silence before a transfer counts as stalled
ATTEMPTS = 3  # in a row without a new byte before a mirror is given up
PIECE = 1 << 14  # bytes written at once: what a break can cost
LARGEST_MEMBER = (
    2 << 30
)  # bytes: no text of ours is larger, so such an archive is not the one we want
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
pooch.get_logger().setLevel(logging.WARNING)


@dataclass(frozen=True)
class File:
    """A file by its name in the cache and its checksum, ``sha256:...`` or ``sha1:...``."""

    name: str
    digest: str

    @property
    def stem(self) -> str:
        return Path(self.name).stem


@dataclass(frozen=True)
class Mirror:
    """A place that has a data set: a URL per file, with ``{}`` for its stem, or a zip with such members."""

    url: str
    member: str | None = None

    @property
    def archive(self) -> str:
        return self.url.rsplit("/", 1)[-1]


class MirrorFailed(Exception):
    """A mirror did not deliver: the URL and the reason."""

    def __init__(self, url: str, reason: str):
        super().__init__(f"{url}: {reason}")
        self.short = f"{urlsplit(url).hostname}: {reason}"


class Complete(Exception):
    """There is nothing after what we have."""


def correct(path: Path, digest: str) -> bool:
    """Whether the file is there with this checksum (``sha256:...`` or ``sha1:...``)."""
    algorithm, _, expected = digest.partition(":")
    try:
        return pooch.file_hash(str(path), alg=algorithm) == expected
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def fetch(name: str, folder: Path, files: Sequence[File], mirrors: Sequence[Mirror]) -> None:
    """Bring the files of data set ``name`` into ``folder``, from the first mirror that delivers them.

    :raises UserError: when no mirror does (it names what to fetch by hand), when a file that is there has a
        wrong checksum, or when the folder cannot be written.
    """
    if not missing(folder, files):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            reasons = from_mirrors(folder, files, mirrors)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): make room there or change its permissions, or "
            "set GLUONLM_DATA to another folder"
        ) from None
    if wanted := missing(folder, files):
        raise UserError(by_hand(name, folder, wanted, mirrors[0], reasons))


def missing(folder: Path, files: Sequence[File]) -> list[File]:
    """The files that are not there; raises UserError for one that is there and wrong."""
    absent = [file for file in files if not correct(folder / file.name, file.digest)]
    for file in absent:
        if (path := folder / file.name).exists():
            algorithm = file.digest.partition(":")[0]
            raise UserError(
                f"{path} is not the file expected (its {algorithm} differs): delete it and start again"
            )
    return absent


def from_mirrors(folder: Path, files: Sequence[File], mirrors: Sequence[Mirror]) -> list[str]:
    """Fetch what is missing from each mirror in turn; returns why those failed that did."""
    reasons = []
    for mirror in mirrors:
        wanted = missing(folder, files)  # another process may have fetched them while we waited
        if not wanted:
            break
        try:
            if mirror.member:
                from_archive(mirror, folder, wanted)
            else:
                for file in wanted:
                    download(mirror.url.format(file.stem), folder / file.name, file.digest)
        except MirrorFailed as failure:
            reasons.append(failure.short)
            if mirror != mirrors[-1]:
                print(f"{failure}; trying the next mirror", file=sys.stderr)
    return reasons


def by_hand(
    name: str, folder: Path, files: Sequence[File], mirror: Mirror, reasons: Sequence[str]
) -> str:
    """The sentence for someone without a network: what to fetch and where to put it."""
    if mirror.member:
        todo = f"fetch {mirror.url} by hand and save it as {folder / mirror.archive}"
    else:
        pairs = [f"{mirror.url.format(file.stem)} as {folder / file.name}" for file in files]
        todo = f"fetch by hand and save {' and '.join(pairs)}"
    return f"the data set {name} is not in {folder} and could not be downloaded ({'; '.join(reasons)}): {todo}"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes from downloading into the folder; wait for one that does."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is downloading into {folder}: waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, and so does the end of the process


def part_of(path: Path) -> Path:
    """Where a file grows until it is complete."""
    return path.with_name(path.name + ".part")


def download(url: str, path: Path, digest: str | None) -> None:
    """Fetch a URL to ``path``, going on with ``path.part`` if there is one; raises MirrorFailed.

    What came out with a wrong checksum is not kept. If some of it was left by an earlier transfer, which may have been
    of another file, it is fetched once more from the start.
    """
    part = part_of(path)
    resumed = part.exists()

    def transfer_all(url: str, target: str, _pooch) -> None:
        transfer(url, part)
        os.replace(part, target)

    try:
        pooch.retrieve(url, digest, path.name, path.parent, downloader=transfer_all)
    except ValueError:  # the checksum
        if not resumed:
            reason = f"its {digest.partition(':')[0]} is not that of the file expected"
            raise MirrorFailed(url, reason) from None
        download(url, path, digest)


def transfer(url: str, part: Path) -> None:
    """Transfer until the file is complete; a connection that breaks or stalls is taken up where it ended."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return request(url, part, before)
        except requests.RequestException as error:
            grown = part.exists() and part.stat().st_size > before
            failures = 1 if grown else failures + 1
            if failures >= ATTEMPTS:
                raise MirrorFailed(url, describe(error)) from None


def describe(error: requests.RequestException) -> str:
    """What went wrong with a request, in a few words."""
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return "no connection"


def request(url: str, part: Path, have: int) -> None:
    """Ask once: append what ``part`` lacks, or write it anew if the server does not know ranges."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})

    def check(response: requests.Response, **_) -> None:
        found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if response.status_code == 416 and have:
            if found and found[2] == str(have):
                raise Complete
            file.truncate(0)  # it is not a part of this file
            raise requests.exceptions.ChunkedEncodingError("range refused")
        if not response.ok:
            raise MirrorFailed(url, f"HTTP {response.status_code}")
        if response.status_code == 206 and not (found and found[1] == str(have)):
            raise MirrorFailed(url, "the server sent another part than asked for")
        if response.status_code != 206:
            file.truncate(0)

    with part.open("ab") as file, progress_bar(1, url.rsplit("/", 1)[-1]) as bar:
        options = {"timeout": TIMEOUT, "headers": headers, "hooks": {"response": check}}
        with contextlib.suppress(Complete):
            pooch.HTTPDownloader(bar, PIECE, **options)(url, file, None)


def from_archive(mirror: Mirror, folder: Path, wanted: Sequence[File]) -> None:
    """Fetch a zip, unless it was put there by hand, and unpack the files wanted; the zip is then deleted.

    As in :func:`download`, one that began with a part from an earlier transfer gets a second chance from the start.
    """
    archive = folder / mirror.archive
    resumed = part_of(archive).exists()
    if not archive.exists():
        download(mirror.url, archive, None)  # its members are verified, which is what counts
    try:
        with zipfile.ZipFile(archive) as zipped:
            for file in wanted:
                unpack(zipped, mirror.member.format(file.stem), folder / file.name, file.digest)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        if not resumed:
            raise MirrorFailed(mirror.url, f"not the archive expected ({error})") from None
        from_archive(mirror, folder, wanted)
    else:
        archive.unlink()


def unpack(zipped: zipfile.ZipFile, member: str, path: Path, digest: str) -> None:
    """Unpack the one member whose last path component is ``member`` to ``path``.

    The archive has no say in where that is, so that a member called ``../../x`` writes nothing.
    """
    found = [info for info in zipped.infolist() if info.filename.rsplit("/", 1)[-1] == member]
    if len(found) != 1:
        raise zipfile.BadZipFile(f"it has {len(found)} members {member}")
    if found[0].file_size > LARGEST_MEMBER:
        raise zipfile.BadZipFile(f"{member} is too large")
    part = part_of(path)
    with zipped.open(found[0]) as source, part.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if not correct(part, digest):
        part.unlink()
        raise zipfile.BadZipFile(f"the {digest.partition(':')[0]} of {member} differs")
    os.replace(part, path)


def write_verified(path: Path, content: bytes, digest: str) -> None:
    """Write a file made from others; raises UserError if it does not come out as it should."""
    algorithm, _, expected = digest.partition(":")
    if hashlib.new(algorithm, content).hexdigest() != expected:
        raise UserError(
            f"{path} did not come out as expected: the files it is made from differ from the usual ones"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    write_atomically(path, content)
