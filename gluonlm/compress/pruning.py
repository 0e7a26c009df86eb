"""Magnitude pruning: train a model with fewer and fewer weights, or take the smallest away at once.

    python -m gluonlm.train --data ptb --tied --prune 0.8         # gradually, all weight matrices
    python -m gluonlm.train --finetune runs/NAME --prune 0.8      # a trained model
    python -m gluonlm.train --compress schedule.yaml              # see compress.schedule_file
    python -m gluonlm.prune runs/NAME --sparsity 0.8              # at once, without training

A pruned weight is exactly zero and stays so: its gradient is set to zero before clipping, and what
the optimizer remembers of it is forgotten. Nothing else of a training step changes, so pruning
works for every cell, with weight drop, and with a matrix that embedding and decoder share (it has
one mask). Biases are never pruned.
"""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

import mxnet as mx
import numpy as np

from gluonlm.model.rnn import RNNModel
from gluonlm.model.weights import Weight
from gluonlm.system.errors import UserError


def prunable(model: RNNModel) -> dict[str, Weight]:
    """The weight matrices by name: ``encoder.weight`` (also the decoder's if they share one),
    ``layers.0.i2h_weight``, ``layers.0.h2h_weight``, ..."""
    return {name: weight for name, weight in model.layout.items() if len(weight.shape) == 2}


@dataclass(frozen=True)
class Rule:
    """How sparse some tensors shall be, and when."""

    tensors: tuple[str, ...]  # their names, or patterns such as layers.*
    final: float  # share of the weights of each that are pruned in the end
    initial: float = 0.05  # and at the first pruning
    begin: float = 0.0  # time of the first pruning, in epochs from the start of training
    every: float = 1.0  # epochs from one to the next
    steps: int = 0  # prunings after the first; 0: all at once

    @property
    def end(self) -> float:
        """Time of the last pruning."""
        return self.begin + self.steps * self.every

    def sparsity(self, time: float) -> float:
        """The share of weights pruned at a time in epochs.

        ``final + (initial - final) (1 - (t - t0) / (n dt))^3`` at t = t0, t0 + dt, ..., t0 + n dt,
        constant between them: Zhu & Gupta 2017 (arXiv:1710.01878), equation 1.
        """
        if time < self.begin:
            return 0.0
        if not self.steps:
            return self.final
        done = min(int((time - self.begin) / self.every + 1e-9), self.steps)
        return self.final + (self.initial - self.final) * (1 - done / self.steps) ** 3


def usual_rule(sparsity: float, epochs: int, trained: bool) -> Rule:
    """What ``--prune`` means: every matrix, in 20 steps until half of the run; they begin at once
    for a model that is trained already, otherwise after a tenth of the run."""
    begin = 0.0 if trained else 0.1 * epochs
    return Rule(("*",), sparsity, min(0.05, sparsity), begin, (0.5 * epochs - begin) / 20, 20)


def match(rules: tuple[Rule, ...], tensors: dict[str, Weight]) -> dict[str, Rule]:
    """The rule of each tensor that has one; a UserError when a name fits no tensor of the model, or
    a tensor is named by two rules."""
    chosen = {}
    for rule in rules:
        for pattern in rule.tensors:
            names = [name for name in tensors if fnmatchcase(name, pattern)]
            if not names:
                known = ", ".join(tensors)
                raise UserError(f"the model has no tensor {pattern} to prune: it has {known}")
            for name in names:
                if chosen.get(name, rule) is not rule:
                    twice = f"two rules of the schedule prune {name}"
                    raise UserError(f"{twice}: leave it out of one of them")
                chosen[name] = rule
    return chosen


