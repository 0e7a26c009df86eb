"""The benchmark of the training step runs, compares equal work and records what it measured."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory_worker import in_new_process, peak_bytes
from scripts import ROOT, run_script

from gluonlm.system.machine import cpu_flags

BENCH = ROOT / "benchmarks" / "step.py"


def bench(*arguments, script="step.py"):
    """The benchmark in this process; its competitors have processes of their own."""
    return run_script(f"benchmarks/{script}", *arguments)


@pytest.fixture(scope="module", autouse=True)
def _no_torch():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GLUONLM_TORCH_PYTHON", raising=False)
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "step.json"
    with pytest.MonkeyPatch.context() as patch:  # what the user has set reaches no competitor
        patch.setenv("OMP_NUM_THREADS", "7")
        patch.setenv("KMP_BLOCKTIME", "infinite")
        ended = bench("--quick", "--out", path)
    assert ended.returncode == 0, ended.stderr
    return json.loads(path.read_text()), ended


def test_all_settings_are_measured(recorded):
    result, ended = recorded
    assert [one["mode"] for one in result["settings"]] == ["train", "sampled", "evaluate"]
    for one in result["settings"]:
        ours, stock = (one["rounds_tokens_per_second"][name] for name in ("ours", "stock"))
        assert len(ours) == len(stock) == 2
        ratio = one["ours_faster_than"]["stock"]
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["median"] == pytest.approx(
            sum(a / b for a, b in zip(ours, stock, strict=True)) / 2, rel=0.02
        )
        assert all(50 < one["peak_mib"][name] < 2000 for name in ("ours", "stock"))
    assert result["machine"]["mxnet"] == "1.9.1"
    assert result["command"].startswith("python benchmarks/step.py --quick")
    assert ended.stdout.count("\n| ") == 3


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
    ended = bench("--quick", "--torch-python", sys.executable)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --torch-python")


def test_a_competitor_that_fails_is_named(tmp_path):
    """A torch that can be imported and nothing else."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\ncase $1 in -c) exit 0;; esac\nexec {sys.executable} -c 'raise SystemExit(3)'\n"
    )
    python.chmod(0o755)
    ended = bench("--quick", "--torch-python", python)
    assert ended.returncode == 2
    assert "error: the competitor torch ended with code 3" in ended.stderr


def test_the_stock_competitor_knows_nothing_of_gluonlm():
    assert "gluonlm" not in (BENCH.parent / "step_stock.py").read_text().split('"""', 2)[2]


