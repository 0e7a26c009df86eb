"""python -m gluonlm names all commands."""

import subprocess
import sys
from pathlib import Path

import gluonlm
from gluonlm.__main__ import COMMANDS, summary

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
