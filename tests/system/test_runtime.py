"""What ``import gluonlm`` sets, each case in a process of its own since it can be set only once."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gluonlm.system import memory, runtime

ROOT = Path(runtime.__file__).parents[2]
OURS = (
    *runtime.WAIT_VARIABLES,
    *memory.MALLOC_VARIABLES,
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "LD_PRELOAD",
)


def process(code, **variables):
    """Run code in a fresh process where nothing of what the runtime sets is set; returns its stdout
    and stderr."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment | variables
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip(), ended.stderr


SHOW = "import os, gluonlm; print(gluonlm.RUNTIME.{}, os.environ.get('{}'))"


def shown(field, variable, **variables):
    return process(SHOW.format(field, variable), **variables)[0]


def test_all_cores_are_used():
    cores = runtime.usable_cores()
    assert shown("threads", "OMP_NUM_THREADS") == f"{cores} {cores}"


def test_one_processor_of_several():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});" + SHOW.format(
        "threads", "NONE"
    )
    assert process(code)[0] == "1 None"


def test_the_users_threads_stay():
    """Of a list the first, which counts here: MXNet ends the process at anything but a number."""
    assert shown("threads", "OMP_NUM_THREADS", OMP_NUM_THREADS="3") == "3 3"
    assert shown("threads", "OMP_NUM_THREADS", OMP_NUM_THREADS="3,2") == "3 3"


@pytest.mark.parametrize("value", ["many", "0", "-1", "2.5", " ", "²"])
def test_a_malformed_number_of_threads_is_told_and_ignored(value):
    cores = runtime.usable_cores()
    out, err = process(SHOW.format("threads", "OMP_NUM_THREADS"), OMP_NUM_THREADS=value)
    assert out == f"{cores} {cores}"
    assert err.count("is not a number of threads") == 1


def test_waiting_threads_soon_sleep_unless_the_user_has_a_say():
    assert shown("threads", "KMP_BLOCKTIME").endswith(" 100us")
    assert shown("threads", "KMP_USE_YIELD").endswith(" 0")
    assert shown("threads", "KMP_USE_YIELD", KMP_BLOCKTIME="200").endswith(" None")
    assert shown("threads", "KMP_BLOCKTIME", KMP_BLOCKTIME="200").endswith(" 200")
    assert shown("threads", "KMP_BLOCKTIME", OMP_WAIT_POLICY="ACTIVE").endswith(" None")


def test_blas_is_told_the_cpu_unless_the_user_has_told_it():
    core = str(runtime.blas_core())
    assert shown("openmp", "OPENBLAS_CORETYPE").endswith(f" {core}")
    assert shown("openmp", "OPENBLAS_CORETYPE", OPENBLAS_CORETYPE="Zen").endswith(" Zen")


@pytest.mark.parametrize(
    ("flags", "core"),
    [
        ("sse2 avx avx2 fma avx512f avx512dq avx512bw", "SkylakeX"),
        ("sse2 avx avx2 fma avx512f", "Haswell"),  # Xeon Phi
        ("sse2 avx avx2 fma", "Haswell"),
        ("sse2 avx", None),
        ("", None),  # arm64, macOS
    ],
)
def test_core_types(monkeypatch, flags, core):
    monkeypatch.setattr(runtime, "cpu_flags", lambda: set(flags.split()))
    assert runtime.blas_core() == core


SERVES = """
import gluonlm, ctypes, mxnet
from gluonlm.system import memory, runtime
print(gluonlm.RUNTIME.openmp)
print(runtime.serving_openmp())
mxnet.nd.dot(mxnet.nd.ones((64, 64)), mxnet.nd.ones((64, 64))).wait_to_read()
print(runtime.serving_openmp())
print(ctypes.CDLL(None).omp_get_max_threads())
"""


@pytest.mark.skipif(not runtime.intel_openmp(), reason="intel-openmp is made for x86-64 only")
def test_intels_openmp_serves_all():
    library = runtime.intel_openmp()
    assert process(SERVES, OMP_NUM_THREADS="2")[0].split() == [library, library, library, "2"]


@pytest.mark.skipif(not runtime.intel_openmp(), reason="intel-openmp is made for x86-64 only")
def test_an_openmp_that_is_there_stays():
    preloaded, local = "libgomp.so.1", f"import ctypes; ctypes.CDLL({runtime.intel_openmp()!r});"
    assert "libgomp" in process(SERVES, LD_PRELOAD=preloaded)[0].split()[0]
    promoted = process(local + SERVES)[0].split()
    assert promoted[0] == promoted[1] == runtime.intel_openmp()


LACKING = """
import importlib.metadata, pathlib, platform, sys, os
read_text = pathlib.Path.read_text
{}
import gluonlm
# for MXNet, which is the one for this platform
sys.platform, pathlib.Path.read_text = "linux", read_text
from gluonlm.system.memory import keep_memory
print(gluonlm.RUNTIME.openmp, keep_memory(), gluonlm.RUNTIME.threads)
import mxnet
print(mxnet.nd.ones((2, 2)).sum().asscalar())
"""


