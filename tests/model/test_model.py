"""The model's shapes, state, dropout and weights; its values are checked against PyTorch in
test_parity.py."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

from gluonlm.config import MODELS
from gluonlm.model.rnn import RecurrentLayer, RNNModel, detach
from gluonlm.model.weights import layer_shapes

T, N, V = 7, 4, 23


def make(mode="LSTM", hybrid=True, dropout=0.0, **settings):
    mx.random.seed(1)
    model = RNNModel(V, mode, **{"emsize": 8, "nhid": 8, "nlayers": 2, **settings}, dropout=dropout)
    model.initialize()
    if hybrid:
        model.hybridize(static_alloc=True)
    return model


def words(seed=0, steps=T):
    return nd.array(np.random.default_rng(seed).integers(V, size=(steps, N)))


@pytest.mark.parametrize("mode", MODELS)
@pytest.mark.parametrize(("tied", "emsize"), [(False, 6), (True, 8), (True, 6)])
def test_shapes(mode, tied, emsize):
    model = make(mode, tied=tied, emsize=emsize)
    logits, state = model(words(), model.begin_state(N))
    assert logits.shape == (T, N, V)
    assert [array.shape for array in state] == [array.shape for array in model.begin_state(N)]
    assert len(state) == {"LSTM": 4, "QRNN": 3, "Transformer": 4}.get(mode, 2)


@pytest.mark.parametrize("mode", MODELS)
def test_a_text_in_two_segments_equals_the_text_in_one(mode):
    model = make(mode)
    text = words(steps=10)
    whole, end = model(text, model.begin_state(N))
    first, state = model(text[:4], model.begin_state(N))
    first = (
        first.asnumpy()
    )  # the next call reuses the buffers of a static_alloc model only if that were unsafe
    second, state = model(text[4:], detach(state))
    np.testing.assert_allclose(
        np.concatenate([first, second.asnumpy()]), whole.asnumpy(), rtol=1e-4, atol=1e-6
    )
    for one, other in zip(state, end, strict=True):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", MODELS)
def test_static_memory_changes_no_result_over_several_training_segments(mode):
    def run(hybrid):
        model = make(mode, hybrid=hybrid)
        state, kept = model.begin_state(N), []
        for seed in range(4):
            with autograd.record():
                logits, state = model(words(seed), state)
                loss = (logits**2).mean()
            loss.backward()
            state = detach(state)
            kept.append((logits, *state))
        gradients = [p.grad().asnumpy() for p in model.trainables().values()]
        return [array.asnumpy() for arrays in kept for array in arrays] + gradients

    for one, other in zip(run(True), run(False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_tied_weights_are_one_matrix():
    model = make(tied=True)
    assert model.decoder.weight is model.body.encoder.weight
    assert sum(p.shape == (V, 8) for p in model.trainables().values()) == 1
    assert len(make(tied=False).trainables()) == len(model.trainables()) + 1


def test_parts_share_the_memory_of_the_flat_vector():
    layer = RecurrentLayer("GRU", 3, 5)
    layer.initialize()
    parts = layer.parts(layer.weights.data())
    assert {name: part.shape for name, part in parts.items()} == layer_shapes("GRU", 3, 5)
    parts["h2h_bias"][:] = 7
    assert (layer.weights.data().asnumpy()[-15:] == 7).all()
    assert layer.weights.data().size == sum(part.size for part in parts.values())


def test_initial_weights_are_those_of_the_papers():
    model = make(nhid=16, emsize=16)
    parameters = model.trainables()
    assert np.abs(model.body.encoder.weight.data().asnumpy()).max() <= 0.1
    assert (model.decoder.bias.data().asnumpy() == 0).all()
    layer = parameters["body.layers.0.weights"].data().asnumpy()
    assert np.abs(layer).max() <= 0.25  # 1 / sqrt(16)
    assert layer.std() == pytest.approx(0.25 / np.sqrt(3), rel=0.05)


class Probe:
    """Counts which share of a layer's inputs is zero in training, by a hook before the layer."""

    def __init__(self, block):
        self.shares = []
        block.register_forward_pre_hook(
            lambda _, inputs: self.shares.append((inputs[0].asnumpy() == 0).mean())
        )


@pytest.mark.parametrize("mode", [mode for mode in MODELS if mode != "Transformer"])
def test_dropout_acts_at_each_place(mode):
    """After the embedding, between the layers (where the fused operator's own does nothing on CPU),
    and at the end. A Transformer's is within its layers."""
    model = make(mode, hybrid=False, dropout=0.3, nlayers=3, nhid=64, emsize=64)
    probes = [Probe(block) for block in (*model.body.layers, model.decoder)]
    with autograd.train_mode():
        model(words(), model.begin_state(N))
    model(words(), model.begin_state(N))
    for probe in probes:
        trained, evaluated = probe.shares
        natural = evaluated  # relu units may be zero by themselves
        assert trained == pytest.approx(0.3 + 0.7 * natural, abs=0.06)


@pytest.mark.parametrize("hybrid", [False, True])
def test_dropout_changes_training_only_and_scales_what_it_keeps(hybrid):
    model = make(dropout=0.3, hybrid=hybrid)
    evaluated = [model(words(), model.begin_state(N))[0].asnumpy() for _ in range(2)]
    np.testing.assert_array_equal(*evaluated)
    with autograd.train_mode():
        trained = [model(words(), model.begin_state(N))[0].asnumpy() for _ in range(2)]
    assert not np.allclose(*trained)
    with autograd.train_mode():
        kept = model.body.dropouts[0](nd.ones((100, 100))).asnumpy()
    assert set(np.unique(kept.round(4))) == {0, np.float32(1 / 0.7).round(4)}


@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_the_trap_of_the_fused_operators_own_dropout(mode):
    """Why the layers are stacked by hand: on CPU a two-layer fused RNN with dropout 0.9 trains as
    without."""
    rnn = {"lstm": mx.gluon.rnn.LSTM, "gru": mx.gluon.rnn.GRU}[mode](
        8, num_layers=2, dropout=0.9, input_size=8
    )
    rnn.initialize()
    inputs = nd.random.normal(shape=(T, N, 8))
    with autograd.train_mode():
        trained = rnn(inputs).asnumpy()
    np.testing.assert_allclose(trained, rnn(inputs).asnumpy(), atol=1e-6)
