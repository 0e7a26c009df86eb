"""The regularizers of AWD-LSTM: the shape of each mask, its scale, its gradient, and that
evaluation knows none."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import HybridBlock, nn

from gluonlm.config import MODELS
from gluonlm.model.regularize import LOCKED, WordDropEmbedding, activation_penalty, drop_rows
from gluonlm.model.rnn import RecurrentLayer, RNNModel
from gluonlm.model.weights import GATES
from gluonlm.training.optim import Updater
from gluonlm.training.step import Objective, train_step

T, N, C, V = 9, 5, 40, 30
INPUTS, UNITS = 6, 20  # of a layer
RATE = 0.3  # not 0.5: there what is dropped and what is kept are equal shares
KEPT = np.float32(1 / (1 - RATE)).round(3)  # what is left of a one
WORDS = nd.array(np.random.default_rng(0).integers(V, size=(T, N)))


def in_training(block, *inputs, seed=3):
    mx.random.seed(seed)
    with autograd.record():
        return block(*inputs)


@pytest.mark.parametrize("hybrid", [False, True])
def test_locked_dropout_has_one_mask_for_all_steps(hybrid):
    block = nn.Dropout(0.4, axes=LOCKED)
    if hybrid:
        block.hybridize(static_alloc=True)
    ones = nd.ones((T, 50, C))
    mask = in_training(block, ones).asnumpy()
    assert (mask == mask[:1]).all()
    assert set(np.unique(mask.round(4))) == {0, np.float32(1 / 0.6).round(4)}
    assert (mask[0] == 0).mean() == pytest.approx(0.4, abs=0.04)
    assert len(np.unique((mask[0] == 0).mean(axis=0))) > 1  # not one mask for all columns
    assert (in_training(block, ones, seed=4).asnumpy() != mask).any()
    inputs = nd.random.normal(shape=(T, N, C))
    np.testing.assert_array_equal(block(inputs).asnumpy(), inputs.asnumpy())


def test_locked_dropout_has_the_gradient_of_its_mask():
    inputs, block = nd.random.normal(shape=(T, N, C)), nn.Dropout(0.4, axes=LOCKED)
    inputs.attach_grad()
    outputs = in_training(block, inputs)
    outputs.backward()
    np.testing.assert_allclose(
        inputs.grad.asnumpy() * inputs.asnumpy(), outputs.asnumpy(), rtol=1e-5
    )


@pytest.mark.parametrize("hybrid", [False, True])
def test_embedding_dropout_drops_whole_words(hybrid):
    words = 500
    mx.random.seed(1)
    block = WordDropEmbedding(words, C, RATE)
    block.initialize()
    if hybrid:
        block.hybridize(static_alloc=True)
    raw = block.weight.data().asnumpy()
    ids = np.random.default_rng(0).integers(
        words, size=(40, 25)
    )  # some words never, most once to four times
    inputs = nd.array(ids)
    vectors = in_training(block, inputs)
    vectors.backward()
    gradient = block.weight.grad().asnumpy()
    scales = (vectors.asnumpy() / raw[ids]).round(3)  # (T, N, C)
    assert set(np.unique(scales)) == {0, KEPT}
    by_word = {word: np.unique(scales[ids == word]) for word in np.unique(ids)}
    assert all(
        len(values) == 1 for values in by_word.values()
    )  # all of it, wherever the word stands
    assert np.mean([values[0] == 0 for values in by_word.values()]) == pytest.approx(RATE, abs=0.07)
    for word in range(words):
        expected = (ids == word).sum() * (by_word[word][0] if word in by_word else 0)
        np.testing.assert_allclose(gradient[word], expected, rtol=1e-3, err_msg=str(word))
    assert (in_training(block, inputs, seed=4).asnumpy() != vectors.asnumpy()).any()
    np.testing.assert_array_equal(block(inputs).asnumpy(), raw[ids])


def test_a_tied_decoder_sees_the_words_that_the_embedding_drops():
    model = RNNModel(V, emsize=8, nhid=8, nlayers=1, tied=True, dropoute=0.9)
    model.initialize()
    logits, _ = in_training(model, WORDS, model.begin_state(N))
    features, _ = in_training(model.body, WORDS, model.begin_state(N))  # the same masks
    expected = features.asnumpy() @ model.decoder.weight.data().asnumpy().T
    np.testing.assert_allclose(logits.asnumpy(), expected, atol=1e-6)
    assert (logits.asnumpy() != 0).all()


def layer(mode, wdrop, weights=None, hybrid=True):
    mx.random.seed(2)
    made = RecurrentLayer(mode, INPUTS, UNITS, wdrop)
    made.initialize()
    if weights is not None:
        made.weights.set_data(weights)
    if hybrid:
        made.hybridize(static_alloc=True)
    return made


def loss_and_gradients(block, inputs, head, seed=5):
    inputs.attach_grad()
    mx.random.seed(seed)
    with autograd.record():
        outputs, state = block(inputs, block.begin_state(N))
        loss = (outputs * head).sum()
    loss.backward()
    return outputs.asnumpy(), state[0].asnumpy(), inputs.grad.asnumpy(), block.weights.grad()


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("mode", GATES)
def test_weight_drop_is_a_layer_with_masked_recurrent_weights(mode, hybrid):
    """One mask for the segment, on hidden-to-hidden weights only; the raw weights get its
    gradient."""
    raw = layer(mode, RATE, hybrid=hybrid)
    gates, flat = GATES[mode], raw.weights.data()
    mx.random.seed(5)
    with autograd.train_mode():  # the mask that the layer draws
        rows = nd.ones((flat.size // UNITS, UNITS))
        ones = drop_rows(nd, rows, RATE, gates * INPUTS, gates * (INPUTS + UNITS)).reshape((-1,))
    parts = {name: part.asnumpy() for name, part in raw.parts(ones).items()}
    mask = parts.pop("h2h_weight")
    assert set(np.unique(mask.round(3))) == {0, KEPT}
    assert (mask == 0).mean() == pytest.approx(RATE, abs=0.07)
    assert all((part == 1).all() for part in parts.values())

    masked = layer(mode, 0.0, flat * ones, hybrid)
    inputs, head = nd.random.normal(shape=(T, N, INPUTS)), nd.random.normal(shape=(T, N, UNITS))
    *ours, gradient = loss_and_gradients(raw, inputs, head)
    *theirs, masked_gradient = loss_and_gradients(masked, inputs, head)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        gradient.asnumpy(), (masked_gradient * ones).asnumpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_weight_drop_has_the_gradient_of_finite_differences(mode):
    block, epsilon = layer(mode, RATE), 1e-2
    inputs, head = nd.random.normal(shape=(T, N, INPUTS)), nd.random.normal(shape=(T, N, UNITS))

    def loss():
        return (loss_and_gradients(block, inputs, head)[0] * head.asnumpy()).sum()

    gradient = loss_and_gradients(block, inputs, head)[-1].asnumpy()
    part = block.parts(block.weights.data())["h2h_weight"]
    analytic = block.parts(nd.array(gradient))["h2h_weight"].asnumpy()
    for row, column in [(0, 0), (3, 5), (9, 1), (17, 7), (20, 2)]:
        center = part[row, column].asscalar()
        part[row, column] = center + epsilon
        above = loss()
        part[row, column] = center - epsilon
        numeric = (above - loss()) / (2 * epsilon)
        part[row, column] = center
        assert analytic[row, column] == pytest.approx(numeric, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("mode", GATES)
def test_without_training_weight_drop_is_not_there_and_new_weights_are_seen(mode):
    """The second matters: the fused operator keeps weights it has prepared from one inference to
    the next."""
    dropping, plain = layer(mode, RATE), layer(mode, 0.0)
    for seed in range(3):
        inputs = nd.random.normal(shape=(T, N, INPUTS))
        new = nd.array(np.random.default_rng(seed).normal(size=dropping.weights.shape))
        for block in (dropping, plain):
            block.weights.set_data(new)
        ours, theirs = (
            block(inputs, block.begin_state(N))[0].asnumpy() for block in (dropping, plain)
        )
        np.testing.assert_array_equal(ours, theirs)
        in_training(dropping, inputs, dropping.begin_state(N))[0].wait_to_read()


class Pair(HybridBlock):
    """Two layers side by side: the outputs of both."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = layers
        for one in layers:
            self.register_child(one)

    def hybrid_forward(self, F, inputs, state):
        return [one(inputs, state)[0] for one in self.layers]


