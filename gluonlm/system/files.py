"""Where files go, and writing them: whole or not at all, with a sentence for the user when the disk is full."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gluonlm.system.errors import UserError

MODEL_SUFFIXES = (".pt", ".params", ".safetensors", ".onnx")  # other names are those of folders


def cache_folder() -> Path:
    """The folder of downloads and compiled code: ``$GLUONLM_DATA``, ``$XDG_CACHE_HOME/gluonlm`` or ``~/.cache/gluonlm``."""
    if given := os.environ.get("GLUONLM_DATA"):
        return expanded(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "gluonlm"


def expanded(path: str) -> Path:
    """A path with ``~`` and ``~name`` written out.

    :raises UserError: when there is no such user.
    """
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
        what_to_do = (
            "free some space"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "choose another place"
        )
        raise UserError(
            f"cannot write {path} ({error.strerror}): {what_to_do}, then repeat the command or resume the run"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` such that a reader, or a crash at any moment, sees the old or the new whole file.

    :raises UserError: when the disk is full or the place cannot be written; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
