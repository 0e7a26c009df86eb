"""gluonlm: recurrent language models in Apache MXNet Gluon.

Importing the package makes MXNet fast on this machine (:mod:`gluonlm.system.runtime`), so import it before mxnet.
"""

from gluonlm.system.runtime import prepare

__version__ = "1.0.0"
RUNTIME = prepare()
