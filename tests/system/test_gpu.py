"""Which GPUs can be used, and where CUDA's libraries come from: with a stub of the driver, no
kernel is run."""

import shutil
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import pytest

from gluonlm.system import gpu
from gluonlm.system.errors import UserError
from gluonlm.system.gpu import contexts

STUB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* GPUS lists compute capabilities such as "8.6 9.0"; FAIL makes cuInit return that status. */
static int nth(int number, int *major, int *minor) {
    const char *list = getenv("GPUS");
    int read, found = 0;
    for (; sscanf(list, "%d.%d%n", major, minor, &read) == 2; list += read)
        if (found++ == number) return 0;
    *major = found;
    return 1;
}
int cuInit(unsigned flags) { return getenv("FAIL") ? atoi(getenv("FAIL")) : 0; }
int cuDeviceGetCount(int *count) { int minor; nth(-1, count, &minor); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 70 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    return snprintf(name, length, "Stub %d", device) < 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int major, minor;
    if (nth(device - 70, &major, &minor) || attribute < 75 || attribute > 76) return 1;
    *value = attribute == 75 ? major : minor;
    return 0;
}
"""


def build(path, source):
    """Compile a shared library from C."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", path],
        input=source.encode(),
        check=True,
    )


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    build(path, STUB)
    return path


@pytest.fixture
def driver(stub, monkeypatch):
    """Puts the stub in the driver's place; call with the capabilities of the GPUs it shall have."""
    monkeypatch.setattr(gpu, "DRIVER", str(stub))
    monkeypatch.delenv("FAIL", raising=False)
    return lambda capabilities: monkeypatch.setenv("GPUS", capabilities)


def test_gpus_are_described_by_the_driver(driver):
    driver("8.6 9.0")
    assert gpu.list_gpus() == [gpu.Gpu(0, "Stub 70", (8, 6)), gpu.Gpu(1, "Stub 71", (9, 0))]


@pytest.mark.parametrize("capability", ["5.0", "5.2", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9"])
def test_maxwell_to_ada_can_be_used(driver, capability):
    driver(capability)
    assert gpu.list_gpus()[0].problem is None


@pytest.mark.parametrize("capability", ["3.7", "9.0", "10.0", "12.0"])
def test_other_generations_are_refused_with_a_reason(driver, capability):
    driver(capability)
    problem = gpu.list_gpus()[0].problem
    assert f"compute capability {capability}" in problem
    assert "no PTX" in problem
    assert "use the CPU" in problem
    assert ("older" in problem) == (capability == "3.7")


def test_no_driver(monkeypatch):
    monkeypatch.setattr(gpu, "DRIVER", "libno-such-driver.so.1")
    with pytest.raises(UserError, match="no NVIDIA driver here"):
        gpu.list_gpus()


def test_a_driver_without_gpus(driver, monkeypatch):
    driver("")
    assert gpu.list_gpus() == []
    monkeypatch.setenv("FAIL", "100")
    assert gpu.list_gpus() == []


def test_a_broken_driver(driver, monkeypatch):
    driver("8.6")
    monkeypatch.setenv("FAIL", "999")
    with pytest.raises(UserError, match="cuInit returned 999.*nvidia-smi"):
        gpu.list_gpus()


def test_the_command_line_refuses_a_new_gpu_before_it_computes(driver, monkeypatch):
    monkeypatch.setattr(mx.runtime.Features, "is_enabled", lambda *_: True)
    driver("8.9 9.0")
    assert contexts("0") == [mx.gpu(0)]
    with pytest.raises(UserError, match=r"--gpu 0,1: GPU 1 \(Stub 71\) has compute capability 9.0"):
        contexts("0,1")


def test_nothing_is_loaded_for_the_cpu_build(monkeypatch):
    monkeypatch.setattr(gpu, "loads", lambda path: pytest.fail("loaded a library"))
    monkeypatch.setattr(gpu, "version", lambda package: None)
    assert gpu.load_libraries() is None


LOAD = """
import ctypes, importlib.metadata
from unittest import mock
from gluonlm.system import gpu
with mock.patch.object(importlib.metadata, "version", lambda package: "1.9.1"):
    print(gpu.load_libraries())
# the symbols are there for the libraries that are loaded later
libraries = ctypes.CDLL(None)
print(libraries.uses_cudart(), hasattr(libraries, "system_nccl"), hasattr(libraries, "wheel_nccl"))
"""


def test_libraries_come_from_the_system_or_else_from_the_wheels(tmp_path):
    """Stub libraries: the runtime in a wheel, nccl on the system and in a wheel, nothing of the
    others."""
    system, wheels = tmp_path / "system", tmp_path / "site"
    system.mkdir()
    for wheel, library, source in (
        ("cuda-runtime", "libcudart.so.11.0", "int uses_cudart(void) { return 42; }"),
        ("nccl", "libnccl.so.2", "int wheel_nccl(void) { return 1; }"),
    ):
        place = f"nvidia/{wheel.replace('-', '_')}/lib/{library}"
        (wheels / place).parent.mkdir(parents=True)
        build(wheels / place, source)
        installed = wheels / f"nvidia_{wheel.replace('-', '_')}_cu11-11.8.dist-info"
        installed.mkdir()
        (installed / "RECORD").write_text(f"{place},,\n")
    build(system / "libnccl.so.2", "int system_nccl(void) { return 1; }")
    environment = {
        "LD_LIBRARY_PATH": str(system),
        "PYTHONPATH": f"{wheels}:{Path(gpu.__file__).parents[2]}",
    }
    ended = subprocess.run(
        [sys.executable, "-c", LOAD],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PATH": ""},
    )
    missing, answers = ended.stdout.splitlines()
    assert answers == "42 True False"
    others = tuple(
        name for name in gpu.LIBRARIES if name not in ("libnccl.so.2", "libcudart.so.11.0")
    )
    assert missing == repr(others)
