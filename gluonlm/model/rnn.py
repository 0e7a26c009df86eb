"""The language model: embedding -> recurrent layers -> linear decoder, as one HybridBlock.

    >>> import gluonlm, mxnet as mx
    >>> from gluonlm.model.rnn import RNNModel
    >>> model = RNNModel(vocab_size=10000, mode="LSTM", emsize=200, nhid=200, nlayers=2, tied=True)
    >>> model.initialize()
    >>> logits, state = model(mx.nd.zeros((35, 20)), model.begin_state(batch_size=20))
    >>> logits.shape
    (35, 20, 10000)

Another kind of layer is a file like ``qrnn.py``, its place in ``make_layers``, its weights in
``weights.layer_shapes``, its name in ``config.MODELS`` and, for export, ``onnx/layers.py``.

Shapes: T steps, N batch columns, E embedding size, H hidden size, V vocabulary size.
"""

from collections.abc import Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from gluonlm.config import Config
from gluonlm.model import precision as numbers
from gluonlm.model.adaptive import SplitDecoder
from gluonlm.model.qrnn import QRNNLayer
from gluonlm.model.regularize import LOCKED, WordDropEmbedding, drop_rows
from gluonlm.model.transformer import TransformerLayer
from gluonlm.model.weights import layer_shapes, layer_sizes, layout, projected, splits_of, stretches

INIT_RANGE = 0.1


class RecurrentLayer(HybridBlock):
    """One recurrent layer over T steps on MXNet's fused operator.

    The weights are the one flat vector that the operator takes, so that nothing is concatenated at
    each step; :meth:`parts` shows them as matrices. All are drawn from U(-1/sqrt(H), 1/sqrt(H)).

    :param wdrop: probability of dropping each hidden-to-hidden weight in training, for a segment.
    :param precision: of the products: bfloat16 in an LSTM, float16
        (:mod:`gluonlm.model.precision`).
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        wdrop: float = 0.0,
        precision: str = "float32",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.mode, self.wdrop, self.precision = mode, wdrop, precision
        self.input_size, self.hidden_size = input_size, hidden_size
        self.state_count = 2 if mode == "LSTM" else 1
        self.layout = stretches("weights", layer_shapes(mode, input_size, hidden_size))
        size = sum(weight.size for weight in self.layout.values())
        with self.name_scope():
            init = mx.init.Uniform(hidden_size**-0.5)
            self.weights = self.params.get("weights", shape=(size,), init=init)

    def hybrid_forward(self, F, inputs, state, weights):
        """Inputs (T, N, I), state: a (1, N, H), two for an LSTM -> outputs (T, N, H), new state."""
        if self.wdrop:
            # as a matrix, of which h2h_weight fills whole rows: copies are faster than of a vector
            h2h, columns = self.layout["h2h_weight"], self.hidden_size
            first, rows = h2h.begin // columns, h2h.shape[0]
            matrix = weights.reshape((-1, columns))
            weights = drop_rows(F, matrix, self.wdrop, first, first + rows).reshape((-1,))
        if self.precision == "bfloat16" and self.mode == "LSTM":
            outputs, *state = F.gluonlm_lstm(inputs, weights, *state)
            return outputs, state[:2]
        if self.precision == "float16":
            inputs, weights, *state = numbers.cast(F, numbers.HALF, inputs, weights, *state)
        kind = {"mode": self.mode.lower(), "state_size": self.hidden_size, "num_layers": 1}
        outputs, *state = F.RNN(inputs, weights, *state, **kind, state_outputs=True)
        if self.precision == "float16":
            outputs, *state = numbers.cast(F, "float32", outputs, *state)
        return outputs, state

    def begin_state(self, batch_size: int, ctx: mx.Context | None = None) -> list[mx.nd.NDArray]:
        """A state of zeros, in the numbers that the weights have."""
        shape, dtype = (1, batch_size, self.hidden_size), self.weights.dtype
        return [mx.nd.zeros(shape, ctx, dtype=dtype) for _ in range(self.state_count)]

    def parts(self, flat: mx.nd.NDArray) -> dict[str, mx.nd.NDArray]:
        """The matrices and biases in a flat vector (weights or gradient), sharing its memory."""
        return {name: weight.of(flat) for name, weight in self.layout.items()}


def make_layers(config: Config) -> list[HybridBlock]:
    """The layers of a model."""
    if config.model == "Transformer":
        return [TransformerLayer(config, index) for index in range(config.nlayers)]
    sizes = layer_sizes(config)
    if config.model == "QRNN":
        windows = [config.window] + [1] * (config.nlayers - 1)
        own = config.wdrop, config.zoneout, config.precision
        return [QRNNLayer(*size, window, *own) for size, window in zip(sizes, windows)]
    return [RecurrentLayer(config.model, *size, config.wdrop, config.precision) for size in sizes]


class Body(HybridBlock):
    """All below the decoder: word ids (T, N) and state -> features (T, N, C) and new state."""

    def __init__(self, config: Config, vocab_size: int, sparse: bool = False, **kwargs):
        super().__init__(**kwargs)
        given = config.dropouti, config.dropouth
        inside, between = (config.dropout if rate is None else rate for rate in given)
        if config.model == "Transformer":  # its layers drop what they add themselves
            between = 0.0
        rates = [inside, *[between] * (config.nlayers - 1), config.dropout]  # embedding, layers
        shared = LOCKED if config.locked else ()
        sizes, init = (vocab_size, config.emsize), mx.init.Uniform(INIT_RANGE)
        with self.name_scope():
            how = {"weight_initializer": init, "sparse_grad": sparse}
            self.encoder = WordDropEmbedding(*sizes, config.dropoute, **how)
            self.layers = nn.HybridSequential()
            self.layers.add(*make_layers(config))
            # by hand, for the fused operator's own dropout does nothing on a CPU
            self.dropouts = [nn.Dropout(rate, shared) for rate in rates]
            self.projection = None
            if projected(config):
                units = self.layers[-1].hidden_size
                self.projection = nn.Dense(config.emsize, in_units=units, flatten=False)
        for dropout in self.dropouts:
            self.register_child(dropout)

    def run(self, F, inputs, state):
        """Features, new state, and the last layer's outputs (T, N, H), raw and after dropout."""
        # 1. ids become vectors
        first, *others = self.dropouts
        dropped = first(self.encoder(inputs))  # (T, N, E)
        # 2. each layer reads the one below from its own part of the state
        new_state = []
        for layer, dropout in zip(self.layers, others, strict=True):
            before, state = state[: layer.state_count], state[layer.state_count :]
            raw, after = layer(dropped, before)  # (T, N, H)
            dropped = dropout(raw)
            new_state += after
        # 3. a tied decoder wants vectors of the embedding's size
        return (self.projection(dropped) if self.projection else dropped), new_state, raw, dropped

    def hybrid_forward(self, F, inputs, state):
        return self.run(F, inputs, state)[:2]


