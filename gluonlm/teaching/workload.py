"""How much the notebooks compute live, the text they learn from, and training without a log."""

import inspect
import io
import os
import tempfile
import textwrap
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Markdown

from gluonlm.config import Config
from gluonlm.presets import resolve
from gluonlm.system.errors import UserError
from gluonlm.system.gpu import contexts
from gluonlm.text.corpus import Corpus, Dictionary, load_corpus

# tokens: each split of austen begins with this novel
EMMA = {"train": 168_366, "valid": 17_126, "test": 15_019}
TINY = {"data": "austen", "emsize": 100, "nhid": 100, "dropout": 0.1, "tied": True}
TINY |= {"batch_size": 10, "schedule": "linear", "epochs": 2}


@dataclass(frozen=True)
class Workload:
    """How much the notebooks compute live.

    ``tiny``: *Emma* with its 2,000 most frequent words and a small model, for seconds on two cores.
    ``full``: all six novels, 10,000 words and the settings of ``make train``, on the first GPU if
    there is one.
    """

    name: str
    config: Config
    device: Any  # an mx.Context

    def corpus(self) -> Corpus:
        """The text to learn from."""
        corpus = load_corpus(self.config.data)
        return smaller(corpus, 2000, EMMA) if self.name == "tiny" else corpus


def workload() -> Workload:
    """What the environment variable ``GLUONLM_WORKLOAD`` asks for, ``tiny`` if it is not set.

    :raises UserError: when it is neither ``tiny`` nor ``full``.
    """
    import mxnet as mx

    name = os.environ.get("GLUONLM_WORKLOAD") or "tiny"
    if name == "tiny":
        return Workload(name, Config(**TINY), mx.cpu())
    if name == "full":
        device = contexts("0" if mx.context.num_gpus() else None)[0]
        return Workload(name, resolve("austen", {}), device)
    raise UserError(f"GLUONLM_WORKLOAD={name}: set it to tiny or full")


def fresh_model(config: Config, vocab_size: int, device: Any) -> Any:
    """The model with the random weights that :func:`train_quietly` begins with."""
    import mxnet as mx

    from gluonlm.model.checkpoint import build_model

    np.random.seed(config.seed)
    mx.random.seed(config.seed)
    return build_model(config, vocab_size, [device])


def train_quietly(config: Config, corpus: Corpus, device: Any) -> tuple[Any, list[dict]]:
    """Train a model as lesson 01 does, without showing the log, in a folder that is thrown away.

    :param device: an ``mx.Context``.
    :return: the model (:class:`gluonlm.model.rnn.RNNModel`) with the weights of the epoch that was
        best on the validation text, and the log's record of each epoch (``train_loss``,
        ``valid_loss``, ``lr`` and the like).
    """
    from gluonlm.training.fit import fit
    from gluonlm.training.session import Session

    log = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(log), redirect_stderr(log):
        run = fit(config, corpus, Path(folder) / "lesson", Session([device]))
        model = fresh_model(config, len(corpus.dictionary), device)
        run.restore(model)
        return model, run.records("epoch")


def smaller(corpus: Corpus, vocab_size: int, tokens: dict[str, int]) -> Corpus:
    """The beginning of each split, with the words that are most frequent there; others are
    ``<unk>``.

    :param vocab_size: words to keep, enough for ``<unk>`` to be among them; equally frequent ones
        in alphabetical order.
    :param tokens: length of ``train``, ``valid`` and ``test``.
    """
    splits = {split: getattr(corpus, split)[:length] for split, length in tokens.items()}
    counts = Counter(corpus.dictionary.decode(splits["train"]))
    kept = Dictionary.from_counts(counts, vocab_size)
    kept.encoding = corpus.dictionary.encoding
    kept.about = {"rules": corpus.dictionary.about.get("rules", {})}  # how prose becomes its tokens
    renumbered = kept.encode(corpus.dictionary.idx2word)
    return replace(
        corpus, dictionary=kept, **{split: renumbered[ids] for split, ids in splits.items()}
    )


def show_source(*objects: Any) -> Markdown:
    """The source of classes or functions, as installed, for a notebook to display."""
    blocks = (
        f"`{item.__module__}.{item.__qualname__}`\n\n"
        f"```python\n{textwrap.dedent(inspect.getsource(item))}```"
        for item in objects
    )
    return Markdown("\n\n".join(blocks))
