"""The decoder, softmax and cross-entropy of a training step in one function.

The plain formulation, ``SoftmaxCELoss()(decoder(features), targets)``, walks a dozen times over arrays of
T*N x V numbers. Here there is one such array: logits, probabilities and gradient take turns in its memory.
"""

import mxnet as mx
from mxnet import autograd, nd

SMALLEST = 1.2e-38  # smallest normal float32: a probability that underflows costs 87.3 nats, not infinity


class _CrossEntropy(autograd.Function):
    """With p = softmax(x W' + b): loss_i = -log p[i, target_i]; d loss_i / d logits_i = p_i - onehot(target_i)."""

    def __init__(self, targets: nd.NDArray):
        super().__init__()
        self.targets = targets
        self.saved = None

    def forward(self, features, weight, bias):
        scores = nd.FullyConnected(features, weight, bias, num_hidden=weight.shape[0])  # (B, V)
        nd.softmax(scores, out=scores)
        chosen = nd.pick(scores, self.targets)  # (B,)
        self.saved = (features, weight, scores, chosen)
        return -nd.log(nd.maximum(chosen, SMALLEST))

    def backward(self, head):
        features, weight, scores, chosen = self.saved
        self.saved = None
        scores[nd.arange(len(chosen), ctx=scores.context), self.targets] = chosen - 1  # now p - onehot, (B, V)
        column = head.expand_dims(1)  # (B, 1)
        return (
            nd.dot(scores, weight) * column,
            nd.dot(scores, features * column, transpose_a=True),
            nd.dot(scores, column, transpose_a=True).reshape(-1),
        )


def cross_entropy(features: nd.NDArray, weight: nd.NDArray, bias: nd.NDArray, targets: nd.NDArray) -> nd.NDArray:
    """Negative log-likelihood in nats of each target under softmax(features weight' + bias).

    :param features: (T, N, C) float32, what :attr:`gluonlm.model.RNNModel.body` returns.
    :param weight: (V, C) decoder weight.
    :param bias: (V,) decoder bias.
    :param targets: (T, N) word ids.
    :return: (T*N,) float32; differentiable once in features, weight and bias.
    """
    flat = features.reshape((-1, features.shape[-1]))
    return _CrossEntropy(targets.reshape(-1))(flat, weight, bias)


def decoder_loss(model: mx.gluon.HybridBlock, features: nd.NDArray, targets: nd.NDArray) -> nd.NDArray:
    """:func:`cross_entropy` with the decoder of ``model`` on the device of ``features``."""
    ctx = features.context
    return cross_entropy(features, model.decoder.weight.data(ctx), model.decoder.bias.data(ctx), targets)
