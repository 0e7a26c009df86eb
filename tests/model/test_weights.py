"""The layout of a model's weights: what the settings say is what the model has, and what MXNet's
own helper finds."""

import itertools
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd

from gluonlm.config import Config
from gluonlm.model.checkpoint import set_weights
from gluonlm.model.rnn import RecurrentLayer, RNNModel
from gluonlm.model.weights import GATES, layout, model_bytes, named_arrays, parameter_shapes

V = 13
SETTINGS = [
    {"model": model, "nlayers": nlayers, **tying}
    for model, nlayers, tying in itertools.product(
        ("LSTM", "GRU", "RNN_TANH", "QRNN", "Transformer"),
        (1, 3),
        ({}, {"tied": True}, {"tied": True, "narrow": True}, {"tied": True, "splits": (4, 9)}),
    )
] + [{"model": "QRNN", "window": 1}, {"splits": (5,)}, {"tied": True, "emsize": 7}]


def model_of(**settings) -> tuple[RNNModel, Config]:
    config = Config(**{"emsize": 4, "nhid": 7, **settings})
    model = RNNModel.from_config(config, V)
    model.initialize()
    for parameter in model.trainables().values():
        parameter.set_data(nd.random.normal(shape=parameter.shape))
    return model, config


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_layout_is_that_of_the_model(settings):
    model, config = model_of(**settings)
    shapes = {name: parameter.shape for name, parameter in model.trainables().items()}
    assert parameter_shapes(layout(config, V)) == shapes
    sizes = dict.fromkeys(shapes, 0)
    for weight in layout(config, V).values():
        assert weight.begin == sizes[weight.parameter]  # one after the other, without a gap
        sizes[weight.parameter] += weight.size
    assert sizes == {name: np.prod(shape) for name, shape in shapes.items()}
    assert model_bytes(config, V) == 4 * sum(sizes.values())
    assert list(layout(config, V)) == list(model.layout)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_named_arrays_are_the_parameters(settings):
    model, _ = model_of(**settings)
    arrays = named_arrays(model)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: weight.shape for name, weight in model.layout.items()
    }
    other, _ = model_of(**settings)
    set_weights(other, arrays, Path("here"))
    for name, parameter in model.trainables().items():
        np.testing.assert_array_equal(
            other.trainables()[name].data().asnumpy(), parameter.data().asnumpy()
        )


@pytest.mark.parametrize("mode", GATES)
def test_a_flat_vector_is_divided_as_by_mxnet(mode):
    layer = RecurrentLayer(mode, 3, 5)
    flat = nd.random.normal(shape=layer.weights.shape)
    cell = mx.rnn.FusedRNNCell(5, 1, mode.lower(), prefix="")
    theirs = cell.unpack_weights({"parameters": flat})
    for name, part in layer.parts(flat).items():
        side, kind = name.split("_")
        gates = [theirs[f"l0_{side}{gate}_{kind}"] for gate in cell._gate_names]
        np.testing.assert_array_equal(part.asnumpy(), nd.concat(*gates, dim=0).asnumpy())


def test_the_size_of_a_model_that_no_machine_holds_is_known_at_once():
    config = Config(emsize=10**6, nhid=10**6, nlayers=1000)
    assert model_bytes(config, 10_000) > 10**16
