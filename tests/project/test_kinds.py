"""The page of kinds of text is written by running its commands."""

import pytest
from scripts import load_script, run_script

from gluonlm.system.errors import UserError


def test_a_kind_goes_from_raw_text_to_a_page(tmp_path):
    page = tmp_path / "kinds.md"
    ended = run_script("benchmarks/kinds.py", "--kinds", "dna", "--steps", "2", "--out", page)
    assert ended.returncode == 0, ended.stderr
    text = page.read_text()
    assert "| [DNA](#dna) | 0.00 % | " in text
    assert "python -m gluonlm.train --data data/dna" in text
    assert "data/dna: 6 entries in the vocabulary" in text
    assert "\tTATAAAGGCCAT\n```" in text


def test_a_command_that_fails_is_named(tmp_path):
    kinds = load_script("benchmarks/kinds.py")
    with pytest.raises(UserError, match="score nothing ended with 2: "):
        kinds.typed("python -m gluonlm.score nothing", tmp_path)