@pytest.mark.parametrize("graphs", [0, 1, 2])  # none, one of both layers, one of each
def test_layers_that_share_weights_drop_each_their_own(graphs):
    first = layer("LSTM", RATE, hybrid=False)
    second = RecurrentLayer("LSTM", INPUTS, UNITS, RATE, params=first.params)
    assert second.weights is first.weights
    pair, inputs = Pair(first, second), nd.random.normal(shape=(T, N, INPUTS))
    for block in [(), (pair,), (first, second)][graphs]:
        block.hybridize(static_alloc=True)

    def gradient(*factors):
        """That of the sum of the outputs times these, with masks that are always the same."""
        mx.random.seed(1)
        with autograd.record():
            one, other = pair(inputs, first.begin_state(N))
            loss = (one * factors[0] + other * factors[1]).sum()
        loss.backward()
        assert (one.asnumpy() != other.asnumpy()).any()
        return first.parts(first.weights.grad().copy())["h2h_weight"].asnumpy()

    own = gradient(1, 0), gradient(0, 1)
    np.testing.assert_allclose(gradient(1, 1), own[0] + own[1], rtol=1e-4, atol=1e-4)
    dropped = [part == 0 for part in own]
    for one in dropped:
        assert one.mean() == pytest.approx(RATE, abs=0.04)
    assert (dropped[0] & dropped[1]).mean() == pytest.approx(
        RATE**2, abs=0.03
    )  # neither knows of the other


