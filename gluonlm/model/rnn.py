"""The language model: embedding -> stack of recurrent layers -> linear decoder, as one HybridBlock.

    >>> import gluonlm, mxnet as mx
    >>> from gluonlm.model.rnn import RNNModel
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

from gluonlm.model.adaptive import SplitDecoder
from gluonlm.model.qrnn import QRNNLayer
from gluonlm.model.regularize import LockedDropout, WordDropEmbedding, drop_rows

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
INIT_RANGE = 0.1


class RecurrentLayer(HybridBlock):
    """One recurrent layer over T steps on MXNet's fused operator.

    The weights are the one flat vector that the operator takes, so that nothing is concatenated at each step:
    input-to-hidden (G*H, I), hidden-to-hidden (G*H, H), then the two biases (G*H,) each, for G gates in the order
    input, forget, cell, output (LSTM) or reset, update, new (GRU). :meth:`parts` shows them as matrices.
    All are drawn from U(-1/sqrt(H), 1/sqrt(H)).

    :param wdrop: probability of dropping each hidden-to-hidden weight in training, for a whole segment.
    """

    def __init__(self, mode: str, input_size: int, hidden_size: int, wdrop: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.mode, self.input_size, self.hidden_size, self.wdrop = (
            mode,
            input_size,
            hidden_size,
            wdrop,
        )
        self.state_count = 2 if mode == "LSTM" else 1
        rows = GATES[mode] * hidden_size
        self.shapes = {
            "i2h_weight": (rows, input_size),
            "h2h_weight": (rows, hidden_size),
            "i2h_bias": (rows,),
            "h2h_bias": (rows,),
        }
        size = rows * (input_size + hidden_size + 2)
        with self.name_scope():
            self.weights = self.params.get(
                "weights", shape=(size,), init=mx.init.Uniform(hidden_size**-0.5)
            )

    def hybrid_forward(self, F, inputs, state, weights):
        """Inputs (T, N, I) and a state of one (1, N, H) array, two for an LSTM -> outputs (T, N, H), new state."""
        if self.wdrop:
            gates, columns = GATES[self.mode], self.hidden_size
            rows = weights.reshape(
                (-1, columns)
            )  # in matrix form copies are faster than as one vector
            begin = (
                gates * self.input_size
            )  # here the elements of the hidden-to-hidden weight fill whole rows
            weights = drop_rows(F, rows, self.wdrop, begin, begin + gates * columns).reshape((-1,))
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
        """A state of zeros, in the numbers that the weights have."""
        shape, dtype = (1, batch_size, self.hidden_size), self.weights.dtype
        return [mx.nd.zeros(shape, ctx, dtype=dtype) for _ in range(self.state_count)]

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

    def __init__(self, vocab_size, emsize, layers, rates, dropoute, locked, projection, **kwargs):
        super().__init__(**kwargs)
        make_dropout = LockedDropout if locked else nn.Dropout
        with self.name_scope():
            self.encoder = WordDropEmbedding(
                vocab_size, emsize, dropoute, weight_initializer=mx.init.Uniform(INIT_RANGE)
            )
            self.layers = nn.HybridSequential()
            self.layers.add(*layers)
            # between layers by hand: the fused operator's own dropout does nothing on CPU
            self.dropouts = [
                make_dropout(rate) for rate in rates
            ]  # after the embedding and after each layer
            self.projection = (
                nn.Dense(emsize, in_units=layers[-1].hidden_size, flatten=False)
                if projection
                else None
            )
        for dropout in self.dropouts:
            self.register_child(dropout)

    def run(self, F, inputs, state):
        """Features, new state, and the last layer's outputs (T, N, H) before and after their dropout."""
        first, *others = self.dropouts
        dropped = first(self.encoder(inputs))  # (T, N, E)
        new_state = []
        for layer, dropout in zip(self.layers, others, strict=True):
            before, state = state[: layer.state_count], state[layer.state_count :]
            raw, after = layer(dropped, before)  # (T, N, H)
            dropped = dropout(raw)
            new_state += after
        return (self.projection(dropped) if self.projection else dropped), new_state, raw, dropped

    def hybrid_forward(self, F, inputs, state):
        return self.run(F, inputs, state)[:2]


