"""The fused decoder loss against Gluon's plain formulation."""

from contextlib import nullcontext

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from gluonlm.model.rnn import RNNModel
from gluonlm.model.softmax import SampledSoftmax, cross_entropy, decoder_loss

T, N, C, V = 5, 3, 7, 11


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    shapes = ((T, N, C), (V, C), (V,))
    made = [nd.array(random.normal(size=shape), dtype="float32") for shape in shapes]
    for array in made:
        array.attach_grad()
    return made, nd.array(random.integers(V, size=(T, N)), dtype="int32")


def losses_and_gradients(arrays, function, head):
    with autograd.record():
        losses = function(*arrays)
    losses.backward(head)
    return [losses.asnumpy(), *(array.grad.asnumpy() for array in arrays)]


def test_equals_the_plain_formulation(arrays):
    made, targets = arrays
    head = nd.array(
        np.random.default_rng(1).normal(size=T * N), dtype="float32"
    )  # an uneven head gradient

    def plain(features, weight, bias):
        logits = nd.FullyConnected(features, weight, bias, num_hidden=V, flatten=False).reshape(
            (-1, V)
        )
        return gluon.loss.SoftmaxCrossEntropyLoss()(logits, targets.reshape(-1))

    expected = losses_and_gradients(made, plain, head)
    actual = losses_and_gradients(made, lambda *inputs: cross_entropy(*inputs, targets), head)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_by_hand():
    features, weight = (
        nd.array([[[1.0]]]),
        nd.array([[np.log(2)], [0.0]]),
    )  # p = softmax(log 2, 0) = (2/3, 1/3)
    loss = cross_entropy(features, weight, nd.zeros(2), nd.array([[0]]))
    assert loss.asscalar() == pytest.approx(np.log(3 / 2), rel=1e-6)


@pytest.mark.parametrize("recording", [False, True])
def test_the_loss_is_exact_however_small_the_probability(recording):
    features, weight = nd.array([[[1.0], [0.01]]]), nd.array([[0.0], [500.0]])
    bias = nd.zeros(2)
    for array in (features, weight, bias):
        array.attach_grad()
    with autograd.record() if recording else nullcontext():
        loss = cross_entropy(features, weight, bias, nd.array([[0, 0]]))
    np.testing.assert_allclose(loss.asnumpy(), [500, np.log1p(np.exp(5))], rtol=1e-6)
    if recording:
        loss.backward()
        share = 0.01 / (1 + np.exp(-5))
        np.testing.assert_allclose(
            weight.grad.asnumpy().ravel(), [-1 - share, 1 + share], rtol=1e-6
        )


def test_targets_are_taken_from_either_kind_of_array():
    model = RNNModel(V, emsize=C, nhid=C)
    model.initialize()
    words = np.arange(T * N, dtype=np.int32).reshape(T, N) % V
    features = model.body(nd.array(words), model.begin_state(N))[0]
    by_numpy, by_mxnet = (decoder_loss(model, features, ids) for ids in (words, nd.array(words)))
    np.testing.assert_array_equal(by_numpy.asnumpy(), by_mxnet.asnumpy())


def test_two_uses_in_one_recording_add_their_gradients(arrays):
    (features, weight, bias), targets = arrays
    with autograd.record():
        both = (
            cross_entropy(features, weight, bias, targets).sum()
            + cross_entropy(features, weight, bias, targets).sum()
        )
    both.backward()
    twice = weight.grad.asnumpy()
    with autograd.record():
        one = cross_entropy(features, weight, bias, targets).sum()
    one.backward()
    np.testing.assert_allclose(twice, 2 * weight.grad.asnumpy(), rtol=1e-5, atol=1e-6)


def test_a_sample_of_all_words_is_the_full_softmax():
    """With so many draws that every word is a candidate nothing is estimated: losses and gradients
    are exact."""
    losses = {}
    for loss_of in (decoder_loss, SampledSoftmax(np.ones(V), samples=100_000)):
        model = RNNModel(V, emsize=C, nhid=C, tied=True)
        model.initialize(mx.init.Zero(), force_reinit=True)
        generator = np.random.default_rng(4)
        for parameter in model.trainables().values():
            parameter.set_data(nd.array(generator.normal(size=parameter.shape)))
        words = nd.array(generator.integers(V, size=(T, N)))
        with autograd.record():
            loss = loss_of(model, model.body(words, model.begin_state(N))[0], words)
        loss.backward()
        losses[loss_of] = [
            loss.asnumpy(),
            *(p.grad().asnumpy() for p in model.trainables().values()),
        ]
    for one, other in zip(*losses.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_the_estimated_normalizer_is_unbiased():
    """Averaged over many draws, the sum of exp(logit + correction) over the candidates is that over
    all words."""
    generator = np.random.default_rng(2)
    words, logits = 50, generator.normal(size=50)
    sampled = SampledSoftmax(generator.integers(1, 1000, size=words), samples=10)
    np.random.seed(0)
    sums = []
    for _ in range(20_000):
        ids, correction = sampled.candidates(np.array([3, 7]))
        assert {3, 7} <= set(ids)
        sums.append(np.exp(logits[ids] + correction).sum())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - np.exp(logits).sum()) < 4 * error
    assert len(ids) < words / 2


def test_a_target_is_a_candidate_as_it_is():
    sampled = SampledSoftmax(np.ones(V), samples=1)
    ids, correction = sampled.candidates(np.array([[5, 5], [2, 9]]))
    assert {2, 5, 9} <= set(ids)
    assert (correction[np.isin(ids, [2, 5, 9])] == 0).all()


@pytest.mark.parametrize("splits", [(), (2,), (2, 4)])
def test_a_loss_in_evaluation_is_right_however_large(splits):
    """Far below the smallest probability that float32 has."""
    model = RNNModel(6, emsize=4, nhid=4, splits=splits)
    model.initialize()
    bias = nd.array([1000, 0, -300, -1300, 2000, -3e4])
    model.decoder.bias.set_data(bias)
    features, targets = nd.zeros((1, 6, 4)), nd.array([range(6)])
    exact = -nd.log_softmax(bias).asnumpy() if not splits else None
    if splits:
        exact = -model.decoder(features).asnumpy()[0, 0]
    losses = decoder_loss(model, features, targets).asnumpy()
    assert losses.max() > 2e4
    np.testing.assert_allclose(losses, exact, rtol=1e-6, atol=1e-6)
