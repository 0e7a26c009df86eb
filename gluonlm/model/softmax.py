"""Decoder, softmax and cross-entropy of a training step in one, over all words or a sample.

The plain formulation, ``SoftmaxCELoss()(decoder(features), targets)``, walks a dozen times over
arrays of T*N x V numbers. Here there is one such array: logits, probabilities and gradient take
turns in its memory.
"""

import mxnet as mx
import numpy as np
from mxnet import autograd, nd

from gluonlm.model.precision import dot, linear

Array = nd.NDArray
SMALLEST = 1.2e-38  # normal float32: the logarithm of a probability below it would be wrong


def losses_of(
    features: Array,
    weight: Array,
    bias: Array,
    targets: Array,
    precision: str = "float32",
    gradients: bool = True,
) -> tuple:
    """With p = softmax(x W' + b): -log p[i, target_i] (B,), and what :func:`gradients_of` needs,
    if gradients are wanted.

    That is s (p - onehot(target)) (B, V) and 1 / s (B,). In bfloat16 s is the sum of the softmax's
    exponentials, which our operator (bfloat16_softmax.h) keeps rounded, as the products of the
    backward pass take them: no logit and no probability gets as far as memory. Otherwise it is 1.
    """
    if precision == "bfloat16":
        targets = targets.astype("float32", copy=False)
        operands = features, weight, bias, targets
        losses, sums, scaled = nd.gluonlm_softmax(*operands, only_losses=not gradients)
        saved = (features, weight, scaled, 1 / sums, precision, len(bias)) if gradients else None
        return losses, saved
    scores = linear(features, weight, bias, precision)  # (B, V)
    scores = scores.astype("float32", copy=False)  # a float16 model's probabilities would underflow
    nd.softmax(scores, out=scores)
    chosen = nd.pick(scores, targets)  # (B,)
    losses = -nd.log(chosen)
    # where a p underflows, the losses are those of a log-softmax. To know that takes a wait for the
    # device, which costs nothing measurable: each step waits for its norm anyway
    if not chosen.min().asscalar() >= SMALLEST:  # or not a number
        logits = linear(features, weight, bias, precision).astype("float32", copy=False)
        losses = -nd.pick(nd.log_softmax(logits), targets)
    if not gradients:
        return losses, None
    rows = nd.arange(len(chosen), ctx=scores.context, dtype=targets.dtype)
    places = nd.stack(rows, targets)
    # scores[rows, targets] = chosen - 1, without half a millisecond of getting ready for it
    nd._internal._scatter_set_nd(scores, chosen - 1, places, shape=scores.shape, out=scores)
    return losses, (features, weight, scores, nd.ones_like(chosen), precision, 0)


def gradients_of(saved: tuple, head: Array, out: Array | None = None) -> tuple:
    """From the gradients of the losses to those of features, weight (out) and bias."""
    features, weight, scaled, scale, precision, columns = saved
    head = (head * scale).expand_dims(1)  # (B, 1)
    # a short matrix times a wide one: BLAS takes a third less time for it than for the transposed
    # product. The bias is one more feature that is always 1: cheaper than a product of its own
    ones = nd.concat(features * head, head, dim=1)
    products = dot(ones, scaled, precision, True, bfloat16_b=columns)  # (C+1, V)
    before = dot(weight, scaled, precision, True, True, bfloat16_b=columns)  # (C, B)
    return before.T * head, nd.transpose(products[:-1], out=out), products[-1]


class _CrossEntropy(autograd.Function):
    """:func:`losses_of` and :func:`gradients_of` as one differentiable step."""

    def __init__(self, targets: Array, precision: str):
        super().__init__()
        self.targets, self.precision = targets, precision
        self.saved = None

    def forward(self, features, weight, bias):
        losses, self.saved = losses_of(features, weight, bias, self.targets, self.precision)
        return losses

    def backward(self, head):
        saved, self.saved = self.saved, None
        return gradients_of(saved, head)


