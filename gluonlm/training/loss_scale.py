"""Loss scaling, for products in float16, where gradients below 6e-8 would become zero.

The loss's gradient is multiplied by a power of two before back-propagation, and the weights'
gradients are divided by it in float32. It is as large as it can be without an overflow, which shows
as infinity or NaN in the gradients' norm.
"""

from collections.abc import Sequence

from mxnet.contrib.amp.loss_scaler import LossScaler


class LossScale(LossScaler):
    """The scale of MXNet's AMP: 2^16 at first, halved at an overflow, doubled after 2,000 steps.

    AMP looks through one device's gradients. Here the norm tells, which clipping needs anyway and
    all workers agree on.

    :ivar skipped: steps with an overflow, which have changed no weight.
    """

    def __init__(self):
        super().__init__()
        self.skipped = 0

    def adapt(self, overflow: bool) -> bool:
        """Choose the next step's scale; True when this step is to be skipped."""
        if overflow:
            fault = self._loss_scale > 1  # else training has diverged
            self._loss_scale, self._unskipped = self._loss_scale / 2, 0
            self.skipped += 1
            return fault
        self._unskipped += 1
        if self._unskipped == self._scale_seq_len:
            self._loss_scale = min(2 * self._loss_scale, self._max_loss_scale)
            self._unskipped = 0
        return False

    def state(self) -> list[float]:
        """All that changes, for a checkpoint: float32 holds it exactly."""
        return [self._loss_scale, self._unskipped, self.skipped]

    def load_state(self, state: Sequence[float]) -> None:
        """Put back what :meth:`state` gave."""
        self._loss_scale = float(state[0])
        self._unskipped, self.skipped = int(state[1]), int(state[2])
