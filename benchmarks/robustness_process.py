"""One call of a command in a process of its own: with limits, or killed in the middle.

The harness imports everything once and computes nothing itself, so that each call is a fork of it:
a call takes the time of the command, not that of importing MXNet.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # hundreds of small calls

import onnxruntime  # noqa: E402, F401  here, so that no call must import it
import sacremoses  # noqa: E402, F401
from matplotlib.figure import Figure  # noqa: E402

from gluonlm.cli import sentence_of  # noqa: E402

COMMANDS = ("train", "evaluate", "generate", "score", "quantize", "export", "prune", "prepare")
MAIN = {name: importlib.import_module(f"gluonlm.{name}").main for name in COMMANDS}
Figure().savefig(io.BytesIO(), format="png")  # finds the fonts
MEMORY = 4 * 2**30  # bytes of addresses, beyond what the harness has
SECONDS = 300  # until a call counts as one that hangs; the machine may be busy
WRITING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}  # audit events


@dataclass(frozen=True)
class Outcome:
    """How a call ended: "fine", "sentence", "traceback", "hang" or "killed", and what it said."""

    kind: str
    said: str = ""


@dataclass(frozen=True)
class Place:
    """Where a call works.

    :param kill_at: kill the process before the file operation of that number; 0 for never.
    :param prepare: called in the child before the command, such as to mount a small disk.
    :param after: called in the child after the command, whatever its end.
    """

    folder: Path
    kill_at: int = 0
    prepare: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


def call(argv: list[str], place: Place) -> Outcome:
    """Run ``python -m gluonlm.COMMAND OPTIONS`` in a fork and wait for its end."""
    return finish(*start(argv, place))


def start(argv: list[str], place: Place) -> tuple[int, int]:
    """Begin such a call: the process and the end of a pipe that its outcome comes from."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if not process:
        os.close(reading)
        child(argv, place, writing)
    os.close(writing)
    return process, reading


def finish(process: int, reading: int) -> Outcome:
    """Wait for a call, and end it when it hangs."""
    deadline, received = time.monotonic() + SECONDS, b""
    while ready := select.select([reading], [], [], max(0, deadline - time.monotonic()))[0]:
        if not (more := os.read(reading, 2**16)):
            break
        received += more
    os.close(reading)
    if not ready:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not ready:
        return Outcome("hang")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return Outcome("killed" if number == signal.SIGKILL else "traceback", f"signal {number}")
    return Outcome(*json.loads(received))


def child(argv: list[str], place: Place, writing: int) -> None:
    """The call itself; never returns."""
    outcome = Outcome("traceback", "the harness itself failed")
    try:
        os.chdir(place.folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if place.prepare:
            place.prepare()
        if place.kill_at:
            kill_before(place.kill_at, place.folder)
        outcome = outcome_of(argv)
        if place.after:
            place.after()
    except BaseException:
        outcome = Outcome("traceback", traceback.format_exc()[-1500:])
    finally:
        os.write(writing, json.dumps([outcome.kind, outcome.said]).encode())
        os._exit(0)


def outcome_of(argv: list[str]) -> Outcome:
    """What a command does, told as :func:`gluonlm.cli.run` tells it."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            MAIN[argv[0]](argv[1:])
        except Exception as error:
            if sentence := sentence_of(error):
                return Outcome("sentence", sentence)
            return Outcome("traceback", traceback.format_exc()[-1500:])
    return Outcome("fine", output.getvalue())


def kill_before(number: int, folder: Path) -> None:
    """From now on, count operations that change files in a folder, and die before one of them."""
    count, home, fsync = 0, str(folder.resolve()), os.fsync

    def operate() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        if event not in WRITING and event != "open":
            return
        if event == "open" and (not isinstance(arguments[2], int) or not writes(arguments[2])):
            return
        path = arguments[0]
        if isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(home):
            operate()

    def counted_fsync(descriptor: int) -> None:
        operate()
        fsync(descriptor)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


def writes(flags: int) -> bool:
    """Whether a file is opened to be changed."""
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
