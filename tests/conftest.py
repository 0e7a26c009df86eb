"""What all tests share: the process they run in, and runs that are made once.

gluonlm comes before mxnet in every test module: it prepares the process that mxnet then finds.
"""

import os
import re

import pytest
from xdist.scheduler import LoadScopeScheduling

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and so do processes they start
    share = len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    # not what is there: the controller has imported gluonlm, too, which names all cores
    os.environ["OMP_NUM_THREADS"] = str(max(1, share))

import gluonlm  # noqa: E402, F401
from gluonlm.training.run import Run  # noqa: E402

# The files whose tests take longest, in this order: they begin first, or one worker would end with
# them alone.
LONG = ("test_distributed", "test_site", "test_bench", "test_runtime", "test_robustness")
LONG += ("test_notebooks", "test_blas", "test_training", "test_documented", "test_launch")
LONG += ("test_web", "test_teaching", "test_austen", "test_qrnn", "test_awd", "test_corpus")
LONG += ("test_doctor", "test_pruning", "test_streams", "test_ablation")


class Files(LoadScopeScheduling):
    """One worker runs all tests of a file, or of a notebook, for what they share.

    Which `--dist loadgroup` no longer does: it changes a name that pytest 9 does not look at.
    """

    def _split_scope(self, nodeid: str) -> str:
        notebook = re.search(r"test_notebooks.py::.*\[(\d\d_\w+)\]", nodeid)
        return notebook[1] if notebook else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Say how tests are shared among the workers of pytest-xdist."""
    return Files(config, log)


def pytest_collection_modifyitems(items):
    """What takes long comes first."""
    for item in items:
        if item.path.stem in LONG:
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: (*LONG, item.path.stem).index(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def _elsewhere(tmp_path_factory):
    """Whatever the clone holds, such as runs/, is nothing to the tests: they run in another
    folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("folder"))
        yield


DRAW = Run.plot


@pytest.fixture(scope="session", autouse=True)
def _no_curves():
    """Runs draw no curves, which takes longer than all else in a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "plot", lambda run, level: None)
        yield


@pytest.fixture
def _curves(monkeypatch):
    """The runs of this test do draw them."""
    monkeypatch.setattr(Run, "plot", DRAW)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path_factory, monkeypatch):
    """Every test begins in an empty folder of its own."""
    monkeypatch.chdir(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder with a small text in which each word all but tells the next."""
    from workers import write_text

    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def cats(tmp_path_factory):
    """A folder with the smallest text."""
    from small import write_cats

    return write_cats(tmp_path_factory.mktemp("cats"))


@pytest.fixture(scope="session")
def alone(text, tmp_path_factory):
    """The run of a single worker on that text, and its result."""
    from workers import SMALL

    from gluonlm import train

    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, train.main(["--data", str(text), "--save", str(folder), *SMALL])


@pytest.fixture(
    scope="module"
)  # no longer: the loop of playwright would be in the way of notebooks
def chromium():
    """The system's Chromium, without a window."""
    from playwright.sync_api import sync_playwright
    from scripts import load_script

    from gluonlm.system.errors import UserError

    with sync_playwright() as playwright:
        try:
            browser = load_script("benchmarks/page.py").chromium(playwright)
        except UserError as error:
            pytest.skip(f"no page is looked at: {error}")
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium):
    """A page of the browser; ``tab.errors`` collects what goes wrong in it."""
    tab = chromium.new_page()
    tab.set_default_timeout(300_000)  # ms; the machine may be busy
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("requestfailed", lambda request: tab.errors.append(f"cannot load {request.url}"))
    tab.on(
        "console",
        lambda said: tab.errors.append(said.text) if said.type in ("error", "warning") else None,
    )
    yield tab
    tab.close()
