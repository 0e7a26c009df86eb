"""gluonlm: recurrent language models in Apache MXNet Gluon.

Importing the package makes MXNet fast on this machine (:mod:`gluonlm.runtime`), so import it before mxnet.
"""

from gluonlm.runtime import prepare

__version__ = "0.1.0"
RUNTIME = prepare()
