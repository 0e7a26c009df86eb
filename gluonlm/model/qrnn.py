"""The quasi-recurrent layer (Bradbury, Merity, Xiong & Socher 2017, arXiv:1611.01576), a drop-in
for the LSTM.

All that is expensive, the product with the weights, is done for all steps at once, as in a
convolution over time. What is left of the recurrence is elementwise, the "pooling":

    [z, f, o] = W [x[t], x[t-1]] + b          window 2; W x[t] + b for window 1
    c[t] = f c[t-1] + (1 - f) z               z behind a tanh, f and o behind a sigmoid
    h[t] = o c[t]

The paper's equation 4 (fo-pooling). Here f is the share that is *kept*, as in the paper; the
toolkit of AWD-QRNN gives that name to 1 - f.

>>> layer = QRNNLayer(input_size=400, hidden_size=1550, window=2)
>>> outputs, state = layer(inputs, layer.begin_state(batch_size=20))

Shapes: T steps, N batch columns, I inputs, H hidden units.
"""

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluonlm.model import precision as numbers
from gluonlm.system import native


class QRNNLayer(HybridBlock):
    """One quasi-recurrent layer over T steps.

    ``weight`` (3H, window * I) and ``bias`` (3H,) hold z, f and o in this order; the columns of the
    weight are those for x[t], then those for x[t-1]. Both are drawn from U(-a, a) with
    a = sqrt(3 / (window I)), which passes on the inputs' variance (LeCun et al. 1998, "Efficient
    BackProp"): the pooling and the output gate make it small enough.

    :param window: steps of the input that the gates see, 1 or 2.
    :param wdrop: probability of dropping each weight in training, for a whole segment.
    :param zoneout: probability that a unit keeps its c at a step in training, as if f were 1
        (section 2.1 of the paper); in evaluation the update 1 - f is multiplied by 1 - zoneout.
    :param precision: of the product; float16 on GPUs (:mod:`gluonlm.model.precision`).
    :raises UserError: when the pooling operator cannot be compiled (:mod:`gluonlm.system.native`).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        window: int = 1,
        wdrop: float = 0.0,
        zoneout: float = 0.0,
        precision: str = "float32",
        **kwargs,
    ):
        super().__init__(**kwargs)
        native.load_operators("fo_pool")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.window, self.wdrop, self.zoneout = window, wdrop, zoneout
        self.half = precision == "float16"
        self.state_count = window
        shape = (3 * hidden_size, window * input_size)
        init = mx.init.Uniform((3 / shape[1]) ** 0.5)
        with self.name_scope():
            self.weight = self.params.get("weight", shape=shape, init=init)
            self.bias = self.params.get("bias", shape=(3 * hidden_size,), init=init)

    def hybrid_forward(self, F, inputs, state, weight, bias):
        """Inputs (T, N, I), state c (1, N, H) and for window 2 x (1, N, I) -> (T, N, H), state."""
        c, *previous = state
        seen = inputs
        if previous:
            longer = F.concat(*previous, inputs, dim=0)  # (T+1, N, I)
            before = F.slice_axis(longer, axis=0, begin=0, end=-1)
            seen = F.concat(inputs, before, dim=2)  # (T, N, 2I)
            previous = [last_step(F, inputs)]
        if self.wdrop:
            weight = F.Dropout(weight, p=self.wdrop)
        if self.half:
            seen, weight, bias = numbers.cast(F, numbers.HALF, seen, weight, bias)
        how = {"num_hidden": 3 * self.hidden_size, "flatten": False}
        gates = F.FullyConnected(seen, weight, bias, **how)  # (T, N, 3H)
        if self.half:
            (gates,) = numbers.cast(F, "float32", gates)
        if self.zoneout:
            ones = F.ones_like(F.slice_axis(gates, axis=2, begin=0, end=self.hidden_size))
            keep = F.Dropout(F.BlockGrad(ones), p=self.zoneout)
            keep = (1 - self.zoneout) * keep  # 0 or 1 in training, else 1 - zoneout
            outputs, cells = F.gluonlm_fo_pool(gates, c, keep, zoneout=1)
        else:
            outputs, cells = F.gluonlm_fo_pool(gates, c)  # (T, N, H)
        return outputs, [last_step(F, cells), *previous]

    def begin_state(self, batch_size: int, ctx: mx.Context | None = None) -> list[mx.nd.NDArray]:
        """A state of zeros."""
        sizes = [self.hidden_size, self.input_size][: self.window]
        return [mx.nd.zeros((1, batch_size, size), ctx) for size in sizes]


def last_step(F, array):
    """The last step of (T, N, C) as (1, N, C)."""
    return F.slice_axis(array, axis=0, begin=-1, end=None)