def without_smallest(weights: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """A mask like ``kept`` with ``count`` zeros: its own and the weights of smallest magnitude."""
    magnitude = np.where(kept, np.abs(weights), -1).ravel()  # what is pruned is the smallest
    mask = np.ones(magnitude.size, bool)
    mask[np.argpartition(magnitude, count - 1)[:count]] = False
    return mask.reshape(kept.shape)


class Pruner:
    """Keeps a model's pruned weights at zero while an updater (:mod:`gluonlm.training.optim`)
    trains it; prunes further by rules, which must end within the ``epochs`` of the run."""

    def __init__(
        self, model: RNNModel, updater, rules: tuple[Rule, ...] = (), epochs: float = math.inf
    ):
        self.model, self.updater = model, updater
        self.tensors = prunable(model)
        self.rules = match(rules, self.tensors)
        self.kept: dict[str, np.ndarray] = {}  # of tensors that have been pruned: bool, its shape
        self.end = max((rule.end for rule in rules), default=0.0)  # in epochs
        if self.end >= epochs:
            late = f"the last pruning is at epoch {self.end:g} of {epochs:g}"
            advice = "let the schedule end earlier or set --epochs"
            raise UserError(f"{late}, and nothing is left to recover from it: {advice}")

    @property
    def pruned(self) -> int:
        """Number of weights that are pruned."""
        return sum(mask.size - np.count_nonzero(mask) for mask in self.kept.values())

    @property
    def sparsity(self) -> float:
        """Share of the weights in all matrices that are pruned."""
        return self.pruned / sum(tensor.size for tensor in self.tensors.values())

    def advance(self, time: float) -> bool:
        """Prune what the rules want at a time in epochs; True if that was more than before."""
        return self.prune({name: rule.sparsity(time) for name, rule in self.rules.items()})

    def prune(self, sparsities: dict[str, float]) -> bool:
        """Prune tensors to these shares of their weights, the smallest; True if any was left."""
        masks = {}
        for name, sparsity in sparsities.items():
            tensor, count = self.tensors[name], round(sparsity * self.tensors[name].size)
            kept = self.kept.get(name)
            if count > (0 if kept is None else kept.size - np.count_nonzero(kept)):
                kept = np.ones(tensor.shape, bool) if kept is None else kept
                masks[name] = without_smallest(values(self.model, tensor), kept, count)
        self.keep(masks)
        return bool(masks)

    def keep(self, masks: dict[str, np.ndarray]) -> None:
        """Set masks by the names of their tensors (True: kept), and what they prune to zero."""
        kept = self.kept | masks
        # in the order of the tensors, whichever was pruned first
        self.kept = {name: kept[name] for name in self.tensors if name in kept}
        changing = dict.fromkeys(self.tensors[name].parameter for name in masks)
        for parameter in (one for one in changing if one in self.updater.parameters):  # not frozen
            whole = np.ones(self.model.trainables()[parameter].shape, np.float32)
            for name, mask in self.kept.items():
                if self.tensors[name].parameter == parameter:
                    self.tensors[name].of(whole)[:] = mask
            self.updater.set_mask(parameter, mx.nd.array(whole))

    def keep_zeros(self, names: tuple[str, ...]) -> None:
        """Take tensors for pruned whose zeros are to stay, as in a pruned model trained further."""
        self.keep({name: values(self.model, self.tensors[name]) != 0 for name in names})

    def state(self) -> dict[str, mx.nd.NDArray]:
        """The masks as arrays of bits, for a checkpoint."""
        bits = {name: np.packbits(mask) for name, mask in self.kept.items()}
        return {name: mx.nd.array(mask, dtype=np.uint8) for name, mask in bits.items()}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Put back what :meth:`state` gave."""
        bits = {
            name: np.unpackbits(arrays[name], count=tensor.size).astype(bool)
            for name, tensor in self.tensors.items()
            if name in arrays
        }
        self.keep({name: mask.reshape(self.tensors[name].shape) for name, mask in bits.items()})


def values(model: RNNModel, tensor: Weight) -> np.ndarray:
    """A weight matrix of a model."""
    parameter = model.trainables()[tensor.parameter]
    return tensor.of(parameter.data(parameter.list_ctx()[0])).asnumpy()
