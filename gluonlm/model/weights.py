"""The weights of a model by name: one name for each matrix and each bias, and where it lies.

    >>> layout(Config(nlayers=1, tied=True), vocab_size=10000)
    {'encoder.weight': Weight('body.encoder.weight', shape=(10000, 200), begin=0),
     'layers.0.i2h_weight': Weight('body.layers.0.weights', shape=(800, 200), begin=0),
     'layers.0.h2h_weight': Weight('body.layers.0.weights', shape=(800, 200), begin=160000), ...

The layout follows from the settings alone, so it is known before a model is built or a file is
read. A recurrent layer keeps its weights in the one flat vector that MXNet's fused operator takes;
only here it is known how that is divided.

Shapes: V vocabulary size, E embedding size, I inputs and H units of a layer, G gates, K clusters.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gluonlm.config import Config
from gluonlm.model.adaptive import usual_splits

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A matrix or bias: a whole parameter, or a stretch of a recurrent layer's flat vector."""

    parameter: str  # its name in RNNModel.trainables() and in a checkpoint
    shape: Shape
    begin: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def of(self, array):
        """The weight in an array (NDArray or NumPy) of its parameter's shape, sharing memory."""
        return array.reshape(-1)[self.begin : self.begin + self.size].reshape(self.shape)


def layout(config: Config, vocab_size: int) -> dict[str, Weight]:
    """All weights of a model by name; what embedding and decoder share is ``encoder.weight``."""
    weights = {}
    for block, shapes, flat in blocks(config, vocab_size):
        parameter = block if block.startswith("decoder") else f"body.{block}"
        if flat:
            own = stretches(f"{parameter}.weights", shapes)
        else:
            own = {name: Weight(f"{parameter}.{name}", shape) for name, shape in shapes.items()}
        weights |= {f"{block}.{name}": weight for name, weight in own.items()}
    return weights


def blocks(config: Config, vocab_size: int) -> Iterator[tuple[str, dict[str, Shape], bool]]:
    """The name of each block, its weights' shapes, and whether they are one flat vector."""
    sizes = layer_sizes(config)
    yield "encoder", {"weight": (vocab_size, config.emsize)}, False
    for index, (inputs, units) in enumerate(sizes):
        window = 1 if index else config.window
        if config.model == "Transformer":
            shapes = transformer_shapes(config)
        else:
            shapes = layer_shapes(config.model, inputs, units, window)
        yield f"layers.{index}", shapes, config.model in GATES
    features = sizes[-1][1]
    if projected(config):
        yield "projection", {"weight": (config.emsize, features), "bias": (config.emsize,)}, False
        features = config.emsize
    decoder = {} if config.tied else {"weight": (vocab_size, features)}
    decoder["bias"] = (vocab_size,)
    if clusters := len(splits_of(config, vocab_size)):
        decoder |= {"cluster_weight": (clusters, features), "cluster_bias": (clusters,)}
    yield "decoder", decoder, False


def layer_sizes(config: Config) -> list[tuple[int, int]]:
    """Inputs I and outputs H of each layer; a Transformer's have E of both."""
    if config.model == "Transformer":
        return [(config.emsize, config.emsize)] * config.nlayers
    last = config.emsize if config.tied and config.narrow else config.nhid
    units = [config.nhid] * (config.nlayers - 1) + [last]
    return list(zip([config.emsize, *units], units, strict=False))


def projected(config: Config) -> bool:
    """Whether a linear map leads from the last layer to a decoder tied to another size."""
    return config.tied and config.emsize != layer_sizes(config)[-1][1]


def splits_of(config: Config, vocab_size: int) -> tuple[int, ...]:
    """Where an adaptive softmax begins its clusters; empty for a full softmax."""
    return config.splits or (usual_splits(vocab_size) if config.adaptive else ())


def layer_shapes(mode: str, inputs: int, units: int, window: int = 1) -> dict[str, Shape]:
    """The weights of a recurrent layer, in the order of MXNet's flat vector; their rows are the
    gates: input, forget, cell, output (LSTM); reset, update, new (GRU); z, f, o (QRNN)."""
    if mode == "QRNN":
        return {"weight": (3 * units, window * inputs), "bias": (3 * units,)}
    rows = GATES[mode] * units
    matrices = {"i2h_weight": (rows, inputs), "h2h_weight": (rows, units)}
    return {**matrices, "i2h_bias": (rows,), "h2h_bias": (rows,)}


def transformer_shapes(config: Config) -> dict[str, Shape]:
    """The weights of a layer of :mod:`gluonlm.model.transformer`."""
    size, units = config.emsize, config.nhid
    maps = {"query": (size, size), "key_value": (2 * size, size), "output": (size, size)}
    maps |= {"inner": (units, size), "outer": (size, units)}
    return {
        **{f"{name}_weight": shape for name, shape in maps.items()},
        **{f"{name}_bias": shape[:1] for name, shape in maps.items()},
        "position_bias": (config.nhead * (config.memory + 1),),
    }


def stretches(parameter: str, shapes: dict[str, Shape]) -> dict[str, Weight]:
    """Weights that lie one after the other in one flat parameter."""
    weights, begin = {}, 0
    for name, shape in shapes.items():
        weights[name] = Weight(parameter, shape, begin)
        begin += weights[name].size
    return weights


def named_arrays(model) -> dict[str, np.ndarray]:
    """The weights of an :class:`gluonlm.model.rnn.RNNModel` by name, copied from a device."""
    arrays = parameter_arrays(model)
    return {name: weight.of(arrays[weight.parameter]) for name, weight in model.layout.items()}


def parameter_arrays(model) -> dict[str, np.ndarray]:
    """The parameters of a model by their names in ``trainables()``, copied from a device."""
    parameters = model.trainables().items()
    return {name: one.data(one.list_ctx()[0]).asnumpy() for name, one in parameters}


def part_of(name: str, weights: Iterable[str]) -> str:
    """The part of the model that one of its weights belongs to."""
    block, _, rest = name.partition(".")
    if block == "layers":
        return f"layer{rest.partition('.')[0]}"
    if block == "encoder":
        return "embedding" if "decoder.weight" in weights else "decoder"
    return block


def parameter_shapes(weights: dict[str, Weight]) -> dict[str, Shape]:
    """The shape of each parameter of a layout: its weight's, or that of the flat vector."""
    shapes: dict[str, Shape] = {}
    for weight in weights.values():
        flat = (weight.begin + weight.size,)  # the last weight of a flat vector ends it
        shapes[weight.parameter] = flat if weight.parameter.endswith(".weights") else weight.shape
    return shapes


def model_bytes(config: Config, vocab_size: int) -> int:
    """Bytes of a model's weights in float32, known before any is allocated."""
    return 4 * sum(weight.size for weight in layout(config, vocab_size).values())
