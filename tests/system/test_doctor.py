"""The doctor reports what is there, names each problem with what to do, and its exit code tells."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gluonlm
from gluonlm import doctor
from gluonlm.system import blas, gpu, machine, runtime
from gluonlm.text import sources

ROOT = Path(doctor.__file__).parents[1]


@pytest.fixture
def no_speed(capsys):
    """Runs the doctor without the speed check; returns the report and what it printed."""

    def examine():
        report = doctor.main(["--seconds", "0"])
        return report, capsys.readouterr().out

    return examine


def replace_runtime(monkeypatch, **changes):
    monkeypatch.setattr(gluonlm, "RUNTIME", dataclasses.replace(gluonlm.RUNTIME, **changes))


def test_a_command_on_a_machine_like_this():
    command = [sys.executable, "-m", "gluonlm.doctor", "--seconds", "0.5"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = dict(line.split("  ", 1) for line in ended.stdout.splitlines() if "  " in line)
    subjects = ("python", "numpy", "mxnet", "processor", "threads", "OpenMP", "BLAS", "C compiler")
    for subject in (*subjects, "GPUs", "data sets", "speed"):
        assert lines[subject].strip(), subject
    assert int(lines["speed"].split()[0]) > 0
    assert ended.stdout.endswith("all is well\n")


def test_the_exit_code_tells_of_a_problem():
    command = [sys.executable, "-m", "gluonlm.doctor", "--seconds", "0"]
    threads = str(runtime.usable_cores() + 1)
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": threads},
    )
    assert ended.returncode == 2
    assert f"problem: OMP_NUM_THREADS asks for {threads} threads" in ended.stdout


def test_the_kernels_of_an_old_cpu_are_a_problem():
    if not runtime.blas_core():
        pytest.skip("no AVX2 here")
    command = [sys.executable, "-m", "gluonlm.doctor", "--seconds", "0"]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_CORETYPE": "Prescott"},
    )
    assert ended.returncode == 2
    assert "problem: BLAS uses its kernels for Prescott" in ended.stdout


def test_the_blas_of_mxnet_alone(no_speed, monkeypatch):
    replace_runtime(monkeypatch, blas=None)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert no_speed()[0].findings["BLAS"] == "MXNet's own for Haswell"


@pytest.mark.parametrize(("wheel", "first"), [(400, "that of scipy"), (200, "MXNet's own")])
def test_the_blas_that_serves_and_its_rate(no_speed, monkeypatch, wheel, first):
    replace_runtime(monkeypatch, blas=blas.Rates(wheel=wheel, mxnet=240))
    report, _ = no_speed()
    assert report.findings["BLAS"].startswith(f"{first}")
    assert f"{max(wheel, 240)} GFLOP/s; " in report.findings["BLAS"]


def test_without_a_c_compiler(no_speed, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    report, _ = no_speed()
    assert (
        "a QRNN or bfloat16 needs a C compiler, and there is no no-such-compiler"
        in report.findings["C compiler"]
    )
    assert not report.problems  # all other models do without


def test_mxnet_that_cannot_be_imported(no_speed, monkeypatch):
    monkeypatch.setitem(sys.modules, "mxnet", None)
    report, out = no_speed()
    assert "mxnet cannot be imported" in out
    assert "make env" in report.problems[-1]
    assert "speed" not in report.findings


def test_the_cuda_build_without_its_libraries(no_speed, monkeypatch):
    replace_runtime(monkeypatch, cuda_missing=("libcudnn.so.8", "libnccl.so.2"))
    monkeypatch.setattr(gpu, "DRIVER", "libno-such-driver.so")
    libraries, driver = no_speed()[0].problems
    assert libraries == "libcudnn.so.8, libnccl.so.2 not found: run `make env MXNET=cu112`"
    assert "the GPU build of mxnet is installed, but there is no NVIDIA driver here" in driver
    monkeypatch.setattr(gpu, "list_gpus", list)
    report, _ = no_speed()
    assert report.findings["GPUs"] == "none"
    assert report.problems == [libraries]


def test_gpus_with_their_verdicts(no_speed, monkeypatch):
    found = [gpu.Gpu(0, "Ada", (8, 9)), gpu.Gpu(1, "Hopper", (9, 0))]
    monkeypatch.setattr(gpu, "list_gpus", lambda: found)
    report, _ = no_speed()
    assert (
        "0 Ada, compute capability 8.9: can be used with the GPU build; 1 Hopper"
        in report.findings["GPUs"]
    )
    assert not report.problems  # the CPU build does not need them
    replace_runtime(monkeypatch, cuda_missing=())
    report, out = no_speed()
    assert report.problems == [found[1].problem]
    assert "1 Hopper, compute capability 9.0: cannot be used\n" in out


def test_wrong_versions(no_speed, monkeypatch):
    versions = {"numpy": "1.26.4", "mxnet": "1.9.1", "mxnet-cu112": "1.9.1"}
    monkeypatch.setattr(machine, "version", versions.get)
    monkeypatch.setattr(doctor.sys, "version_info", (3, 12, 0))
    _, out = no_speed()
    for words in ("made for Python 3.10", "needs numpy before 1.24", "two builds of mxnet"):
        assert f"{words}" in out


def test_missing_openmp_is_a_problem_where_there_is_one(no_speed, monkeypatch):
    replace_runtime(monkeypatch, openmp=None)
    for name, expected in (("x86_64", 1), ("aarch64", 0)):
        monkeypatch.setattr(doctor.platform, "machine", lambda name=name: name)
        report, _ = no_speed()
        assert (
            sum("Intel's OpenMP is missing" in problem for problem in report.problems) == expected
        )


def test_the_bundled_text_is_missed(no_speed, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    assert "git checkout data/austen" in no_speed()[1]


def test_a_loaded_machine_is_mentioned(monkeypatch):
    report = doctor.Report()
    monkeypatch.setattr(doctor, "training_speed", lambda seconds: 1234.4)
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0, 0))
    doctor.check_speed(report, 1)
    assert report.findings["speed"].startswith("1234 tokens/s")
    assert "other programs are running, the load is 99.0" in report.findings["speed"]