def penalty_by_hand(raw, dropped, alpha, beta):
    slow = ((raw[1:] - raw[:-1]) ** 2).mean() if len(raw) > 1 else 0
    return alpha * (dropped**2).mean() + beta * slow


@pytest.mark.parametrize(("alpha", "beta"), [(2, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("steps", [1, 2, T])
def test_penalties_and_their_gradients(alpha, beta, steps):
    raw, dropped = (nd.random.normal(shape=(steps, N, C)) for _ in range(2))
    for array in (raw, dropped):
        array.attach_grad()
    with autograd.record():
        penalty = activation_penalty(raw, dropped, alpha, beta)
    penalty.backward()
    arrays = [array.asnumpy().astype(np.float64) for array in (raw, dropped)]
    assert penalty.asscalar() == pytest.approx(penalty_by_hand(*arrays, alpha, beta), rel=1e-5)
    for index, array in enumerate((raw, dropped)):
        direction = np.random.default_rng(index).normal(size=array.shape)
        moved = [
            [a + sign * 1e-4 * direction * (i == index) for i, a in enumerate(arrays)]
            for sign in (1, -1)
        ]
        numeric = (
            penalty_by_hand(*moved[0], alpha, beta) - penalty_by_hand(*moved[1], alpha, beta)
        ) / 2e-4
        assert (array.grad.asnumpy() * direction).sum() == pytest.approx(
            numeric, rel=1e-4, abs=1e-6
        )


AWD = {
    "tied": True,
    "locked": True,
    "narrow": True,
    "dropouti": 0.65,
    "dropouth": 0.3,
    "dropoute": 0.1,
    "wdrop": 0.2,
}


def awd(mode="LSTM", hybrid=True, **settings):
    mx.random.seed(1)
    model = RNNModel(
        V, mode, **{"emsize": 40, "nhid": 64, "nlayers": 3, "dropout": 0.4, **AWD, **settings}
    )
    model.initialize()
    if hybrid:
        model.hybridize(static_alloc=True)
    return model


def test_the_last_layer_is_as_narrow_as_the_embedding():
    model = awd()
    assert [(layer.input_size, layer.hidden_size) for layer in model.body.layers] == [
        (40, 64),
        (64, 64),
        (64, 40),
    ]
    assert model.body.projection is None
    assert awd(narrow=False).body.projection is not None
    assert awd(tied=False).body.layers[-1].hidden_size == 64
    logits, state = model(WORDS, model.begin_state(N))
    assert logits.shape == (T, N, V)
    assert [array.shape[-1] for array in state] == [64, 64, 64, 64, 40, 40]


def test_each_place_has_its_own_rate_and_a_mask_that_stays():
    model, seen = awd(hybrid=False, dropoute=0.0, emsize=64), []
    for block in (*model.body.layers, model.decoder):
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].asnumpy() == 0))
    wide = nd.array(np.random.default_rng(0).integers(V, size=(T, 50)))
    in_training(model, wide, model.begin_state(50))
    for zeros, rate in zip(seen, (0.65, 0.3, 0.3, 0.4), strict=True):
        assert (zeros == zeros[:1]).all()
        assert zeros[0].mean() == pytest.approx(rate, abs=0.04)
    assert [one.wdrop for one in model.body.layers] == [0.2] * 3
    assert awd().body.encoder.rate == 0.1