def test_beside_a_busy_core(tmp_path):
    out = tmp_path / "busy.json"
    one = {"tokens_per_second": {"ours": 5}, "of_the_best_fixed": {"median": 1.0}}
    kept = {"mode": "onnx", "units": 9, "busy_programs": dict.fromkeys("012", one)}
    out.write_text(json.dumps({"rows": [kept]}))
    ended = bench("--quick", "--out", out, script="busy.py")
    assert ended.returncode == 0, ended.stderr
    row, other = json.loads(out.read_text())["rows"]
    assert other == kept
    assert list(row["busy_programs"]) == ["0", "1", "2"]
    for one in row["busy_programs"].values():
        assert {"ours", "ours-1"} <= set(one["tokens_per_second"])
        ratio = one["of_the_best_fixed"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert "PyTorch is missing" in ended.stderr


def test_the_guide_shows_the_recorded_speeds_beside_busy_programs():
    shown = bench("--table", script="busy.py").stdout.strip()
    guide = (BENCH.parents[1] / "docs" / "guide" / "speed.md").read_text(encoding="utf-8")
    assert shown in re.sub("(?m)^  ", "", guide)


def quality(*arguments):
    return bench(*arguments, script="quality.py")


def stub_of_torch(path: Path) -> Path:
    """A Python that imports torch and answers to quality_torch.py with the lengths of the texts it
    is given."""
    lines = (
        "import json, sys, time; time.sleep(0.3)"  # it must take some time, or there is no ratio
    )
    lines += "; counts = [len(open(p).read().splitlines()) for p in sys.argv[2:5]]"
    answer = (
        "print(json.dumps(dict(test_perplexity=42, valid_perplexity=43, lines=counts, "
        "given=sys.argv[5:])))"
    )
    path.write_text(
        f'#!/bin/sh\ncase $1 in -c) exit 0;; esac\nexec {sys.executable} -c "{lines}; {answer}" '
        f'"$@"\n'
    )
    path.chmod(0o755)
    return path


def test_a_race_to_a_perplexity(tmp_path):
    for split, count in (("train", 60), ("valid", 12), ("test", 9)):
        (tmp_path / f"{split}.txt").write_text("it is a truth universally acknowledged\n" * count)
    out, python = tmp_path / "quality.json", stub_of_torch(tmp_path / "python")
    settings = ["--data", tmp_path, "--epochs", 1, "--units", 4, "--seed", 7, "--turn", 0.5]
    settings += ["--options", "--dropout 0.1", "--torch-python", python, "--out", out]
    ended = quality(*settings, "--torch-epochs", 2, "--published", 110.44)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(out.read_text())
    assert result["torch"]["lines"] == [60, 12, 9]  # the same sentences for both
    assert result["torch"]["given"] == ["--epochs", "2", "--units", "4", "--seed", "7"]
    assert result["test_perplexity"]["torch"] == 110.44
    assert result["torch_perplexity_is"] == "published"
    assert result["epochs"] == {"ours": 1, "torch": 2}
    assert 1 < result["test_perplexity"]["ours"] < 20
    assert result["ours_over_torch_time"] == pytest.approx(
        result["seconds"]["ours"] / result["seconds"]["torch"], 0.01
    )
    assert quality(*settings, "--torch-epochs", 6).returncode == 0
    assert json.loads(out.read_text())["test_perplexity"]["torch"] == 42


def test_a_race_that_cannot_be_run(tmp_path):
    ended = quality("--data", tmp_path)
    assert ended.returncode == 2
    assert "error: PyTorch is missing" in ended.stderr
    for epochs, problem in (
        (1, "give --published"),
        (0.5, "give --published"),
        (1.5, "whole number"),
        (0, "whole"),
        (7, "after 6"),
    ):
        ended = quality("--torch-epochs", epochs)
        assert ended.returncode == 2
        assert problem in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["generate.py", "--torch-python", "nowhere"], ["quantize.py", "--run", "nowhere"]]
)
def test_a_benchmark_that_cannot_be_run(arguments):
    script, *options = arguments
    ended = subprocess.run(
        [sys.executable, BENCH.with_name(script), *options], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "nowhere" in ended.stderr


def test_a_table_needs_a_record(tmp_path):
    ended = bench("--table", "--out", tmp_path / "none.json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert "measure first" in ended.stderr


def test_the_table_is_that_of_the_record(recorded, tmp_path):
    path = tmp_path / "step.json"
    path.write_text(json.dumps(recorded[0]))
    ended = bench("--table", "--out", path)
    assert ended.stdout.strip() == "\n".join(recorded[1].stdout.splitlines()[:5])
    assert all(one["limit_tokens_per_second"] > 0 for one in recorded[0]["settings"])


def test_settings_that_are_measured_again_replace_what_is_recorded_of_them(recorded, tmp_path):
    path, (first, *others) = tmp_path / "step.json", recorded[0]["settings"]
    kept = {**first, "vocab": 77, "command": "of another day"}
    foreign = {**first, "vocab": 78, "tokens_per_second": {"ours": 1.0}}
    path.write_text(
        json.dumps(
            {**recorded[0], "settings": [kept, foreign, *others, {**first, "rounds": "old"}]}
        )
    )
    ended = bench("--quick", "--modes", first["mode"], "--out", path)
    assert ended.returncode == 0, ended.stderr
    settings = json.loads(path.read_text())["settings"]
    assert settings[1] == kept
    assert settings[2:] == others
    assert (
        settings[0]["command"]
        == f"python benchmarks/step.py --quick --modes {first['mode']} --out {path}"
    )
    assert "rounds" not in settings[0]


def test_a_step_of_the_transformer_against_the_lstm(tmp_path):
    bench("--quick", "--out", tmp_path / "attention.json", script="attention.py")
    result = json.loads((tmp_path / "attention.json").read_text())
    assert result["times_as_long"]["ms"].keys() == {"LSTM", "Transformer"}
    assert result["command"].startswith("python benchmarks/attention.py --quick")


def test_the_qrnn_against_the_lstm_and_each_way_to_pool(tmp_path):
    ended = bench("--quick", "--out", tmp_path / "qrnn.json", script="qrnn.py")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "qrnn.json").read_text())
    (pooling,), (layer, _) = result["poolings"], result["layers"]
    assert set(pooling["ms"]) == {"operator", "numpy", "scan", "foreach", "loop"}
    assert set(pooling["operator_faster_than"]) == {"numpy", "scan", "foreach", "loop"}
    assert set(layer["faster_than_lstm"]) == {"window 1", "window 2"}
    assert result["training_step"]["ms"].keys() == {"awd", "qrnn"}
    assert result["command"].startswith("python benchmarks/qrnn.py --quick")


