"""The one exception for mistakes that a user can mend, and an end that waits for nothing."""

import importlib.util
import os
import sys
import traceback
from typing import NoReturn


class UserError(Exception):
    """Bad input, settings or surroundings: what is wrong and what to do, in one sentence.

    Commands print it as ``error: <sentence>`` and exit with code 2, without a traceback.
    """


def require(extra: str, *packages: str) -> None:
    """Raise a UserError unless these packages are installed, which belong to an optional extra."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            advice = f"install it with `uv sync --group {extra}` or `pip install {package}`"
            raise UserError(f"this needs the package {package}: {advice}")


def exit_now(error: BaseException) -> NoReturn:
    """Print an error and end the process at once, without waiting for threads or other workers."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)
