"""An operator in C for MXNet: compiled once for this processor, kept, loaded on first use.

    >>> load_operators("fo_pool")                               # gluonlm/model/fo_pool.c
    >>> h, c = mx.nd.gluonlm_fo_pool(gates, c0)

The operator then works in NDArray code and in graphs alike. Code that is loaded must be our own and
whole: it lies in ``~/.cache/gluonlm/native`` (``$XDG_CACHE_HOME``), not in a data folder that
others may write, belongs to the user alone, and has a digest of its content in its name.
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from gluonlm.system.errors import UserError
from gluonlm.system.files import writing
from gluonlm.system.machine import cpu_flags

FOLDER = Path(__file__).parents[1] / "model"
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
LIBRARY = ("-fvisibility=hidden", "-fPIC", "-shared")
OPENMP = ("-fopenmp",) if platform.system() == "Linux" else ()  # Apple's compiler has none


@cache
def load_operators(name: str) -> None:
    """Make the operators of gluonlm/model/NAME.c known to MXNet in this process; a UserError when
    there is no C compiler, it fails, or the cache folder cannot be written."""
    import mxnet as mx

    mx.library.load(str(compiled(FOLDER / f"{name}.c")), verbose=False)


def compiled(source: Path) -> Path:
    """The library made from a C file, compiled unless the same compiler did so for the same CPU;
    raises a UserError as :func:`load_operators`."""
    compiler = find_compiler()
    command = [compiler, *FLAGS, *LIBRARY, *OPENMP]
    # a home folder may serve several machines
    made_for = " ".join([*command, platform.machine(), *sorted(cpu_flags())])
    files = [source, *sorted(source.parent.glob("*.h"))]
    content = b"".join(path.read_bytes() for path in files) + made_for.encode()
    key = hashlib.sha256(content).hexdigest()[:16]
    cache = own_cache()
    known = cache.glob(f"{source.stem}-{key}-*.so")
    if library := next(filter(is_intact, known), None):
        return library
    with writing(cache):
        temporary = tempfile.TemporaryDirectory(dir=cache)
    with temporary as folder:
        made = Path(folder, "made.so")
        command += ["-o", str(made), str(source), "-lm"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[0]
            advice = "set CC to a working C compiler"
            raise UserError(f"{compiler} cannot compile {source} ({reason}): {advice}")
        made.chmod(0o700)
        library = cache / f"{source.stem}-{key}-{digest_of(made)}.so"
        os.replace(made, library)  # whole or not at all, whoever else compiles at the same time
    return library


def own_cache() -> Path:
    """The folder of compiled code, which this user alone may write; a UserError when there is none
    and it cannot be made, or it is not safe."""
    advice = "set XDG_CACHE_HOME to a folder that only you can write"
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise UserError(f"there is no home folder for compiled code: {advice}") from None
    folder = home / "gluonlm" / "native"
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(folder):
            raise UserError(f"{folder} can be written by others: {advice}")
    return folder


def is_private(path: Path) -> bool:
    """Whether a file or folder is this user's, no link, and nobody else may write it."""
    status = path.lstat()
    kind = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return kind and status.st_uid == os.getuid() and not status.st_mode & 0o022


def is_intact(library: Path) -> bool:
    """Whether a library is ours and has the content that its name says."""
    return is_private(library) and library.stem.endswith(f"-{digest_of(library)}")


def digest_of(path: Path) -> str:
    """A number that changes with any byte of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def find_compiler() -> str:
    """The C compiler named by ``CC``, or the first of the usual ones; a UserError without."""
    names = (os.environ["CC"],) if os.environ.get("CC") else ("cc", "gcc", "clang")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        lacking = f"a QRNN or bfloat16 needs a C compiler, and there is no {' or '.join(names)}"
        advice = "install one (Debian, Ubuntu: apt install gcc), or do without"
        raise UserError(f"{lacking}: {advice}")
    return found
