"""The regularizers of AWD-LSTM (Merity, Keskar & Socher 2018, arXiv:1708.02182).

Each is the identity in evaluation. What a dropout keeps is divided by 1 - p, so that expectations
do not change. :class:`gluonlm.model.rnn.Body` chooses among them by the rates of a Config.

>>> locked = nn.Dropout(0.25, axes=LOCKED)             # one mask for all steps of a segment
>>> encoder = WordDropEmbedding(10000, 400, rate=0.1)  # a dropped word is missing in all of it
>>> dropped = drop_rows(mx.nd, weights, 0.5, 8, 24)    # DropConnect on rows 8 to 23

Shapes: T steps, N batch columns, C features, E embedding size, V vocabulary size.
"""

import mxnet as mx
from mxnet import nd
from mxnet.gluon import nn

# variational dropout: a unit of a column is dropped at all steps or at none, so that the recurrence
# cannot wait for it to come back (Gal & Ghahramani 2016, arXiv:1512.05287)
LOCKED = (0,)  # the axis of (T, N, C) along which the mask is the same


class WordDropEmbedding(nn.Embedding):
    """An embedding that drops whole rows of its (V, E) matrix: ids (T, N) -> vectors (T, N, E).

    One mask (V, 1) is drawn for each forward. Looking it up by word, beside the vectors, is the
    same as multiplying the matrix by it and saves a pass over the matrix. A decoder that is tied to
    the matrix sees all of it.
    """

    def __init__(self, input_dim: int, output_dim: int, rate: float, **kwargs):
        super().__init__(input_dim, output_dim, **kwargs)
        self.words, self.rate = input_dim, rate

    def hybrid_forward(self, F, x, weight):
        vectors = super().hybrid_forward(F, x, weight)  # (T, N, E)
        if not self.rate:
            return vectors
        ones = F.ones_like(F.slice_axis(weight, axis=1, begin=0, end=1))  # (V, 1), on its device
        kept = F.Dropout(F.BlockGrad(ones), p=self.rate)  # 0 or 1 / (1 - p)
        return F.broadcast_mul(vectors, F.Embedding(x, kept, input_dim=self.words, output_dim=1))


def drop_rows(F, weights, rate: float, begin: int, end: int):
    """DropConnect (Wan et al. 2013): drop single elements of rows ``begin`` to ``end``.

    One mask is drawn for each forward. Gradients reach the raw weights: those of dropped elements
    are zero, the others are divided by 1 - p.

    :param F: ``mx.nd`` or ``mx.sym``.
    :param weights: (rows, columns); the other rows, at least one before and after, stay.
    """
    before = F.slice_axis(weights, axis=0, begin=0, end=begin)
    dropped = F.Dropout(F.slice_axis(weights, axis=0, begin=begin, end=end), p=rate)
    after = F.slice_axis(weights, axis=0, begin=end, end=None)
    return F.concat(before, dropped, after, dim=0)


def activation_penalty(
    raw: mx.nd.NDArray, dropped: mx.nd.NDArray, alpha: float, beta: float
) -> mx.nd.NDArray:
    """alpha mean(dropped^2) + beta mean((raw[t+1] - raw[t])^2), to be added to the loss, (1,).

    The first (activation regularization) keeps outputs small, the second (temporal activation
    regularization) keeps them slow; a segment of one step has no second. Merity, McCann & Socher
    2017, arXiv:1708.01009, equations 1 and 2.

    :param raw: the last layer's outputs (T, N, C); :param dropped: the same after their dropout.
    """
    penalty = alpha * nd.square(dropped).mean()
    if beta and len(raw) > 1:
        penalty = penalty + beta * nd.square(raw[1:] - raw[:-1]).mean()
    return penalty
