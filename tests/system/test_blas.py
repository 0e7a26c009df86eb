"""A current BLAS serves MXNet where it is faster, and nothing happens where it cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gluonlm.system import blas

ROOT = Path(blas.__file__).parents[2]
PRODUCTS = """
import gluonlm, mxnet as mx, numpy as np
print(gluonlm.RUNTIME.blas)
random = np.random.default_rng(0)
sizes = [(5, 700, 300), (700, 5, 300), (130, 131, 77), (1000, 999, 7), (1, 1, 1), (97, 1, 3000)]
for m, n, k in sizes:
    a, b = random.normal(size=(m, k)).astype("f"), random.normal(size=(k, n)).astype("f")
    for by_rows, other in ((a, b), (np.asfortranarray(a).T.copy(), b), (a, b.T.copy())):
        options = dict(transpose_a=by_rows.shape != a.shape, transpose_b=other.shape != b.shape)
        ours = mx.nd.dot(mx.nd.array(by_rows), mx.nd.array(other), **options).asnumpy()
        np.testing.assert_allclose(ours, a @ b, rtol=1e-4, atol=1e-4)
for n in (1, 7, 300_000, 1_000_001):
    x = random.normal(size=n).astype("f")
    ours = mx.nd.dot(mx.nd.array(x), mx.nd.array(x)).asscalar()
    np.testing.assert_allclose(ours, x.astype(float) @ x, rtol=1e-4)
"""


def process(code, cache, **variables):
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)} | variables
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def keep(cache, wheel, mxnet):
    """Let the measurement be what a test wants."""
    for path in (cache / "gluonlm" / "native").glob("blas-*.json"):
        path.write_text(json.dumps({"wheel": wheel, "mxnet": mxnet}))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder in which the shim is compiled and the rates are measured."""
    folder = tmp_path_factory.mktemp("cache")
    if process(PRODUCTS, folder) == "None":
        pytest.skip("no wheel or no C compiler here, or the user has chosen")
    return folder


def test_the_products_are_right_by_either(cache):
    for rates in ((200.0, 100.0), (100.0, 200.0)):
        keep(cache, *rates)
        assert process(PRODUCTS, cache) == str(blas.Rates(*rates))


SERVES = """
import gluonlm, ctypes
print(hasattr(ctypes.CDLL(None), "cblas_sgemm"))
"""


def test_the_wheel_serves_unless_it_is_slower(cache):
    keep(cache, 200.0, 100.0)
    assert process(SERVES, cache) == "True"
    assert process(SERVES, cache, GLUONLM_BLAS="mxnet") == "False"
    keep(cache, 80.0, 100.0)
    assert process(SERVES, cache) == "False"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"wheel": "fast"}', '{"other": 1}'])
def test_a_damaged_measurement_is_made_again(cache, content):
    for path in (cache / "gluonlm" / "native").glob("blas-*.json"):
        path.write_text(content)
    assert process("import gluonlm; print(gluonlm.RUNTIME.blas.wheel > 0)", cache) == "True"


@pytest.mark.parametrize(
    "change",
    [
        "os.environ['CC'] = 'no-such-compiler'",
        "import importlib.metadata; importlib.metadata.files = lambda name: None",
        "from pathlib import Path; Path(os.environ['XDG_CACHE_HOME']).write_text('a file, no "
        "folder')",
    ],
    ids=["no compiler", "no wheel", "no cache"],
)
def test_nothing_happens_where_something_is_missing(change, tmp_path):
    assert process(f"import os; {change}\n{PRODUCTS}", tmp_path / "new") == "None"


def test_a_blas_that_the_user_has_loaded_stays(cache):
    code = f"import ctypes; ctypes.CDLL({str(blas.mxnet_openblas())!r}, ctypes.RTLD_GLOBAL)\n"
    assert process(code + "import gluonlm; print(gluonlm.RUNTIME.blas)", cache) == "None"
