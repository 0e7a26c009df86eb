"""gluonlm comes before mxnet in every test module: it prepares the process that mxnet then finds."""

import pytest

import gluonlm  # noqa: F401


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder with a small text in which each word all but tells the next."""
    from workers import write_text

    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def alone(text, tmp_path_factory):
    """The run of a single worker on that text, and its result."""
    from workers import SMALL

    from gluonlm import train

    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, train.main(["--data", str(text), "--save", str(folder), *SMALL])
