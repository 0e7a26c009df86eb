"""Competitor of benchmarks/memory.py: gluonlm's own training step."""

import json
import sys

import gluonlm  # isort: skip # noqa: F401
import mxnet as mx
import numpy as np
from memory_worker import report

from gluonlm.config import Config
from gluonlm.model.checkpoint import build_model
from gluonlm.training.optim import Updater
from gluonlm.training.step import Objective, train_step


def main(settings: dict, vocab: int, epochs: list[list[int]]) -> None:
    """Steps on segments of these lengths, with a report after each epoch."""
    mx.random.seed(1)
    config = Config(**settings)
    model = build_model(config, vocab)
    updater = Updater(model.trainables(), config.optimizer, config.wdecay)
    states, random = [model.begin_state(config.batch_size)], np.random.default_rng(1)
    for lengths in epochs:
        for steps in lengths:
            ids = random.integers(0, vocab, (steps + 1, config.batch_size)).astype(np.int32)
            objective = Objective(alpha=config.alpha, beta=config.beta)
            lr = config.learning_rate / 100  # random words: nothing is to be learned
            loss, states = train_step(
                model, updater, ids[:-1], ids[1:], states, lr, config.clip, objective
            )
        report(loss)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
