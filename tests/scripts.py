"""Scripts outside of the package, as modules."""

import importlib.util
import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

from gluonlm.system.errors import UserError

ROOT = Path(__file__).parents[1]


def load_script(path: str) -> ModuleType:
    """The module that a file makes, such as ``benchmarks/scaling.py``; a new one at each call."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(path: str, *arguments: object) -> CompletedProcess:
    """Run a script's ``main`` in this process, which has mxnet; it ends as a command does."""
    output, errors, line = io.StringIO(), io.StringIO(), [str(one) for one in arguments]
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            load_script(path).main(line)
            code = 0
        except UserError as error:
            print(f"error: {error}", file=errors)
            code = 2
    return CompletedProcess([path, *line], code, output.getvalue(), errors.getvalue())
