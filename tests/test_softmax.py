"""The fused decoder loss against Gluon's plain formulation."""

import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from gluonlm.softmax import cross_entropy

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
    head = nd.array(np.random.default_rng(1).normal(size=T * N), dtype="float32")  # an uneven head gradient

    def plain(features, weight, bias):
        logits = nd.FullyConnected(features, weight, bias, num_hidden=V, flatten=False).reshape((-1, V))
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


def test_a_probability_that_underflows_costs_much_but_not_infinity():
    features, weight = nd.array([[[1.0]]]), nd.array([[0.0], [500.0]])
    assert 80 < cross_entropy(features, weight, nd.zeros(2), nd.array([[0]])).asscalar() < 100


def test_two_uses_in_one_recording_add_their_gradients(arrays):
    (features, weight, bias), targets = arrays
    with autograd.record():
        both = (
            cross_entropy(features, weight, bias, targets).sum() + cross_entropy(features, weight, bias, targets).sum()
        )
    both.backward()
    twice = weight.grad.asnumpy()
    with autograd.record():
        one = cross_entropy(features, weight, bias, targets).sum()
    one.backward()
    np.testing.assert_allclose(twice, 2 * weight.grad.asnumpy(), rtol=1e-5, atol=1e-6)
