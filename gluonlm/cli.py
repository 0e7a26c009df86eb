"""What the command modules share: how a command ends, and where it computes."""

import sys
from collections.abc import Callable

from gluonlm.system.errors import UserError
from gluonlm.system.gpu import list_gpus


def run(main: Callable[[list[str]], object]) -> None:
    """Run a command's ``main(argv)`` and exit: 0 if it returns, 2 with one sentence for a ``UserError``."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone (`| head`): nobody is left to tell
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.filename is None:  # not about a file: a mistake of ours
            raise
        print(
            f"error: cannot use {error.filename} ({error.strerror}): correct the path or its rights",
            file=sys.stderr,
        )
        sys.exit(2)


def dashes(argv: list[str]) -> list[str]:
    """Spell long options with ``-`` for ``_``, so that ``--batch_size`` and ``--batch-size`` are the same."""
    spelled = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        spelled.append(
            name.replace("_", "-") + equals + value if name.startswith("--") else argument
        )
    return spelled


def contexts(gpu: str | None) -> list:
    """The MXNet contexts to compute on.

    :param gpu: comma-separated GPU numbers such as ``"0"`` or ``"0,1"``; None for the CPU.
    :raises UserError: when a number is malformed, or there is no such GPU, or MXNet cannot run on it.
    """
    import mxnet as mx

    if gpu is None:
        return [mx.cpu()]
    try:
        numbers = [int(number) for number in gpu.split(",")]
    except ValueError:
        raise UserError(f"--gpu {gpu or repr(gpu)}: give GPU numbers such as 0 or 0,1") from None
    if not mx.runtime.Features().is_enabled("CUDA"):
        raise UserError(
            f"--gpu {gpu}: the installed mxnet is built for the CPU; install the GPU build with "
            "`uv sync --no-group cpu --group cu112`, or leave the option out to use the CPU"
        )
    present = list_gpus()
    for number in numbers:
        if not 0 <= number < len(present):
            raise UserError(
                f"--gpu {gpu}: there is no GPU {number}, the driver sees {len(present)}"
            )
        if problem := present[number].problem:
            raise UserError(f"--gpu {gpu}: {problem}")
    return [mx.gpu(number) for number in numbers]
