"""An operator in C for MXNet: compiled once for this processor, kept in the cache folder, loaded on first use.

    >>> load_operators("fo_pool")                               # gluonlm/model/fo_pool.c
    >>> h, c = mx.nd.gluonlm_fo_pool(gates, c0)

MXNet loads such a library with ``mx.library.load``; the operator then works in NDArray code and in graphs alike.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from gluonlm.system.errors import UserError
from gluonlm.system.files import cache_folder, writing
from gluonlm.system.machine import cpu_flags

FOLDER = Path(__file__).parents[1] / "model"
FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-fPIC",
    "-shared",
)
OPENMP = ("-fopenmp",) if platform.system() == "Linux" else ()  # Apple's compiler has none


@cache
def load_operators(name: str) -> None:
    """Make the operators of gluonlm/model/NAME.c known to MXNet, in this process once and for all.

    :raises UserError: when there is no C compiler, it fails, or the cache folder cannot be written.
    """
    import mxnet as mx

    mx.library.load(str(compiled(FOLDER / f"{name}.c")), verbose=False)


def compiled(source: Path) -> Path:
    """The library made from a C file, compiled unless that was done before with the same compiler for the same CPU.

    :raises UserError: as :func:`load_operators`.
    """
    compiler = find_compiler()
    command = [compiler, *FLAGS, *OPENMP]
    made_for = [
        *command,
        platform.machine(),
        *sorted(cpu_flags()),
    ]  # a home folder may serve several machines
    content = source.read_bytes() + b"".join(
        path.read_bytes() for path in sorted(source.parent.glob("*.h"))
    )
    key = hashlib.sha256(content + " ".join(made_for).encode()).hexdigest()[:16]
    library = cache_folder() / "native" / f"{source.stem}-{key}.so"
    if library.exists():
        return library
    with writing(library):
        library.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=library.parent)
    with temporary as folder:
        made = Path(folder, library.name)
        result = subprocess.run(
            [*command, "-o", str(made), str(source), "-lm"], capture_output=True, text=True
        )
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[0]
            raise UserError(
                f"{compiler} cannot compile {source} ({reason}): set CC to a working C compiler"
            )
        os.replace(made, library)  # whole or not at all, whoever else compiles at the same time
    return library


def find_compiler() -> str:
    """The C compiler: the one named by ``CC``, or the usual ones.

    :raises UserError: when there is none.
    """
    names = (os.environ["CC"],) if os.environ.get("CC") else ("cc", "gcc", "clang")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise UserError(
            f"a QRNN needs a C compiler, and there is no {' or '.join(names)}: install one (Debian, Ubuntu: apt "
            "install gcc), or choose another --model"
        )
    return found
