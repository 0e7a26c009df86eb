"""What is shown: output that cannot be written ends a command as it ends cat."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from gluonlm.cli import sentence_of
from gluonlm.system.errors import UserError
from gluonlm.system.files import check_output
from gluonlm.system.streams import printable

COMMAND = "from gluonlm.cli import run\nrun(lambda argv: {})"
MUCH = "print('word ' * 50_000)"


def command(body, **more):
    return [sys.executable, "-c", COMMAND.format(body)], {"text": True, **more}


def test_a_reader_that_has_gone_ends_a_command_silently():
    line, more = command(MUCH)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + signal.SIGPIPE  # as a shell reports it of cat


@pytest.mark.parametrize("body", [MUCH, "print('a word')"])
def test_a_full_disk_is_told(body):
    line, more = command(body)
    with open("/dev/full", "w") as full:  # noqa: SIM117
        ended = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, **more)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot write the output (No space left on device)")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "0<&-"])
def test_closed_streams(closed):
    body = "[print('out', *(s := __import__('sys')).stdin), s.stderr.write('err')]"
    line = f'exec "$0" -c "$1" {closed}'
    program = ["sh", "-c", line, sys.executable, COMMAND.format(body)]
    ended = subprocess.run(program, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0


def test_what_the_encoding_lacks_is_escaped():
    line, more = command(
        "print('\\u201cyes\\u201d')", env={**os.environ, "PYTHONIOENCODING": "latin-1"}
    )
    ended = subprocess.run(line, capture_output=True, **more)
    assert (ended.returncode, ended.stdout) == (0, "\\u201cyes\\u201d\n")


def test_what_steers_a_terminal_is_escaped():
    assert printable("a\x1b[31m\u202eb\nc") == "a\\x1b[31m\\u202eb\nc"


def test_errors_that_are_no_mistake_of_ours():
    assert sentence_of(UserError("so")) == "so"
    assert "memory does not suffice" in sentence_of(MemoryError())
    assert "memory does not suffice" in sentence_of(
        type("MXNetError", (RuntimeError,), {})("std::bad_alloc")
    )
    assert "memory does not suffice" in sentence_of(
        type("MXNetError", (RuntimeError,), {})("Resource temporarily unavailable")  # no thread
    )
    assert sentence_of(type("MXNetError", (RuntimeError,), {})("shape mismatch")) is None
    assert sentence_of(ValueError("ours")) is None
    assert sentence_of(RuntimeError("ours")) is None


def test_a_link_to_itself_and_a_folder_that_is_gone_are_told(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RuntimeError) as loop:
        check_output(tmp_path / "loop")
    assert sentence_of(loop.value).startswith("a link leads to itself")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as gone:
        Path.cwd()
    assert sentence_of(gone.value).startswith("the current folder is gone")


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
@pytest.mark.parametrize("imported", ["gluonlm/system/gpu", "mxnet/ndarray", "gluonlm/train"])
def test_a_command_that_is_ended_while_importing_says_so_in_one_line(
    tmp_path, number, word, imported
):
    line = [sys.executable, "-v", "-m", "gluonlm.train", "--help"]  # -v: says what it imports
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    heeds = partial(signal.signal, number, signal.SIG_DFL)  # a shell's background jobs ignore INT
    with subprocess.Popen(line, cwd=tmp_path, preexec_fn=heeds, **pipes) as process:
        while f"/{imported}" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(number)
        said = process.stderr.read()
    assert said.endswith(f"{word}\n")  # possibly in the middle of a line of -v's
    assert "Traceback" not in said
    assert process.returncode == 128 + number


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "2,3"},
        {"OMP_NUM_THREADS": "100000"},
        {"HOROVOD_LOCAL_SIZE": "abc"},
        {"HOME": None},
    ],
)
def test_odd_surroundings_do_not_end_the_import(tmp_path, variables):
    environment = {**os.environ, **variables}
    environment = {name: value for name, value in environment.items() if value is not None}
    line = [sys.executable, "-W", "ignore", "-m", "gluonlm.generate", "nothing"]
    ended = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: there is no file nothing")


def test_too_few_addresses_are_told_and_do_not_crash_the_import(tmp_path):
    line = f"ulimit -v 300000; exec {sys.executable} -m gluonlm.generate nothing"
    ended = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ulimit -v leaves this process 292 MiB of addresses")
