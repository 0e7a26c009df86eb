"""A small part of benchmarks/robustness.py, and what its table says of the whole."""

import json
import subprocess
import sys

from scripts import ROOT, load_script

BAD = ("traceback", "hang", "other", "lost")

SCRIPT = ROOT / "benchmarks" / "robustness.py"


def test_a_small_part_of_all_trials_finds_nothing(tmp_path):
    out = tmp_path / "table.json"
    command = [sys.executable, str(SCRIPT), "--share", "0.02", "--seed", "7", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["failures"] == []
    assert sum(row["tried"] for row in result["endings"].values()) >= 40
    assert sum(row["sentence"] for row in result["endings"].values()) >= 15  # it damages something


def test_the_recorded_trials_found_nothing_and_the_guide_has_their_table():
    result = json.loads((ROOT / "results" / "robustness.json").read_text())
    endings = result["endings"]
    assert (
        sum(endings[name]["tried"] for name in load_script("benchmarks/robustness_files.py").KINDS)
        >= 2000
    )
    for name, row in endings.items():
        assert not any(row[column] for column in BAD), name
    shown = load_script("benchmarks/robustness.py").shown(endings)
    assert shown in (ROOT / "docs/guide/reliability.md").read_text()
