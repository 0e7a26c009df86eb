"""python -m gluonlm names all commands."""

import contextlib
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gluonlm
from gluonlm import cli, completion
from gluonlm.__main__ import COMMANDS, summary

GLUONLM = str(Path(sys.executable).with_name("gluonlm"))  # what pip makes of [project.scripts]
FOLDER = Path(gluonlm.__file__).parent


def test_all_commands_are_named():
    runnable = {path.stem for path in FOLDER.glob("*.py") if "    run(" in path.read_text()}
    assert set(COMMANDS) == runnable
    ended = subprocess.run(
        [sys.executable, "-m", "gluonlm"], capture_output=True, text=True, check=True
    )
    for command in COMMANDS:
        assert f"python -m gluonlm.{command} " in ended.stdout
        assert summary(command) in ended.stdout


@pytest.mark.parametrize("program", [[sys.executable, "-m", "gluonlm"], [GLUONLM]])
def test_a_command_runs_by_its_name(program):
    ended = subprocess.run([*program, "doctor", "--help"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "usage: python -m gluonlm.doctor" in ended.stdout
    wrong = subprocess.run([*program, "doctor", "--no-such"], capture_output=True, text=True)
    assert wrong.returncode == 2


def test_an_unknown_command_is_told_in_a_sentence():
    ended = subprocess.run([GLUONLM, "trian"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: there is no command trian: give one of train, ")
    assert ended.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def script() -> str:
    """What ``gluonlm completion`` prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        completion.main([])
    return said.getvalue()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("gluonlm tr", ["train"]),
        ("gluonlm generate --seed", ["--seed-text", "--seed"]),
        ("gluonlm train --lr-f", ["--lr-factor"]),
        ("gluonlm train ru", []),  # the shell's own way: files
    ],
)
def test_the_shell_completes_commands_and_options(typed, offered, script):
    words = typed.split()
    line = f'COMP_WORDS=({typed}) COMP_CWORD={len(words) - 1}; _gluonlm; echo "${{COMPREPLY[@]}}"'
    shown = subprocess.run(["bash", "-c", f"{script}\n{line}"], capture_output=True, text=True)
    assert shown.stderr == ""
    assert shown.stdout.split() == offered


@pytest.mark.parametrize(
    ("found", "shown"),
    [("env/bin/python", "python"), ("/usr/bin/python", "env/bin/python"), (None, "env/bin/python")],
)
def test_the_advice_to_go_on_names_a_python_that_has_mxnet(found, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env/bin/python"))
    monkeypatch.setattr(cli.shutil, "which", lambda name: str(tmp_path / found) if found else None)
    assert cli.interpreter() == shown


def test_the_list_may_go_to_a_reader_that_has_gone():
    process = subprocess.Popen([GLUONLM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 128 + signal.SIGPIPE
