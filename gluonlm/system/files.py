"""Where files go, and writing them: whole or not at all, or a sentence when that fails; locks."""

import errno
import fcntl
import itertools
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gluonlm.system.errors import UserError

MODEL_SUFFIXES = (".pt", ".params", ".safetensors")  # other names are those of folders
STREAMS = (Path("/dev"), Path("/dev/fd"))  # but /dev/shm, deeper down, has files like any other
RUN_FILES = ("config.json", "log.jsonl", "curve.png", "result.json")
RUN_FILES += ("best.safetensors", "last.safetensors")
HEADER_BYTES = 100_000_000  # the most that safetensors allows
NUMBERS = itertools.count()  # of this process's temporary files


def cache_folder() -> Path:
    """The folder of downloads: ``$GLUONLM_DATA``, or ``gluonlm`` in ``$XDG_CACHE_HOME`` or
    ``~/.cache``."""
    if given := os.environ.get("GLUONLM_DATA"):
        return expanded(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gluonlm"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir(), f"gluonlm-{os.getuid()}")


def expanded(path: str) -> Path:
    """A path with ``~`` and ``~name`` written out; a UserError when there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user: write the path out") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` (disk full, no permission) into a sentence for the user."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"{'free some space' if full else 'choose another place'}, then repeat the command"
        sentence = f"cannot write {path} ({error.strerror}): {advice} or resume the run"
        raise UserError(sentence) from error


def write_output(path: Path, content: bytes | str) -> None:
    """Write what a command was asked to write; everything that a user can name goes through here.
    Raises a UserError as :func:`check_output` and :func:`write_atomically`."""
    make_way(path)
    if isinstance(content, str):  # with escapes for the bytes of a command line that are no UTF-8
        content = content.encode(errors="backslashreplace")
    write_atomically(path, content)


def check_model_name(path: Path) -> None:
    """Raise a UserError for a name that says that a model's file is one for ONNX Runtime."""
    if path.suffix == ".onnx":
        other = path.with_suffix(".safetensors")
        raise UserError(f"{path} would be no ONNX file, as its name says: choose {other} or so")


def make_way(path: Path) -> None:
    """Make the folder of an output that may be written, and say so, for its name may be mistyped; a
    UserError if it may not be written."""
    check_output(path)
    if not path.parent.exists():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        print(f"note: the folder {path.parent} is new", file=sys.stderr)


def check_output(path: Path) -> None:
    """Say before the work, and not after it, that :func:`write_output` would fail; a UserError when
    there is a folder, or what training has made, or nothing can be written."""
    with writing(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a file")
        if is_device(path):
            return
        if of_training(path.resolve()):
            lost = f"{path} is what a training has made, and would be lost"
            raise UserError(f"{lost}: choose another name")
        place = next(one for one in path.absolute().parents if one.exists())
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise UserError(f"cannot write {path} (no access to {place}): choose another place")


def is_device(path: Path) -> bool:
    """Whether what is written there goes to a device, a pipe, or a stream of this process."""
    path = path.absolute()
    of_process = path.parts[1] == "proc" or path.parent in STREAMS
    return of_process or (path.exists() and not path.is_file())


def of_training(path: Path) -> bool:
    """Whether a file is one that only training makes: of a run's folder, or a model in float32."""
    if not path.is_file():
        return False
    settings = path.with_name("config.json")
    if path.name in RUN_FILES and settings.is_file() and b'"bptt": ' in settings.read_bytes():
        return True
    with path.open("rb") as file:  # the header of a safetensors file, even if the rest is damaged
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, HEADER_BYTES)) if size < path.stat().st_size else b""
    return b'"format":"gluonlm ' in header and b'"quantized":' not in header


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file such that a reader, or a crash, sees the whole old or the whole new one; a
    UserError when that fails. A device or a pipe is written to."""
    with writing(path):
        if is_device(path):
            with open(path, "ab", buffering=0) as file:
                file.write(content)
            return
        path = path.resolve()  # a link stays one
        temporary = path.with_name(f".gluonlm-{os.getpid()}-{next(NUMBERS)}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class Lock:
    """The right to write a folder, which ends with the process, however that ends."""

    def __init__(self, folder: Path):
        self.path = folder / ".lock"
        while True:
            self.file = open(self.path, "a+")  # noqa: SIM115
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.file.seek(0)
                holder = self.file.read().strip() or "another process"
                self.file.close()
                advice = "wait until it ends, or choose another folder"
                raise UserError(f"{folder} is being written by {holder}: {advice}") from None
            except OSError:  # a file system without locks
                pass
            with suppress(FileNotFoundError):  # it may have been released meanwhile
                if os.path.samestat(os.fstat(self.file.fileno()), self.path.stat()):
                    break
            self.file.close()
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self.file.flush()

    def release(self) -> None:
        """Let others have it."""
        self.path.unlink(missing_ok=True)
        self.file.close()
