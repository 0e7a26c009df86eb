"""The benchmark of the training step runs, compares equal work and records what it measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "benchmarks" / "step.py"


def bench(*arguments, script=BENCH, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "GLUONLM_TORCH_PYTHON"}
    command = [sys.executable, str(script), "--quick", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment | variables)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "step.json"
    # what the user has set reaches no competitor
    ended = bench("--out", path, OMP_NUM_THREADS="7", KMP_BLOCKTIME="infinite")
    assert ended.returncode == 0, ended.stderr
    return json.loads(path.read_text()), ended


def test_all_settings_are_measured(recorded):
    result, ended = recorded
    assert [one["mode"] for one in result["settings"]] == ["train", "evaluate"]
    for one in result["settings"]:
        ours, stock = (one["rounds_tokens_per_second"][name] for name in ("ours", "stock"))
        assert len(ours) == len(stock) == 2
        ratio = one["ours_faster_than"]["stock"]
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["median"] == pytest.approx(sum(a / b for a, b in zip(ours, stock, strict=True)) / 2, rel=0.02)
        assert all(50 < one["peak_mib"][name] < 2000 for name in ("ours", "stock"))
    assert result["machine"]["mxnet"] == "1.9.1"
    assert result["command"].startswith("python benchmarks/step.py --quick")
    assert ended.stdout.count("\n| ") == 2


def test_each_runs_in_its_own_surroundings(recorded):
    facts = recorded[0]["settings"][0]["facts"]
    assert facts["ours"]["threads"] != 7
    assert facts["stock"]["threads"] == "as MXNet chooses"


def test_a_missing_torch_is_said_clearly(recorded):
    result, ended = recorded
    assert result["torch"] is False
    assert "PyTorch is missing" in ended.stderr
    assert "--torch-python" in ended.stderr
    assert "No column for PyTorch" in ended.stdout


def test_a_python_without_torch():
    ended = bench("--torch-python", sys.executable)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --torch-python")


def test_a_competitor_that_fails_is_named(tmp_path):
    """A torch that can be imported and nothing else."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncase $1 in -c) exit 0;; esac\nexec {sys.executable} -c 'raise SystemExit(3)'\n")
    python.chmod(0o755)
    ended = bench("--torch-python", python)
    assert ended.returncode == 2
    assert "error: the competitor torch ended with code 3" in ended.stderr


def test_the_stock_competitor_knows_nothing_of_gluonlm():
    assert "gluonlm" not in (BENCH.parent / "step_stock.py").read_text().split('"""', 2)[2]


def test_beside_a_busy_core(tmp_path):
    ended = bench("--out", tmp_path / "busy.json", script=BENCH.with_name("busy.py"))
    assert ended.returncode == 0, ended.stderr
    slower = json.loads((tmp_path / "busy.json").read_text())["times_slower"]
    assert set(slower) == {"ours", "stock"}
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in slower.values())
    assert ended.stdout.count("times slower") == 2
    assert "PyTorch is missing" in ended.stderr