@pytest.mark.parametrize(
    ("change", "openmp", "pooled"),
    [
        # the wheel is not installed
        ("sys.prefix = '/nowhere'; importlib.metadata.files = lambda name: None", "None", "True"),
        # a file that is not a library for this processor
        ("import tempfile; sys.prefix = tempfile.mkdtemp(); importlib.metadata.files = lambda "
         "name: None\n"
         "library = pathlib.Path(sys.prefix, 'lib', 'libiomp5.so')\n"
         "library.parent.mkdir(); library.write_text('no library')", "None", "True"),
        # another C library
        ("platform.libc_ver = lambda: ('', '')", None, "False"),
        # no Linux: no affinity mask, no /proc, no wheel
        ("del os.sched_getaffinity; platform.libc_ver = lambda: ('', ''); sys.platform = 'darwin'\n"
         "pathlib.Path.read_text = lambda *_: (_ for _ in "
         "()).throw(FileNotFoundError())", "None", "False"),
    ],
    ids=["no wheel", "damaged", "no glibc", "no Linux"],
)  # fmt: skip
def test_nothing_breaks_where_something_is_missing(change, openmp, pooled):
    first, last = process(LACKING.format(change))[0].splitlines()
    assert first.split()[1] == pooled
    if openmp:
        assert first.split()[0] == openmp
    assert int(first.split()[2]) >= 1
    assert last == "4.0"


def test_one_warning_when_mxnet_came_first():
    code = (
        "import mxnet, gluonlm; from gluonlm.system.runtime import prepare; print(prepare() is "
        "gluonlm.RUNTIME)"
    )
    out, err = process(code)
    assert out == "True"
    assert err.count("import gluonlm first") == 1
    assert "<string>:1: UserWarning" in err  # it points at the line to change


def test_no_warning_in_the_right_order():
    code = "import gluonlm, mxnet, gluonlm.system.runtime; gluonlm.system.runtime.prepare()"
    assert "Warning: mxnet" not in process(code)[1]


FAULTS = """
import ctypes, resource, gluonlm, mxnet
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: of a huge page only one is counted
from mxnet import nd
a, b = nd.ones((350, 2)), nd.ones((2, 33278))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    nd.dot(a, b).wait_to_read()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(40)][-1])
"""


@pytest.mark.skipif(not memory.keep_memory(), reason="memory is kept with glibc only")
def test_a_large_array_is_not_mapped_anew():
    pages = 350 * 33278 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert int(process(FAULTS)[0]) < pages / 20
    assert (
        int(process(FAULTS, MALLOC_MMAP_THRESHOLD_="1000000")[0]) > pages / 20
    )  # the user's setting stays


PILE = """
import gluonlm, random
from mxnet import nd
from gluonlm.system.memory import give_back, resident_bytes
random.seed(1)
highest = trims = 0
for _ in range(12):  # steps whose arrays are of ever other sizes, 1 GB in all
    arrays = [nd.ones((random.randint(40_000, 60_000), 250)) for _ in range(20)]
    for array in arrays:
        array.wait_to_read()
    highest = max(highest, resident_bytes())
    del arrays, array
    {}
print(highest >> 20, trims)
"""


@pytest.mark.skipif(not memory.malloc_state(), reason="glibc from version 2.33 only")
def test_memory_does_not_pile_up():
    """Twenty arrays of 50 MB on average at a time stay near one gigabyte, and a small process keeps
    all it has."""
    highest, trims = map(int, process(PILE.format("trims += give_back()"))[0].split())
    assert trims > 5
    assert highest < 1024 + 512 + 200
    assert not memory.give_back()


def test_physical_cores_count_hyperthreads_once(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2"]):
        (tmp_path / str(cpu)).write_text(siblings + "\n")
    assert runtime.physical_cores(f"{tmp_path}/{{}}") == 2
    (tmp_path / "1").unlink()
    assert runtime.physical_cores(f"{tmp_path}/{{}}") == 3


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("0::/user.slice/job", {"user.slice/job/cpu.max": "max 100000"}, math.inf),
        ("0::/user.slice/job", {"user.slice/job/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/../elsewhere", {"cpu.max": "50000 100000"}, 0.5),
        ("4:cpu,cpuacct:/docker/x\n1:memory:/m", {"cpu,cpuacct/cpu.cfs_quota_us": "300000"}, 3),
        ("4:cpu:/docker/x", {"cpu/docker/x/cpu.cfs_quota_us": "-1"}, math.inf),
        ("1:cpuset:/", {"cpuset/cpu.cfs_quota_us": "100000"}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_cgroup_limits(tmp_path, membership, files, cpus):
    (tmp_path / "cgroup").write_text(membership)
    for name, content in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        (path.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert runtime.cgroup_cpus(str(tmp_path / "cgroup"), str(tmp_path / "fs")) == cpus


def test_half_a_cpu_still_is_one_thread(monkeypatch):
    monkeypatch.setattr(runtime, "cgroup_cpus", lambda: 0.5)
    assert runtime.usable_cores() == 1
