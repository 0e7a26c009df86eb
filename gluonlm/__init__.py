"""gluonlm: recurrent language models in Apache MXNet Gluon.

    >>> import gluonlm                            # before mxnet: it makes MXNet fast on this machine
    >>> model = gluonlm.load("runs/ptb")          # a run, a model file, an INT8 file or a .onnx
    >>> model.generate("she was", words=20)
    >>> model.perplexity("she was in the room")
    >>> model.next_words("she was", 10)
    >>> run = gluonlm.fit(config, corpus, "runs/first")    # a Config and a Corpus; then load(run.folder)

The names below are imported when they are first asked for, so that ``import gluonlm`` is quick.
"""

import importlib
from typing import TYPE_CHECKING

from gluonlm.system.streams import is_command, quiet_interrupts

quiet_interrupts()  # before what takes long to import
from gluonlm.system.errors import UserError, exit_now
from gluonlm.system.runtime import prepare

if TYPE_CHECKING:
    from gluonlm.config import Config
    from gluonlm.inference.language_model import LanguageModel
    from gluonlm.model.rnn import RNNModel
    from gluonlm.onnx.load import load
    from gluonlm.text.batches import batchify, get_batch
    from gluonlm.text.corpus import Corpus
    from gluonlm.text.vocabulary import Dictionary
    from gluonlm.training.fit import fit
    from gluonlm.training.session import Session

__version__ = "1.0.0"
__all__ = [
    "Config",
    "Corpus",
    "Dictionary",
    "LanguageModel",
    "RNNModel",
    "Session",
    "batchify",
    "fit",
    "get_batch",
    "load",
]
try:
    RUNTIME = prepare()
except UserError as error:
    if not is_command():
        raise
    exit_now(error)  # a command's `run` is not there yet to tell it

_HOMES = {
    "Config": "gluonlm.config",
    "Corpus": "gluonlm.text.corpus",
    "Dictionary": "gluonlm.text.vocabulary",
    "LanguageModel": "gluonlm.inference.language_model",
    "RNNModel": "gluonlm.model.rnn",
    "Session": "gluonlm.training.session",
    "batchify": "gluonlm.text.batches",
    "fit": "gluonlm.training.fit",
    "get_batch": "gluonlm.text.batches",
    "load": "gluonlm.onnx.load",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gluonlm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next time it is found at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
