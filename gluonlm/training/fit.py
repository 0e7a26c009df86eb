"""From settings and a text to a trained run.

>>> run = gluonlm.fit(config, corpus, "runs/first")
>>> run.records("epoch")[-1]["valid_loss"]
>>> model = gluonlm.load(run.folder)
"""

from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np

from gluonlm.config import OPTIMIZERS, Config
from gluonlm.model.checkpoint import Trained, build_model
from gluonlm.model.precision import check_precision
from gluonlm.model.weights import model_bytes, splits_of
from gluonlm.system.errors import UserError
from gluonlm.system.machine import check_memory
from gluonlm.text.corpus import Corpus
from gluonlm.training.loop import Training
from gluonlm.training.run import Run
from gluonlm.training.session import ON_CPU, Session

ENGINE = 128 << 20  # bytes: MXNet's threads and buffers; where they find no room it crashes


def fit(config: Config, corpus: Corpus, folder: str | Path, session: Session = ON_CPU) -> Run:
    """Train a new model from the first epoch to the last; the run's ``folder``, as for ``--save``,
    then holds the best one, with ``corpus`` as its ``data``. A UserError when there is a run
    already, the settings do not fit the text, or training diverges."""
    if config.finetune is not None:
        advice = "use `python -m gluonlm.train --finetune`, or replace(config, finetune=None)"
        raise UserError(f"fit trains a new model, and the config has finetune: {advice}")
    # whatever is asked of the run later is to be asked on this text
    config = replace(config, data=corpus.dictionary.about.get("data", config.data))
    with Run.new(folder) as run:
        training = prepare(config, corpus, run, session)
        training.begin("gluonlm.fit(...)")
        training.fit()
    return run


def prepare(
    config: Config, corpus: Corpus, run: Run, session: Session, origin: Trained | None = None
) -> Training:
    """A training before its first step, of a new model or from a trained one (``origin``); a
    UserError when it cannot be: for the text, the memory, or the precision."""
    on_gpu = session.contexts[0].device_type == "gpu"
    check_precision(config.precision, on_gpu)
    if not on_gpu:
        advice = "lower --emsize, --nhid, --nlayers, --batch-size or --bptt"
        check_memory(memory_need(config, len(corpus.dictionary)), "training", advice)
    np.random.seed(config.seed)
    mx.random.seed(config.seed)
    sparse = changes_few_rows(config) and session.alone
    model = build_model(config, len(corpus.dictionary), list(session.contexts), sparse=sparse)
    if origin:
        for name, parameter in origin.model.trainables().items():
            model.trainables()[name].set_data(parameter.data())
    training = Training(model, corpus, config, run, session)
    if origin:
        training.pruner.keep_zeros(origin.pruned)
    return training


def changes_few_rows(config: Config) -> bool:
    """Whether a step changes only those rows of the embedding whose words it has seen or drawn.

    Then the gradient is one of rows: at V = 33,278 a step that need not write, sum and read the
    whole matrix takes a third less time. The update is the same.
    """
    sampled = config.softmax_samples or not config.tied
    plain = config.optimizer == "sgd" and not config.wdecay
    masked = config.prune or config.compress or config.finetune is not None
    return bool(sampled and plain and not masked)


def memory_need(config: Config, vocab_size: int) -> int:
    """Bytes that weights, gradients, the optimizer, a segment's outputs and MXNet itself take."""
    copies = 2 + OPTIMIZERS[config.optimizer].moments
    if config.averages and (config.nonmono is not None or config.finetune):
        copies += 1
    sampled = config.softmax_samples or splits_of(config, vocab_size)
    words = config.softmax_samples if sampled else vocab_size
    outputs = 4 * config.batch_size * config.bptt * (config.emsize + words)
    return copies * model_bytes(config, vocab_size) + outputs + ENGINE