def test_what_weight_drop_costs(tmp_path):
    out = tmp_path / "weight_drop.json"
    ended = bench("--sizes", 24, "--rounds", 2, "--out", out, script="weight_drop.py")
    assert ended.returncode == 0, ended.stderr
    (one,) = json.loads(out.read_text())["runs"]
    recorded = json.loads((ROOT / "results" / "weight_drop.json").read_text())["runs"]
    works = {
        "a_new_mask_each_segment": True,
        "gradient_is_zero_where_dropped": True,
        "no_mask_in_evaluation": True,
    }
    # gluonnlp's does not: its masks are in the parameter itself
    raw = "data_gives_the_raw_weights_in_training"
    checks = {"ours": {**works, raw: True}, "gluonnlp": {**works, raw: False}}
    for figures in (one, *recorded):
        for name, expected in checks.items():
            times = figures[name].pop("times_slower")
            assert 0 < times["low"] <= times["high"]
            assert figures[name] == expected


ABLATIONS = [f"ablation.py --finetune runs/ptb-awd-400-{begun} --epochs 3" for begun in (5, 9)]


@pytest.mark.parametrize("line", ["step.py", "quality.py", "subwords.py", *ABLATIONS])
def test_the_guide_shows_the_recorded_table(line):
    script, *options = line.split()
    shown = bench(*options, "--table", script=script).stdout.strip()
    assert shown.count("\n") > 2
    pages = (ROOT / "docs" / "guide").glob("*.md")
    assert any(shown in page.read_text() for page in pages)


def test_memory_is_measured_epoch_by_epoch(tmp_path):
    ended = bench(
        "--quick", "--presets", "awd-ptb", "--epochs", 2, "--steps", 1,
        "--out", tmp_path / "memory.json", script="memory.py",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    one = json.loads((tmp_path / "memory.json").read_text())["presets"]["awd-ptb"]
    ours = one["mib"]["float32"]
    assert ours["peaks"][0] <= ours["peaks"][1] == ours["peak"] < 2000
    assert ours["growth"] == 0
    assert one["peak_over_torch"] == {}
    assert "PyTorch is missing" in ended.stderr


@pytest.mark.skipif("avx512_bf16" not in cpu_flags(), reason="this processor has no AVX512_BF16")
def test_precisions_are_compared(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("it is a truth universally acknowledged\n" * 60)
    out = tmp_path / "precision.json"
    options = ["--data", tmp_path, "--epochs", 1, "--units", 4, "--seeds", 1, "--out", out]
    ended = bench(*options, script="precision.py")
    assert ended.returncode == 0, ended.stderr
    (one,) = json.loads(out.read_text())["data"].values()
    rounded, exact = (one["perplexity"][kind]["1"]["test"] for kind in ("bfloat16", "float32"))
    assert one["bfloat16_over_float32"]["test"] == pytest.approx(rounded / exact, abs=1e-4)
    assert "| 1 |" in bench("--table", "--out", out, script="precision.py").stdout


def test_a_new_process_has_a_peak_of_its_own():
    held = np.ones(1 << 25)  # 256 MiB
    assert in_new_process(peak_bytes) < held.nbytes < peak_bytes()
