"""gluonlm comes before mxnet in every test module: it prepares the process that mxnet then finds."""

import gluonlm  # noqa: F401