class OpenBody(HybridBlock):
    """A body that shows what activation penalties need: ids, state -> features, new state, raw and dropped outputs."""

    def __init__(self, body: Body, **kwargs):
        super().__init__(**kwargs)
        self.body = body

    def hybrid_forward(self, F, inputs, state):
        return self.body.run(F, inputs, state)


class RNNModel(HybridBlock):
    """A recurrent language model: ``model(inputs, state) -> (logits, state)``.

    :param vocab_size: number V of words.
    :param mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"``, ``"RNN_RELU"`` or ``"QRNN"``.
    :param dropout: probability of dropping a unit before the decoder, and elsewhere unless told otherwise by
        ``dropouti`` (after the embedding) and ``dropouth`` (between layers).
    :param tied: let decoder and embedding share one (V, E) matrix (Press & Wolf 2017, arXiv:1608.05859); with E != H
        a linear projection H -> E stands before the decoder, or the last layer has E units if ``narrow``.
    :param locked: one dropout mask per segment instead of one per step (:class:`gluonlm.model.regularize.LockedDropout`).
    :param dropoute: probability of dropping a word's embedding for a segment.
    :param wdrop: probability of dropping a hidden-to-hidden weight (QRNN: any weight of a layer) for a segment.
    :param window: QRNN: steps of the input that the first layer's gates see, 1 or 2; the other layers see 1.
    :param zoneout: QRNN: probability that a unit keeps its state at a step.
    :param splits: words at which an adaptive softmax begins its clusters (:mod:`gluonlm.model.adaptive`); its logits are
        log-probabilities.

    ``inputs`` are word ids (T, N) of any dtype, ``state`` a list of float32 arrays as :meth:`begin_state` makes it;
    ``logits`` are (T, N, V). Training asks :attr:`body` for the features (T, N, C) and leaves the decoder to
    :func:`gluonlm.model.softmax.cross_entropy`, which never keeps more than one (T*N, V) array. :attr:`open_body` is the
    same body with the last layer's outputs beside the features.
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
        locked: bool = False,
        narrow: bool = False,
        dropouti: float | None = None,
        dropouth: float | None = None,
        dropoute: float = 0.0,
        wdrop: float = 0.0,
        window: int = 2,
        zoneout: float = 0.0,
        splits: tuple[int, ...] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = [nhid] * (nlayers - 1) + [emsize if tied and narrow else nhid]
        inside, between = (dropout if rate is None else rate for rate in (dropouti, dropouth))
        rates = [inside, *[between] * (nlayers - 1), dropout]
        projection = tied and emsize != sizes[-1]
        with self.name_scope():
            shapes = list(
                zip([emsize, *sizes], sizes, strict=False)
            )  # inputs and units of each layer
            if mode == "QRNN":
                windows = [window] + [1] * (nlayers - 1)
                layers = [
                    QRNNLayer(*shape, steps, wdrop, zoneout)
                    for shape, steps in zip(shapes, windows)
                ]
            else:
                layers = [RecurrentLayer(mode, *shape, wdrop) for shape in shapes]
            self.body = Body(vocab_size, emsize, layers, rates, dropoute, locked, projection)
            self.open_body = OpenBody(self.body)
            options = {
                "in_units": emsize if tied else nhid,
                "weight_initializer": mx.init.Uniform(INIT_RANGE),
                "params": self.body.encoder.params if tied else None,
            }
            if splits:
                self.decoder = SplitDecoder(vocab_size, splits, **options)
            else:
                self.decoder = nn.Dense(vocab_size, flatten=False, **options)

    def hybrid_forward(self, F, inputs, state):
        features, state = self.body(inputs, state)
        return self.decoder(features), state

    def begin_state(self, batch_size: int, ctx: mx.Context | None = None) -> list[mx.nd.NDArray]:
        """A state of zeros: the arrays (1, N, H or I) of all layers in one list."""
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
