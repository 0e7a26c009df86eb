"""The language model: embedding -> stack of recurrent layers -> linear decoder, as one HybridBlock.

    >>> import gluonlm, mxnet as mx
    >>> from gluonlm.model import RNNModel
    >>> model = RNNModel(vocab_size=10000, mode="LSTM", emsize=200, nhid=200, nlayers=2, tied=True)
    >>> model.initialize()
    >>> logits, state = model(mx.nd.zeros((35, 20)), model.begin_state(batch_size=20))
    >>> logits.shape
    (35, 20, 10000)

Shapes: T steps, N batch columns, E embedding size, H hidden size, V vocabulary size.
"""

import math
from collections.abc import Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
INIT_RANGE = 0.1


class RecurrentLayer(HybridBlock):
    """One recurrent layer over T steps on MXNet's fused operator.

    The weights are the one flat vector that the operator takes, so that nothing is concatenated at each step:
    input-to-hidden (G*H, I), hidden-to-hidden (G*H, H), then the two biases (G*H,) each, for G gates in the order
    input, forget, cell, output (LSTM) or reset, update, new (GRU). :meth:`parts` shows them as matrices.
    All are drawn from U(-1/sqrt(H), 1/sqrt(H)).
    """

    def __init__(self, mode: str, input_size: int, hidden_size: int, **kwargs):
        super().__init__(**kwargs)
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        rows = GATES[mode] * hidden_size
        self.shapes = {
            "i2h_weight": (rows, input_size),
            "h2h_weight": (rows, hidden_size),
            "i2h_bias": (rows,),
            "h2h_bias": (rows,),
        }
        size = rows * (input_size + hidden_size + 2)
        with self.name_scope():
            self.weights = self.params.get("weights", shape=(size,), init=mx.init.Uniform(hidden_size**-0.5))

    def hybrid_forward(self, F, inputs, state, weights):
        """Inputs (T, N, I) and a state of one (1, N, H) array, two for an LSTM -> outputs (T, N, H), new state."""
        outputs, *state = F.RNN(
            inputs,
            weights,
            *state,
            state_size=self.hidden_size,
            num_layers=1,
            mode=self.mode.lower(),
            state_outputs=True,
        )
        return outputs, state

    def begin_state(self, batch_size: int, ctx: mx.Context | None = None) -> list[mx.nd.NDArray]:
        """A state of zeros."""
        return [mx.nd.zeros((1, batch_size, self.hidden_size), ctx) for _ in range(2 if self.mode == "LSTM" else 1)]

    def parts(self, flat: mx.nd.NDArray) -> dict[str, mx.nd.NDArray]:
        """The weight matrices and biases in a flat vector (the weights or their gradient), sharing its memory."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            end = start + math.prod(shape)
            views[name] = flat[start:end].reshape(shape)
            start = end
        return views


class Body(HybridBlock):
    """Everything below the decoder: word ids (T, N) and state -> features (T, N, C) and new state."""

    def __init__(self, vocab_size, mode, emsize, nhid, nlayers, dropout, projection, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.encoder = nn.Embedding(vocab_size, emsize, weight_initializer=mx.init.Uniform(INIT_RANGE))
            self.layers = nn.HybridSequential()
            for layer in range(nlayers):
                self.layers.add(RecurrentLayer(mode, emsize if layer == 0 else nhid, nhid))
            # between layers by hand: the fused operator's own dropout does nothing on CPU
            self.dropout = nn.Dropout(dropout)
            self.projection = nn.Dense(emsize, in_units=nhid, flatten=False) if projection else None

    def hybrid_forward(self, F, inputs, state):
        hidden = self.dropout(self.encoder(inputs))  # (T, N, E)
        per_layer = len(state) // len(self.layers)
        new_state = []
        for index, layer in enumerate(self.layers):
            hidden, layer_state = layer(hidden, state[index * per_layer : (index + 1) * per_layer])  # (T, N, H)
            hidden = self.dropout(hidden)
            new_state += layer_state
        return (self.projection(hidden) if self.projection else hidden), new_state


class RNNModel(HybridBlock):
    """A recurrent language model: ``model(inputs, state) -> (logits, state)``.

    :param vocab_size: number V of words.
    :param mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
    :param dropout: probability of dropping a unit after the embedding, between layers and before the decoder.
    :param tied: let decoder and embedding share one (V, E) matrix (Press & Wolf 2017, arXiv:1608.05859); with E != H
        a linear projection H -> E stands before the decoder.

    ``inputs`` are word ids (T, N) of any dtype, ``state`` a list of float32 arrays as :meth:`begin_state` makes it;
    ``logits`` are (T, N, V). Training asks :attr:`body` for the features (T, N, C) and leaves the decoder to
    :func:`gluonlm.softmax.cross_entropy`, which never keeps more than one (T*N, V) array.
    """

    def __init__(
        self,
        vocab_size: int,
        mode: str = "LSTM",
        emsize: int = 200,
        nhid: int = 200,
        nlayers: int = 2,
        dropout: float = 0.0,
        tied: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        projection = tied and emsize != nhid
        with self.name_scope():
            self.body = Body(vocab_size, mode, emsize, nhid, nlayers, dropout, projection)
            self.decoder = nn.Dense(
                vocab_size,
                in_units=emsize if tied else nhid,
                flatten=False,
                weight_initializer=mx.init.Uniform(INIT_RANGE),
                params=self.body.encoder.params if tied else None,
            )

    def hybrid_forward(self, F, inputs, state):
        features, state = self.body(inputs, state)
        return self.decoder(features), state

    def begin_state(self, batch_size: int, ctx: mx.Context | None = None) -> list[mx.nd.NDArray]:
        """A state of zeros: the arrays (1, N, H) of all layers in one list."""
        return [array for layer in self.body.layers for array in layer.begin_state(batch_size, ctx)]

    def trainables(self) -> dict[str, mx.gluon.Parameter]:
        """The parameters by short names that do not depend on how many models were made before, shared ones once."""
        named, seen = {}, set()
        for name, parameter in self._collect_params_with_prefix().items():
            if parameter not in seen:
                named[name] = parameter
                seen.add(parameter)
        return named


def detach(state: Sequence[mx.nd.NDArray]) -> list[mx.nd.NDArray]:
    """The same values without their history: gradients stop here (truncated back-propagation through time)."""
    return [array.detach() for array in state]
