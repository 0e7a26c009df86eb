"""The Transformer's layer (Vaswani et al. 2017, arXiv:1706.03762), causal and with a memory: a
drop-in for the LSTM.

A word looks at itself and the ``memory`` words before it. For each head, with q, k, v linear in a
word's vector,

    a[i, j] = softmax over j of (q[i] . k[j] / sqrt(d) + b[i - j])      0 <= i - j <= memory
    y[i]    = sum over j of a[i, j] v[j]

b is one learned number per head and distance (Raffel et al. 2020, arXiv:1910.10683, section 2.1):
what counts is how far away a word is, not where in the segment it stands. So the keys and values of
the words before are all the state that the layer needs (as in Dai et al. 2019, arXiv:1901.02860),
and however a text is cut, the result is the same.

>>> layer = TransformerLayer(Config(model="Transformer", nhead=2, memory=70), index=0)
>>> outputs, state = layer(inputs, layer.begin_state(batch_size=20))

Shapes: T steps, M the memory's, S = M + T, N batch columns, E embedding size, H units of the inner
map.
"""

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, nn

from gluonlm.config import Config
from gluonlm.model.regularize import LOCKED
from gluonlm.model.weights import transformer_shapes

HIDDEN = 1e9  # taken off the score of what must not be seen


def nearness(heads: int, memory: int) -> np.ndarray:
    """The bias to begin with: -distance / 2^head, so that words nearby count first (Press et al.
    2022, arXiv:2108.12409)."""
    return -np.outer(0.5 ** np.arange(heads), np.arange(memory + 1)).ravel()


class TransformerLayer(HybridBlock):
    """Attention, then a map of each word for itself: x += attention(norm(x)), x += map(norm(x)).

    The norms come first, which trains without a warm-up (Xiong et al. 2020, arXiv:2002.04745); the
    last layer has one more, for the decoder. They only bring vectors to one length (Zhang &
    Sennrich 2019, arXiv:1910.07467): MXNet needs three times as long for a layer norm on a CPU. The
    first layer multiplies the words' vectors by sqrt(E), as the paper does (section 3.4). Dropout
    is on what the two add. Matrices are drawn from U(-1/sqrt(I), 1/sqrt(I)) with I inputs.

    The rows of ``key_value_weight`` are, head by head, those of its keys and those of its values.
    """

    state_count = 2

    def __init__(self, config: Config, index: int, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size, self.units = config.emsize, config.nhid
        self.heads, self.memory = config.nhead, config.memory
        self.scale = 1.0 if index else config.emsize**0.5
        self.last = index == config.nlayers - 1
        rate = config.dropout if config.dropouth is None else config.dropouth
        with self.name_scope():
            self.dropout = nn.Dropout(rate, axes=LOCKED if config.locked else ())
            for name, shape in transformer_shapes(config).items():
                init = mx.init.Uniform(shape[1] ** -0.5) if len(shape) == 2 else mx.init.Zero()
                if name == "position_bias":
                    init = mx.init.Constant(nearness(self.heads, self.memory))
                setattr(self, name, self.params.get(name, shape=shape, init=init))

    def hybrid_forward(self, F, inputs, state, **weights):
        """Inputs (T, N, E), state (M, N, 2E) and (M, N, 1) -> outputs (T, N, E), new state."""
        stream = inputs * self.scale
        # 1. each word gathers from those that it may see
        normed = self.norm(F, stream)
        new = self.linear(F, normed, "key_value", 2 * self.hidden_size, weights)
        one = F.ones_like(F.slice_axis(inputs, axis=2, begin=0, end=1))
        pairs, seen = (F.concat(*both, dim=0) for both in zip(state, (new, one), strict=True))
        attention = self.look(F, normed, pairs, seen, weights)  # (N heads, T, S)
        gathered = F.contrib.interleaved_matmul_encdec_valatt(pairs, attention, heads=self.heads)
        gathered = self.linear(F, gathered, "output", self.hidden_size, weights)
        stream = stream + self.dropout(gathered)
        # 2. and thinks about it by itself
        normed = self.norm(F, stream)
        inner = F.relu(self.linear(F, normed, "inner", self.units, weights))  # (T, N, H)
        stream = stream + self.dropout(self.linear(F, inner, "outer", self.hidden_size, weights))
        if self.last:
            stream = self.norm(F, stream)
        # 3. the newest M words are what the next segment can still see
        newest = {"axis": 0, "begin": -self.memory, "end": None}
        return stream, [F.slice_axis(part, **newest) for part in (pairs, seen)]

    def look(self, F, normed, pairs, seen, weights):
        """How much each word (T, N, E) takes of each of (S, N, 2E), by column and head: (N heads,
        T, S)."""
        query = self.linear(F, normed, "query", self.hidden_size, weights)
        scores = F.contrib.interleaved_matmul_encdec_qk(query, pairs, heads=self.heads)
        # 1. by distance: 0 for the word itself, negative for those still to come
        here = F.contrib.arange_like(normed, axis=0) + self.memory
        there = F.contrib.arange_like(pairs, axis=0)
        distance = F.broadcast_sub(here.expand_dims(1), there.expand_dims(0))  # (T, S)
        distance = F.BlockGrad(distance)
        by_distance = weights["position_bias"].reshape((self.heads, -1))
        bias = F.take(by_distance, distance, axis=1)  # (heads, T, S)
        outside = (distance < 0) + (distance > self.memory)
        bias = F.broadcast_sub(bias, HIDDEN * outside.expand_dims(0))
        # 2. what lies before the beginning of the text is nothing to look at
        missing = (F.BlockGrad(seen) <= 0).transpose((1, 2, 0)).expand_dims(1)  # (N, 1, 1, S)
        scores = scores.reshape((-4, -1, self.heads, -2))  # (N, heads, T, S)
        scores = F.broadcast_add(scores, bias.expand_dims(0))
        scores = scores - (HIDDEN * missing).broadcast_like(scores)
        return F.softmax(scores).reshape((-3, -2))

    @staticmethod
    def linear(F, inputs, name, size, weights):
        """The linear map of a name, (T, N, C) -> (T, N, size)."""
        weight, bias = weights[f"{name}_weight"], weights[f"{name}_bias"]
        return F.FullyConnected(inputs, weight, bias, num_hidden=size, flatten=False)

    def norm(self, F, inputs):
        """Vectors (T, N, E) of length sqrt(E): their numbers have a mean square of 1."""
        rows = F.L2Normalization(inputs.reshape((-3, 0)), mode="instance")  # (T*N, E)
        return F.reshape_like(rows, inputs) * self.hidden_size**0.5

    def begin_state(self, batch_size: int, ctx: mx.Context | None = None) -> list[mx.nd.NDArray]:
        """The keys and values of no words: zeros, and that they are none."""
        sizes = (2 * self.hidden_size, 1)
        return [mx.nd.zeros((self.memory, batch_size, size), ctx) for size in sizes]
