"""gluonlm: recurrent language models in Apache MXNet Gluon.

    >>> import gluonlm                            # before mxnet: it makes MXNet fast here
    >>> model = gluonlm.load("runs/ptb")          # a run, a model file, an INT8 file or a .onnx
    >>> model.generate("she was", words=20)
    >>> model.perplexity("she was in the room")
    >>> model.next_words("she was", 10)
    >>> run = gluonlm.fit(config, corpus, "runs/first")    # then load(run.folder)

The names below are imported when they are first asked for, so that ``import gluonlm`` is quick.
"""

import importlib
from typing import TYPE_CHECKING

from gluonlm.system.streams import is_command, quiet_interrupts

quiet_interrupts()  # before what takes long to import
from gluonlm.system.errors import UserError, exit_now
from gluonlm.system.runtime import prepare

if TYPE_CHECKING:  # `as`: for others to import
    from gluonlm.config import Config as Config
    from gluonlm.inference.language_model import LanguageModel as LanguageModel
    from gluonlm.model.rnn import RNNModel as RNNModel
    from gluonlm.onnx.load import load as load
    from gluonlm.text.batches import batchify as batchify
    from gluonlm.text.batches import get_batch as get_batch
    from gluonlm.text.corpus import Corpus as Corpus
    from gluonlm.text.vocabulary import Dictionary as Dictionary
    from gluonlm.training.fit import fit as fit
    from gluonlm.training.session import Session as Session

__version__ = "1.0.0"
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
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gluonlm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next time it is found at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
