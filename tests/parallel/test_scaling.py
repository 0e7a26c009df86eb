"""The cost model of data-parallel training against sums done by hand, and its benchmark at a tiny
size."""

import json

import pytest
from scripts import load_script

from gluonlm.parallel.cost import TWO_BITS, Cost, best_workers, fit

COST = Cost(fixed=0.02, column=0.01, size=10e6, bandwidth=100e6, latency=0.001)


@pytest.mark.parametrize(
    ("workers", "servers", "compression", "seconds"),
    [
        (1, None, 1.0, 0.02 + 0.2),
        (2, None, 1.0, 0.02 + 0.1 + 0.001 + 2 * 10 / 100),
        (4, 4, 1.0, 0.02 + 0.05 + 0.001 + 2 * 10 / 100),
        (4, 1, 1.0, 0.02 + 0.05 + 0.001 + 2 * 40 / 100),
        (4, 8, 1.0, 0.02 + 0.05 + 0.001 + 2 * 10 / 100),
        (4, None, TWO_BITS, 0.02 + 0.05 + 0.001 + (1 + 1 / 16) * 10 / 100),
    ],
)
def test_a_step_by_hand(workers, servers, compression, seconds):
    assert COST.step(20, workers, servers, compression) == pytest.approx(seconds)
    assert COST.speedup(20, workers, servers, compression) == pytest.approx(0.22 / seconds)


def test_when_more_workers_stop_paying():
    slow, fast = Cost(0.02, 0.01, 10e6, 95e6), Cost(0.02, 0.01, 10e6, 1e9)
    assert best_workers(slow, 20) == 1  # 0.21 s of exchange for at most 0.19 s less of computing
    assert best_workers(slow, 20, compression=TWO_BITS) == 20
    assert best_workers(fast, 20) == 20
    # with one server: 0.2 / W + 0.02 W is least at the root of 10, of the divisors of 20 at 4
    # (0.13; 0.14 at 2 and 5)
    assert best_workers(fast, 20, servers=1) == 4


def test_the_constants_from_measured_steps():
    cost = fit(whole=0.22, half=0.12, served=0.42, batch=20, size=10e6)
    assert (cost.fixed, cost.column, cost.bandwidth) == pytest.approx((0.02, 0.01, 100e6))


@pytest.fixture
def benchmark():
    return load_script("benchmarks/scaling.py")


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
