"""The benchmark of data-parallel training at a tiny size, its constants against sums by hand."""

import json

import pytest
from scripts import load_script


@pytest.fixture
def benchmark():
    return load_script("benchmarks/scaling.py")


def test_the_constants_from_measured_steps(benchmark):
    cost = benchmark.fit(whole=0.22, half=0.12, served=0.42, size=10e6)
    assert list(cost.values()) == pytest.approx([0.02, 0.01, 10e6, 100e6])
    assert benchmark.predicted(cost, 4) == pytest.approx(0.02 + 0.05 + 2 * 40 / 100)


def test_the_benchmark_records_what_it_measured(benchmark, tmp_path, monkeypatch, capsys):
    """With made-up measurements: the runs themselves are those that test_distributed.py makes."""
    made_up = {"one": 0.22, "one_of_two_threads": 0.14, "half": 0.12, "served": 0.42, "two": 0.55}
    monkeypatch.setattr(
        benchmark, "measure", lambda name, folder, turn, *_: (made_up[name] * (1 + turn), 2_500_000)
    )
    benchmark.main(["--quick", "--rounds", "2", "--out", str(tmp_path / "scaling.json")])
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert result["seconds_per_step"]["two"] == [0.55, 1.1]
    assert result["two_workers_faster_than_one"] == {"low": 0.4, "median": 0.4, "high": 0.4}
    # medians are 1.5 times the first round: 0.03 + 0.15 + 2 * 0.3 s
    assert result["predicted"]["two"] == pytest.approx(0.78)
    assert result["cost"]["size"] == 1e7
    assert result["command"].startswith("python benchmarks/scaling.py --quick")
    assert "two: 550 ms a step" in capsys.readouterr().out


def test_the_benchmarks_text_has_every_word(benchmark, tmp_path):
    benchmark.write_text(tmp_path, 300, 1000)
    words = (tmp_path / "train.txt").read_text().split()
    assert len(words) == 1000
    assert len(set(words)) == 300