@pytest.mark.parametrize("mode", MODELS)
def test_evaluation_is_that_of_a_model_without_regularizers(mode):
    regularized = awd(mode)
    none = {"dropout": 0.0, "dropouti": 0.0, "dropouth": 0.0, "dropoute": 0.0, "wdrop": 0.0}
    plain = awd(mode, **none)
    for name, parameter in plain.trainables().items():
        parameter.set_data(regularized.trainables()[name].data())
    one, other = (model(WORDS, model.begin_state(N))[0].asnumpy() for model in (regularized, plain))
    np.testing.assert_array_equal(one, other)
    opened = regularized.body_with_outputs(WORDS, regularized.begin_state(N))
    np.testing.assert_array_equal(opened[2].asnumpy(), opened[3].asnumpy())  # raw = dropped
    np.testing.assert_array_equal(
        opened[0].asnumpy(), regularized.body(WORDS, plain.begin_state(N))[0].asnumpy()
    )


def test_penalties_enter_the_gradient_but_not_the_reported_loss():
    def gradients(alpha, beta):
        model = awd()
        updater = Updater(model.trainables(), "sgd", 0.0)
        mx.random.seed(2)
        data = WORDS.asnumpy().astype(np.int32)
        loss, _ = train_step(
            model,
            updater,
            data,
            data,
            [model.begin_state(N)],
            0.0,
            0.0,
            Objective(alpha=alpha, beta=beta),
        )
        return loss, model.trainables()["body.layers.2.weights"].grad().asnumpy()

    (loss, plain), (loss_2, both) = gradients(0, 0), gradients(2, 1)
    assert loss == pytest.approx(loss_2, rel=1e-5)

    model = awd()
    mx.random.seed(2)
    with autograd.record():
        _, _, raw, dropped = model.body_with_outputs(WORDS, model.begin_state(N))
        penalty = 2 * (dropped**2).mean() + ((raw[1:] - raw[:-1]) ** 2).mean()
    penalty.backward()
    alone = model.trainables()["body.layers.2.weights"].grad().asnumpy()
    assert np.abs(alone).max() > 1e-4
    np.testing.assert_allclose(both, plain + alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("splits", [(), (8, 20)])
@pytest.mark.parametrize("mode", MODELS)
def test_hybridized_a_whole_model_has_the_same_gradients(mode, splits):
    """With all regularizers, both penalties and one matrix for embedding and decoder, under the
    same masks."""

    def step(hybrid):
        zoneout = {"zoneout": 0.1} if mode == "QRNN" else {}
        model = awd(mode, hybrid, splits=splits, **zoneout)
        state, parameters = model.begin_state(N), model.trainables()
        model.body_with_outputs(
            WORDS, state
        )  # traces the graph: whether it is in training is not to be settled there
        updater, data = Updater(parameters, "sgd", 0.0), WORDS.asnumpy().astype(np.int32)
        mx.random.seed(2)
        loss, state = train_step(
            model, updater, data[:-1], data[1:], [state], 0.0, 0.0, Objective(alpha=2, beta=1)
        )
        gradients = {name: parameter.grad().asnumpy() for name, parameter in parameters.items()}
        return (
            gradients
            | {f"state {i}": array.asnumpy() for i, array in enumerate(state[0])}
            | {"loss": loss}
        )

    plain, hybridized = step(False), step(True)
    assert plain.keys() == hybridized.keys()
    for name in plain:
        largest = np.abs(plain[name]).max()
        assert largest > 1e-5, name
        # a Transformer's gradients are sums of far larger numbers of both signs
        atol = 1e-6 * largest if mode == "Transformer" else 1e-7
        np.testing.assert_allclose(
            hybridized[name], plain[name], rtol=1e-4, atol=atol, err_msg=name
        )
