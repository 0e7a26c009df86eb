"""What is shown: streams that cannot be written end nothing that matters.

A command ends when its output cannot be written (:func:`gluonlm.cli.run`); training goes on:

>>> with safe_display():
...     print("epoch 1")        # even on a full disk, or to a pipe whose reader has gone
"""

import contextlib
import os
import signal
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of what is no character to see
INTERRUPTS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
HARMLESS = "\n\t\u00ad\u200c\u200d"  # line end, tab, soft hyphen, (non-)joiner, which texts have


class SafeStream:
    """A text stream that never fails: once it cannot be written, what is sent there is dropped."""

    def __init__(self, stream: TextIO | None):
        self.stream = stream or nowhere()

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:  # what the encoding does not have becomes an escape
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        broken, self.stream = self.stream, nowhere()
        discard(broken)
        if sys.stderr is not self:
            print(f"nothing is shown any more ({error.strerror}): going on", file=sys.stderr)


def nowhere() -> TextIO:
    """A stream that keeps nothing."""
    return open(os.devnull, "w")  # noqa: SIM115


def discard(stream: TextIO) -> None:
    """Drop what a stream holds, so that its flush at the end of the process succeeds."""
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
        return
    with contextlib.suppress(OSError, ValueError), nowhere() as empty:
        os.dup2(empty.fileno(), stream.fileno())


def open_streams() -> None:
    """See that all three streams are there, and that those for output escape what they lack."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, nowhere())
        with contextlib.suppress(AttributeError):  # not of a stream that somebody has put there
            getattr(sys, name).reconfigure(errors="backslashreplace")


def is_command() -> bool:
    """Whether we are imported for a command: by ``python -m gluonlm.COMMAND`` or ``gluonlm``."""
    program = sys.argv[0] if sys.argv else ""
    return program == "-m" or os.path.basename(program) == "gluonlm"


def quiet_interrupts() -> None:
    """Let Ctrl-C or TERM while a command is being imported end it with one line, no traceback."""
    for number in INTERRUPTS if is_command() else ():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, leave)


def leave(number: int, frame: object) -> None:
    """End the process at once, with one line."""
    with contextlib.suppress(OSError):
        os.write(2, f"{INTERRUPTS[number]}\n".encode())
    os._exit(128 + number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A with-block in which Ctrl-C and TERM raise KeyboardInterrupt where they would leave."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    ours = [number for number in INTERRUPTS if signal.getsignal(number) is leave]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, leave)


@contextlib.contextmanager
def safe_display() -> Iterator[None]:
    """A with-block in which showing something never fails."""
    with (
        contextlib.redirect_stdout(SafeStream(sys.stdout)),
        contextlib.redirect_stderr(SafeStream(sys.stderr)),
    ):
        yield


def counted(number: int, noun: str) -> str:
    """A number of things: 1 line, 2 lines."""
    return f"{number} {noun}{'s' * (number != 1)}"


def printable(text: str) -> str:
    """A text with escapes such as ``\\x1b`` for what would steer a terminal."""
    return text if text.isprintable() else "".join(map(shown, text))


def shown(character: str) -> str:
    """A character as it may be printed: itself, or its escape."""
    steers = unicodedata.category(character) in STEERING and character not in HARMLESS
    return character.encode("unicode_escape").decode() if steers else character