def cross_entropy(
    features: Array, weight: Array, bias: Array, targets: Array, precision: str = "float32"
) -> Array:
    """Negative log-likelihood in nats of each target under softmax(features weight' + bias).

    :param features: (T, N, C) float32, what :attr:`gluonlm.model.rnn.RNNModel.body` returns.
    :param weight: (V, C) decoder weight.
    :param bias: (V,) decoder bias.
    :param targets: (T, N) word ids.
    :param precision: of the products (:mod:`gluonlm.model.precision`).
    :return: (T*N,) float32; differentiable once in features, weight and bias.
    """
    flat = features.reshape((-1, features.shape[-1]))
    targets = targets.reshape(-1)
    if not autograd.is_recording():
        return losses_of(flat, weight, bias, targets, precision, gradients=False)[0]
    return _CrossEntropy(targets, precision)(flat, weight, bias)


def decoder_loss(
    model: mx.gluon.HybridBlock, features: Array, targets: np.ndarray | Array
) -> Array:
    """The losses (T*N,) of targets (T, N) by the decoder of ``model``, full or split."""
    ctx = features.context
    if hasattr(model.decoder, "loss"):  # gluonlm.model.adaptive.SplitDecoder
        return model.decoder.loss(features, targets, model.precision)
    weight, bias = model.decoder.weight.data(ctx), model.decoder.bias.data(ctx)
    targets = nd.array(targets, ctx, dtype="int32")
    return cross_entropy(features, weight, bias, targets, model.precision)


def as_ids(targets: np.ndarray | nd.NDArray) -> np.ndarray:
    """Word ids as NumPy has them; those of an NDArray are waited for."""
    ids = targets.asnumpy() if isinstance(targets, nd.NDArray) else targets
    return ids.astype(np.int64, copy=False)


class SampledSoftmax:
    """An estimate of :func:`decoder_loss` from a few words per segment: cheaper training.

    The candidates are the segment's targets and ``samples`` draws from the words' frequencies to
    the power 0.75. A candidate that is no target stands for all words that might have been drawn in
    its place: its logit is raised by -log of its probability to be drawn, which makes the estimated
    normalizer of every softmax unbiased (Horvitz & Thompson 1952; as importance sampling for
    language models: Bengio & Senecal 2003). Draws come from NumPy's global generator. Evaluation
    always uses the full softmax.

    :param counts: (V,) frequencies of the words in the training text.
    :param samples: number of draws per segment, repetitions count once.
    """

    def __init__(self, counts: np.ndarray, samples: int):
        weights = (counts + 1.0) ** 0.75
        shares = weights / weights.sum()
        self.samples, self.cumulative = samples, np.cumsum(shares)
        self.inclusion = -np.expm1(samples * np.log1p(-shares))  # (V,) P(drawn at least once)

    def candidates(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sorted word ids (K,) for these targets, and what is added to their logits (K,)."""
        points = np.random.random(self.samples) * self.cumulative[-1]
        drawn, needed = np.searchsorted(self.cumulative, points), np.unique(targets)
        ids = np.union1d(needed, drawn)
        return ids, np.where(np.isin(ids, needed), 0, -np.log(self.inclusion[ids]))

    def __call__(
        self, model: mx.gluon.HybridBlock, features: Array, targets: np.ndarray | Array
    ) -> Array:
        """The estimated losses (T*N,); arguments as those of :func:`decoder_loss`."""
        ctx, words = features.context, as_ids(targets)
        ids, correction = self.candidates(words)
        rows, places = nd.array(ids, ctx), nd.array(np.searchsorted(ids, words), ctx)
        matrix, (vocab_size, size) = model.decoder.weight.data(ctx), model.decoder.weight.shape
        sparse = matrix.grad is not None and matrix.grad.stype == "row_sparse"
        # take's gradient would be a whole matrix
        weight = nd.Embedding(rows, matrix, vocab_size, size, sparse_grad=sparse)
        bias = model.decoder.bias.data(ctx).take(rows) + nd.array(correction, ctx)
        return cross_entropy(features, weight, bias, places, model.precision)
