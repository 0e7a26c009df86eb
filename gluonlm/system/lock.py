"""Locks: which process may write a folder."""

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from gluonlm.system.errors import UserError


class Lock:
    """The right to write a run's folder, which ends with the process, however that ends."""

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
                raise UserError(
                    f"{folder} is being trained by {holder}: wait until it ends, or choose another "
                    "folder"
                ) from None
            except OSError:  # a file system without locks
                pass
            with contextlib.suppress(FileNotFoundError):  # it may have been released meanwhile
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
