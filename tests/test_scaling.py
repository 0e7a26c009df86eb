"""The cost model of data-parallel training against sums done by hand, and its benchmark at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gluonlm.scaling import TWO_BITS, Cost, best_workers, fit

BENCH = Path(__file__).parents[1] / "benchmarks" / "scaling.py"
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
    # with one server: 0.2 / W + 0.02 W is least at the root of 10, of the divisors of 20 at 4 (0.13; 0.14 at 2 and 5)
    assert best_workers(fast, 20, servers=1) == 4


def test_the_constants_from_measured_steps():
    cost = fit(whole=0.22, half=0.12, served=0.42, batch=20, size=10e6)
    assert (cost.fixed, cost.column, cost.bandwidth) == pytest.approx((0.02, 0.01, 100e6))


def test_the_benchmark_runs_and_records(tmp_path):
    out = tmp_path / "scaling.json"
    ended = subprocess.run([sys.executable, str(BENCH), "--quick", "--out", str(out)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(out.read_text())
    assert set(result["seconds_per_step"]) == {"one", "one_of_two_threads", "half", "served", "two"}
    assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in result["seconds_per_step"].values())
    one, two = (result["seconds_per_step"][name][0] for name in ("one", "two"))
    assert result["two_workers_faster_than_one"]["median"] == pytest.approx(one / two, rel=0.01)
    assert result["predicted"]["two"] > 0
    assert result["parameters"] > 0