class BodyWithOutputs(HybridBlock):
    """A body that also returns what activation penalties need: all that :meth:`Body.run` gives."""

    def __init__(self, body: Body, **kwargs):
        super().__init__(**kwargs)
        self.body = body

    def hybrid_forward(self, F, inputs, state):
        return self.body.run(F, inputs, state)


class RNNModel(HybridBlock):
    """A recurrent language model: ``model(inputs, state) -> (logits, state)``.

    :param vocab_size: number V of words.
    :param mode: one of :data:`gluonlm.config.MODELS`, such as ``"LSTM"``.
    :param settings: those of a model, by their names in :class:`gluonlm.config.Config`: ``emsize``,
        ``nhid``, ``nlayers``, ``tied`` and so on; ``dropout`` is 0 if it is not given. With
        ``splits`` (:mod:`gluonlm.model.adaptive`) the logits are log-probabilities.
    :param sparse: whether the embedding's gradient has only the rows of words that were seen.

    ``tied`` lets decoder and embedding share one (V, E) matrix (Press & Wolf 2017,
    arXiv:1608.05859); with E != H a linear projection H -> E precedes the decoder, or the last
    layer has E units if ``narrow``.

    ``inputs`` are word ids (T, N) of any dtype, ``logits`` (T, N, V). Training asks :attr:`body`,
    or :attr:`body_with_outputs`, for the features (T, N, C) and leaves the decoder to
    :mod:`gluonlm.model.softmax`. :attr:`layout` says where each weight lies.
    """

    def __init__(self, vocab_size: int, mode: str = "LSTM", sparse: bool = False, **settings):
        super().__init__()
        config = Config(**{"dropout": 0.0, **settings, "model": mode})
        numbers.check_precision(config.precision)
        self.precision = config.precision
        self.layout, splits = layout(config, vocab_size), splits_of(config, vocab_size)
        with self.name_scope():
            self.body = Body(config, vocab_size, sparse)
            self.body_with_outputs = BodyWithOutputs(self.body)
            options = {
                "in_units": config.emsize if config.tied else layer_sizes(config)[-1][1],
                "weight_initializer": mx.init.Uniform(INIT_RANGE),
                "params": self.body.encoder.params if config.tied else None,
            }
            if splits:
                self.decoder = SplitDecoder(vocab_size, splits, **options)
            else:
                self.decoder = nn.Dense(vocab_size, flatten=False, **options)

    @classmethod
    def from_config(cls, config: Config, vocab_size: int, sparse: bool = False) -> "RNNModel":
        """The model that a run's settings describe, not yet initialized."""
        return cls(mode=config.model, sparse=sparse, **{**vars(config), "vocab_size": vocab_size})

    def hybrid_forward(self, F, inputs, state):
        features, state = self.body(inputs, state)
        return self.decoder(features), state

    def begin_state(self, batch_size: int, ctx: mx.Context | None = None) -> list[mx.nd.NDArray]:
        """A state of zeros: the arrays (1, N, H or I) of all layers in one list."""
        return [array for layer in self.body.layers for array in layer.begin_state(batch_size, ctx)]

    def trainables(self) -> dict[str, mx.gluon.Parameter]:
        """The parameters by names that do not count the models made before, shared ones once."""
        named = {}
        for name, parameter in self._collect_params_with_prefix().items():
            if parameter not in named.values():
                named[name] = parameter
        return named


def detach(state: Sequence[mx.nd.NDArray]) -> list[mx.nd.NDArray]:
    """The same values without their history: here back-propagation through time is truncated."""
    return [array.detach() for array in state]
