"""Downloads that can be trusted: mirrors in turn, resumed after a break, verified before use.

pooch verifies and puts files in place; what it lacks is here: going on with a broken transfer in
``NAME.part``, mirrors in turn, and one process at a time in a folder. A file under its own name is
complete.
"""

import contextlib
import fcntl
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
from pooch.hashes import hash_algorithm, hash_matches

from gluonlm.system.errors import UserError
from gluonlm.text.reader import progress_bar

TIMEOUT = (10.0, 30.0)  # seconds to connect, and of silence before a transfer counts as stalled
ATTEMPTS = 3  # in a row without a new byte before a mirror is given up
PIECE = 1 << 14  # bytes written at once: what a break can cost
LARGEST_MEMBER = 2 << 30  # bytes: no text of ours is larger, so a larger one is not what we want
pooch.get_logger().setLevel("WARNING")


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
    """A place that has a data set: a URL per file, with ``{}`` for its stem, or of a zip."""

    url: str
    member: str | None = None  # of the zip, likewise

    @property
    def archive(self) -> str:
        return self.url.rsplit("/", 1)[-1]


class MirrorFailed(Exception):
    """A mirror did not deliver: the URL and the reason."""

    def __init__(self, url: str, reason: str):
        super().__init__(f"{url}: {reason}")
        self.short = f"{urlsplit(url).hostname}: {reason}"


def correct(path: Path, digest: str) -> bool:
    """Whether the file is there with this checksum (``sha256:...`` or ``sha1:...``)."""
    return path.is_file() and hash_matches(str(path), digest)


def fetch(name: str, folder: Path, files: Sequence[File], mirrors: Sequence[Mirror]) -> None:
    """Bring the files of data set ``name`` into ``folder``, from the first mirror that delivers; a
    UserError when none does, a file that is there is wrong, or the folder cannot be written."""
    if not missing(folder, files):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            reasons = from_mirrors(folder, files, mirrors)
    except OSError as error:
        advice = "make room there, change its permissions, or set GLUONLM_DATA to another folder"
        raise UserError(f"{folder} cannot be written ({error.strerror}): {advice}") from None
    if wanted := missing(folder, files):
        lacking = f"the data set {name} is not in {folder} and could not be downloaded"
        why, advice = "; ".join(reasons), by_hand(folder, wanted, mirrors[0])
        raise UserError(f"{lacking} ({why}): {advice}")


def missing(folder: Path, files: Sequence[File]) -> list[File]:
    """The files that are not there; raises UserError for one that is there and wrong."""
    absent = [file for file in files if not correct(folder / file.name, file.digest)]
    for file in absent:
        if (path := folder / file.name).exists():
            wrong = f"{path} is not the file expected (its {hash_algorithm(file.digest)} differs)"
            raise UserError(f"{wrong}: delete it and start again")
    return absent


def from_mirrors(folder: Path, files: Sequence[File], mirrors: Sequence[Mirror]) -> list[str]:
    """Fetch what is missing from each mirror in turn; returns why those failed that did."""
    reasons = []
    for mirror in mirrors:
        wanted = missing(folder, files)  # another process may have fetched them while we waited
        try:
            if wanted and mirror.member:
                download(mirror.url, folder / mirror.archive, None, partial(unpack, mirror, wanted))
            else:
                for file in wanted:
                    download(mirror.url.format(file.stem), folder / file.name, file.digest)
        except MirrorFailed as failure:
            reasons.append(failure.short)
            if mirror != mirrors[-1]:
                print(f"{failure}; trying the next mirror", file=sys.stderr)
    return reasons


def by_hand(folder: Path, files: Sequence[File], mirror: Mirror) -> str:
    """What to fetch and where to put it, for someone without a network."""
    if mirror.member:
        return f"fetch {mirror.url} by hand and save it as {folder / mirror.archive}"
    pairs = [f"{mirror.url.format(file.stem)} as {folder / file.name}" for file in files]
    return f"fetch by hand and save {' and '.join(pairs)}"


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


def download(url: str, path: Path, digest: str | None, process: Callable | None = None) -> None:
    """Fetch a URL to ``path``, unless that is there; goes on with ``path.part`` if there is one.

    What turns out to be wrong is not kept; if it began with a part of an earlier transfer, which
    may have been of another file, it is fetched once more from the start. ``process`` is pooch's
    "processor". Raises MirrorFailed when it cannot be had, or is not what was expected.
    """
    resumed = part_of(path).exists()
    get = partial(transfer, part_of(path))
    try:
        pooch.retrieve(url, digest, path.name, path.parent, processor=process, downloader=get)
        return
    except ValueError:  # pooch's for a checksum
        reason = f"its {hash_algorithm(digest)} is not that of the file expected"
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        reason = f"not the archive expected ({error})"
        path.unlink()
    if not resumed:
        raise MirrorFailed(url, reason)
    download(url, path, digest, process)


def transfer(part: Path, url: str, target: str, _pooch: object) -> None:
    """Transfer until the file is complete; a transfer that breaks is taken up where it ended."""
    failures = 0
    while failures < ATTEMPTS:
        have = part.stat().st_size if part.exists() else 0
        try:
            request(url, part, have)
            return os.replace(part, target)
        except requests.RequestException as error:
            grown = part.exists() and part.stat().st_size > have
            failures, reason = 1 if grown else failures + 1, describe(error)
    raise MirrorFailed(url, reason)


def describe(error: requests.RequestException) -> str:
    """What went wrong with a request, in a few words."""
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "no answer in time"
    broke = isinstance(error, requests.exceptions.ChunkedEncodingError)
    return "the connection broke" if broke else "no connection"


def request(url: str, part: Path, have: int) -> None:
    """Ask once: append what ``part`` lacks, or write it anew if the server does not know ranges."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    answer = requests.get(url, headers=headers, timeout=TIMEOUT, stream=True)
    with answer, part.open("ab") as file:
        sent = answer.headers.get("Content-Range", "")  # bytes FIRST-LAST/LENGTH
        if answer.status_code == 416 and have:
            if sent.endswith(f"/{have}"):
                return  # there is nothing after what we have
            file.truncate(0)  # it is not a part of this file
            raise requests.exceptions.ChunkedEncodingError("range refused")
        if not answer.ok:
            raise MirrorFailed(url, f"HTTP {answer.status_code}")
        if answer.status_code != 206:
            file.truncate(0)
        elif not sent.startswith(f"bytes {have}-"):
            raise MirrorFailed(url, "the server sent another part than asked for")
        with progress_bar(int(answer.headers.get("Content-Length", 0)) or None, part.stem) as bar:
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))


def unpack(mirror: Mirror, wanted: Sequence[File], archive: str, *_: object) -> None:
    """Unpack the files wanted beside a zip, whatever folders it names, and delete it."""
    with zipfile.ZipFile(archive) as zipped:
        for file in wanted:
            name, path = mirror.member.format(file.stem), Path(archive).with_name(file.name)
            found = [one for one in zipped.infolist() if one.filename.rsplit("/", 1)[-1] == name]
            if len(found) != 1:
                raise zipfile.BadZipFile(f"it has {len(found)} members {name}")
            if found[0].file_size > LARGEST_MEMBER:
                raise zipfile.BadZipFile(f"{name} is too large")
            with zipped.open(found[0]) as source, part_of(path).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            if not correct(part_of(path), file.digest):
                part_of(path).unlink()
                raise zipfile.BadZipFile(f"the {hash_algorithm(file.digest)} of {name} differs")
            os.replace(part_of(path), path)
    os.unlink(archive)
