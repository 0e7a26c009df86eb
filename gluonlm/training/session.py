"""What may change whenever a run is resumed: devices, workers, and how it is watched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mxnet as mx

from gluonlm.config import Config
from gluonlm.model.rnn import RNNModel
from gluonlm.system.errors import UserError
from gluonlm.training.group import SINGLE, Group
from gluonlm.training.optim import Updater

PRUNER = "give Session(pruner=gluonlm.compress.schedule_file.pruner_of)"


class NoPruning:
    """Prunes nothing; :func:`gluonlm.compress.schedule_file.pruner_of` makes what does."""

    kept, pruned, sparsity, end = (), 0, 0.0, 0.0

    def __init__(self, model: RNNModel, updater: Updater, config: Config):
        if config.prune is not None or config.compress:
            raise UserError(f"to prune, {PRUNER}")

    def advance(self, epochs: float) -> bool:
        """Prune what the schedule wants; whether that was anything."""
        return False

    def keep_zeros(self, names: Sequence[str]) -> None:
        """Take the zeros of these tensors for pruned."""
        if names:
            raise UserError(f"to keep what is pruned, {PRUNER}")

    def state(self) -> dict:
        """The masks, for a checkpoint."""
        return {}

    def load_state(self, arrays: dict) -> None:
        """Put back what :meth:`state` gave."""


@dataclass(frozen=True)
class Session:
    """Where a run is computed and how it is watched."""

    contexts: Sequence[mx.Context] = (mx.cpu(),)
    kvstore: str = "device"  # how gradients are summed over them
    group: Group = SINGLE
    log_interval: int = 200  # batches between two log records
    checkpoint_seconds: float = 60.0  # work at risk in a crash
    tensorboard: bool = False  # events of the log for TensorBoard
    pruner: Callable[[RNNModel, Updater, Config], Any] = NoPruning


ON_CPU = Session()
