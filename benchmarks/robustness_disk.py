"""Small disks, each for one call: mounted where only that call sees it, or a limit on files."""

import ctypes
import os
import resource
import shutil
from pathlib import Path

from robustness_process import Place

DISKS = [4096 * pages for pages in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40)]
OLD = b"old" * 999
NEW_NAMESPACE, PRIVATE = 0x20000, 1 << 18 | 1 << 14  # CLONE_NEWNS; MS_PRIVATE and MS_REC
LIBC = ctypes.CDLL(None, use_errno=True)


def on_disk(folder: Path, size: int, old: str = "") -> Place:
    """A place with a folder ``disk`` of that many bytes; what is on it comes to ``left`` after.

    :param old: a file that is there before.
    """
    disk = folder / "disk"
    disk.mkdir()

    def prepare() -> None:
        if not mount(disk, size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, size // 4))
        if old:
            (disk / old).write_bytes(OLD)

    def after() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        shutil.copytree(disk, folder / "left")

    return Place(folder, prepare=prepare, after=after)


def mount(folder: Path, size: int) -> bool:
    """Mount a disk of memory, seen by this process alone; False if that is not permitted."""
    if not hasattr(LIBC, "unshare") or os.geteuid() or LIBC.unshare(NEW_NAMESPACE):
        return False
    if LIBC.mount(b"none", b"/", None, PRIVATE, None):
        return False
    return not LIBC.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={size}".encode())
