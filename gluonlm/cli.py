"""What commands share: how options are read, and how a command ends."""

import argparse
import contextlib
import dataclasses
import errno
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from gluonlm.config import NEEDS, PRECISIONS, Config, option
from gluonlm.system import streams
from gluonlm.system.errors import UserError

if TYPE_CHECKING:
    from gluonlm.inference.language_model import LanguageModel

# the first setting in a group of options -> the group's title
GROUPS = {"data": "data", "model": "model", "dropout": "regularization"}
GROUPS |= {"optimizer": "optimization", "max_batches": "run"}
OUT_OF_MEMORY = re.compile("alloc|memory|temporarily unavailable", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A command's options: a mistake is one sentence, and ``--batch_size`` is ``--batch-size``. The
    first line of ``doc``, the module's docstring, describes the command."""

    def __init__(self, command: str, doc: str | None, **more):
        prog, does = f"python -m gluonlm.{command}", (doc or "").partition("\n")[0]
        super().__init__(prog=prog, description=does, allow_abbrev=False, **more)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        """What argparse parses; options may also stand between the positional arguments."""
        args = sys.argv[1:] if args is None else args
        with contextlib.suppress(TypeError):  # one that excludes an option has no other beside it
            if "--" not in args:  # after which no option is one of this command
                return self.parse_intermixed_args(args, namespace)
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        """What argparse parses, each option spelled with ``-`` for ``_``."""
        return super().parse_known_args(dashes(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> None:
        """Raise a UserError instead of printing the usage and ending the process."""
        raise UserError(f"{message}: see {self.prog} --help")


def at_least(least: int | float) -> Callable[[str], int | float]:
    """The ``type`` of an option that takes numbers from ``least`` on, whole ones if that is one."""
    kind = type(least)

    def read(text: str) -> int | float:
        if not kind(text) >= least:  # nor NaN
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, not {text}")
        return kind(text)

    read.__name__ = kind.__name__  # for argparse's message: invalid int value
    return read


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Add ``--gpu`` and ``--cuda`` for one device."""
    parser.add_argument("--gpu", help="number of the GPU to use")
    same = "the same as --gpu 0"
    parser.add_argument("--cuda", dest="gpu", action="store_const", const="0", help=same)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision`` for a model that is only read."""
    faster = "numbers to multiply; bfloat16 is faster on a processor with AVX512_BF16, a little off"
    choices = {"choices": PRECISIONS, "default": PRECISIONS[0]}
    parser.add_argument("--precision", **choices, help=f"{faster} (default: {PRECISIONS[0]})")


def open_model(
    path: str | Path,
    gpu: str | None,
    onnx: str | None = None,
    features: bool = False,
    precision: str = PRECISIONS[0],
) -> "LanguageModel":
    """The model at ``path``, or in the file ``onnx`` whatever its name, on a GPU or the CPU."""
    # here, because not all commands need a model
    from gluonlm.onnx.load import load, load_onnx
    from gluonlm.system.gpu import contexts

    if onnx and gpu is not None:
        raise UserError("--onnx computes on the CPU: leave out --gpu and --cuda")
    if onnx:
        return load_onnx(onnx, None, features, precision)
    return load(path, None if gpu is None else contexts(gpu)[0], features, precision)


def add_options(parser: argparse.ArgumentParser) -> dict[str, argparse._ArgumentGroup]:
    """Add one option per setting of Config, in groups, which are returned by their titles."""
    hints, groups = get_type_hints(Config), {}
    for field in dataclasses.fields(Config):
        kind = hints[field.name]
        if title := GROUPS.get(field.name):
            group = groups[title] = parser.add_argument_group(title)
        shown = field.metadata["help"]
        if "needs" in field.metadata:
            shown += f" (with {NEEDS[field.metadata['needs']][1]})"
        if field.default not in (None, ()):
            shown += f" (default: {field.default})"
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": shown}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            kinds = [one for one in get_args(kind) or (kind,) if isinstance(one, type)]
            options["type"] = reader(kinds[0], type(None) in kinds or get_origin(kind) is tuple)
            options["nargs"] = "+" if get_origin(kind) is tuple else None
            if "bare" in field.metadata:
                options |= {"nargs": "?", "const": field.metadata["bare"]}
            options["metavar"] = "|".join(field.metadata.get("choices", ())) or None
        group.add_argument(option(field.name), *field.metadata["aliases"], **options)
    return groups


def reader(kind: type, optional: bool) -> Callable[[str], Any]:
    """What turns an option's text into a value; ``none`` unsets what need not be there."""

    def read(text: str) -> Any:
        return None if optional and text == "none" else kind(text)

    read.__name__ = kind.__name__
    return read


def run(main: Callable[[list[str]], object]) -> None:
    """Run a command's ``main(argv)`` and exit.

    The exit code is 0 if it returns, 2 with one sentence when :func:`sentence_of` has one, 130
    after Ctrl-C, 143 after TERM, and as for ``cat`` 141 when the reader of the output has gone.
    """
    streams.open_streams()
    try:
        with streams.interruptible():
            main(sys.argv[1:])
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        end(streams.INTERRUPTS[number], 128 + number)
    except BrokenPipeError:  # `| head`: nobody is left to tell
        end("", 128 + signal.SIGPIPE)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:  # a mistake of ours
            raise
        end(f"error: {sentence}", 2)


def sentence_of(error: Exception) -> str | None:
    """What a user is told about an error that is no mistake of ours; None for others."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or (
        type(error).__name__ == "MXNetError" and OUT_OF_MEMORY.search(str(error))
    ):
        return "the memory does not suffice: use a smaller model, batch size or bptt"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # pathlib's
        return f"a link leads to itself ({error}): correct the path"
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.filename is not None:
        return f"cannot use {error.filename} ({error.strerror}): correct the path or its rights"
    if error.errno == errno.ENOENT:
        return "the current folder is gone: change to another one"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
        return f"cannot write the output ({error.strerror}): send it to another place"
    return None


def interpreter() -> str:
    """This Python as a shell finds it: by name in an environment that is active, else its path."""
    here, found = Path(sys.executable), shutil.which("python")
    if found and Path(found).parent == here.parent:
        return "python"
    inside = here.is_relative_to(Path.cwd())
    return shlex.quote(str(here.relative_to(Path.cwd()) if inside else here))


def end(message: str, code: int) -> None:
    """Exit with a message on stderr, whatever state the streams are in."""
    streams.discard(sys.stdout)
    if message:
        print(streams.printable(message), file=streams.SafeStream(sys.stderr), flush=True)
    sys.exit(code)


def dashes(argv: Sequence[str]) -> list[str]:
    """The arguments with ``-`` for ``_`` in long options; values stay as they are."""
    return [re.sub("^--[^=]*", lambda name: name[0].replace("_", "-"), one) for one in argv]
