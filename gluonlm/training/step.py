"""One step of training, and the loss on a whole text: what the loop over epochs is made of.

>>> loss, states = train_step(model, updater, data, target, states, lr=20.0, clip=0.25)
>>> evaluate(model, corpus.valid, corpus.dictionary, batch_size=10)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from gluonlm.inference.predictor import Predictor
from gluonlm.inference.scoring import total_loss
from gluonlm.model.regularize import activation_penalty
from gluonlm.model.rnn import RNNModel, detach
from gluonlm.model.softmax import decoder_loss
from gluonlm.system import memory
from gluonlm.text.batches import evaluation_columns
from gluonlm.text.vocabulary import Dictionary
from gluonlm.training.optim import Updater
from gluonlm.training.session import SINGLE, Group

State = list[nd.NDArray]


@dataclass(frozen=True)
class Objective:
    """What a step makes smaller."""

    # model, features (T, n, C), targets (T, n) -> losses (T*n,)
    loss_of: Callable[[RNNModel, nd.NDArray, np.ndarray], nd.NDArray] = decoder_loss
    alpha: float = 0.0  # of gluonlm.model.regularize.activation_penalty, as beta
    beta: float = 0.0


def train_step(
    model: RNNModel,
    updater: Updater,
    data: np.ndarray,
    target: np.ndarray,
    states: list[State],
    lr: float,
    clip: float,
    objective: Objective = Objective(),
) -> tuple[float, list[State]]:
    """One update from a segment, its columns divided over the updater's devices.

    :param data: word ids (T, N); :param target: the ids that follow them (T, N).
    :param states: one state per device, carried over from the segment before.
    :return: mean loss in nats per token, without penalties (not finite when training has diverged),
        and the new states, detached.
    """
    with updater.threads.timed(data.size):
        inputs = gluon.utils.split_and_load(data, updater.contexts, batch_axis=1)
        targets = np.split(target, len(inputs), axis=1)  # the losses take them as they are
        penalized, losses, penalties, new_states = objective.alpha or objective.beta, [], [], []
        with autograd.record():
            for x, y, state in zip(inputs, targets, states, strict=True):
                if penalized:
                    features, state, raw, dropped = model.body_with_outputs(x, state)
                    penalty = activation_penalty(raw, dropped, objective.alpha, objective.beta)
                    penalties.append(penalty * (x.size / data.size))
                else:
                    features, state = model.body(x, state)  # (T, n, C)
                losses.append(objective.loss_of(model, features, y).sum() / data.size)
                new_states.append(state)
        autograd.backward(losses + penalties, updater.head_gradients(losses + penalties))
        loss = nd.add_n(*(loss.as_in_context(updater.contexts[0]) for loss in losses))
        norm = updater.step(lr, clip, loss)
        loss = float(loss.asscalar())
        memory.give_back()
        return loss if math.isfinite(norm) else math.nan, [detach(state) for state in new_states]


def seed_step(seed: int, step: int) -> None:
    """Make all that is random in a step a function of the run's seed and the step's number."""
    mx.random.seed((seed * 1_000_003 + step) % 2**31)
    np.random.seed((seed * 1_000_003 + step) % 2**32)


def evaluate(
    model: RNNModel,
    ids: np.ndarray,
    dictionary: Dictionary,
    batch_size: int,
    ctx: mx.Context | None = None,
    group: Group = SINGLE,
) -> float:
    """:func:`gluonlm.inference.scoring.evaluate` of a model, its columns divided over workers."""
    own = group.columns(evaluation_columns(ids, batch_size))
    total = total_loss(Predictor(model, ctx), ids, dictionary, batch_size, own)
    return sum(group.all_gather_object("evaluation", total)) / len(ids)
