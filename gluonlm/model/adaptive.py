"""Adaptive softmax: a decoder for large vocabularies that looks at rare words only where needed.

    python -m gluonlm.train --data wikitext-103 --preset awd         # splits it at the usual places
    python -m gluonlm.train --data wikitext-2 --tied --splits 2800 20000

Words are numbered by falling frequency. Those before the first split, and one entry for each
cluster between splits, share the first softmax (the head); the words of a cluster share another one
under their entry:

    p(word) = p_head(word), or p_head(cluster of the word) p_cluster(word).

All rows have the same size, so the matrix can be tied to the embedding, and it is a distribution
over all words: its probabilities sum to 1. A simplification of Grave et al. 2017 (arXiv:1609.04309)
as in the AWD-LSTM toolkit (Merity, Keskar & Socher 2018, arXiv:1803.08240, section 2.4).

Shapes: B tokens, C features, V words, K clusters, S words before the first split.
"""

import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import nn

from gluonlm.model.softmax import as_ids, gradients_of, losses_of
from gluonlm.system.errors import UserError

USUAL = ((500_000, (4200, 35_000, 180_000)), (75_000, (2800, 20_000, 76_000)))


def usual_splits(vocab_size: int) -> tuple[int, ...]:
    """Where the AWD-LSTM toolkit splits a vocabulary of this size; nowhere up to 75,000 words."""
    usual = next((splits for least, splits in USUAL if vocab_size > least), ())
    return tuple(split for split in usual if split < vocab_size)


def check_splits(splits: tuple[int, ...], vocab_size: int) -> None:
    """Raise a UserError unless the split points rise and leave no cluster empty."""
    edges = (0, *splits, vocab_size)
    if any(before >= after for before, after in zip(edges, edges[1:], strict=False)):
        shown = " ".join(map(str, splits))
        raise UserError(f"--splits {shown}: give rising numbers from 1 to {vocab_size - 1}")


class SplitDecoder(nn.Dense):
    """A decoder: features (T, N, C) -> log-probabilities (T, N, V), which serve as logits; at the
    word ids ``splits`` the clusters begin."""

    def __init__(self, vocab_size: int, splits: tuple[int, ...], in_units: int, **kwargs):
        check_splits(splits, vocab_size)
        super().__init__(vocab_size, in_units=in_units, flatten=False, **kwargs)
        self.edges = (*splits, vocab_size)
        with self.name_scope():  # the head's entries for the clusters
            init, shape = kwargs.get("weight_initializer"), (len(splits), in_units)
            self.cluster_weight = self.params.get("cluster_weight", shape=shape, init=init)
            self.cluster_bias = self.params.get("cluster_bias", shape=(len(splits),), init="zeros")

    def hybrid_forward(self, F, x, weight, bias, cluster_weight, cluster_bias):
        first, size = self.edges[0], self.edges[-1] + len(self.edges) - 1  # V + K
        weight, bias = F.concat(weight, cluster_weight, dim=0), F.concat(bias, cluster_bias, dim=0)
        scores = F.FullyConnected(x, weight, bias, num_hidden=size, flatten=False)

        def part(array, begin, end):
            return F.slice_axis(array, axis=-1, begin=begin, end=end)

        head = F.concat(part(scores, 0, first), part(scores, self.edges[-1], None), dim=-1)
        head = F.log_softmax(head)
        parts = [part(head, 0, first)]
        for k, (begin, end) in enumerate(zip(self.edges, self.edges[1:], strict=False), first):
            own = F.log_softmax(part(scores, begin, end))
            parts.append(F.broadcast_add(own, part(head, k, k + 1)))
        return F.concat(*parts, dim=-1)

    def loss(
        self, features: nd.NDArray, targets: np.ndarray | nd.NDArray, precision: str = "float32"
    ) -> nd.NDArray:
        """-ln p (T*N,) of targets (T, N); clusters without a target cost nothing."""
        ctx = features.context
        names = ("weight", "bias", "cluster_weight", "cluster_bias")
        arrays = [getattr(self, name).data(ctx) for name in names]
        words, recording = as_ids(targets).ravel(), autograd.is_recording()
        loss = _SplitCrossEntropy(words, self.edges, precision, gradients=recording)
        return loss(features.reshape((-1, features.shape[-1])), *arrays)


def log_probabilities(scores: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    """What :class:`SplitDecoder` gives, in NumPy, which is faster for a few words, and in place.

    :param scores: (..., V + K): those of all words, then those of the clusters' entries.
    :return: (..., V).
    """

    def total(part):  # log of the sum of exp
        highest = part.max(axis=-1, keepdims=True)
        return highest + np.log(np.exp(part - highest).sum(axis=-1, keepdims=True))

    words, entries = scores[..., : edges[-1]], scores[..., edges[-1] :]
    first = words[..., : edges[0]]
    entries -= (whole := total(np.concatenate([first, entries], axis=-1)))
    first -= whole
    for k, (begin, end) in enumerate(zip(edges, edges[1:], strict=False)):
        own = words[..., begin:end]
        own += entries[..., k : k + 1] - total(own)
    return words


class _SplitCrossEntropy(autograd.Function):
    """The losses of ``words`` (B,): that of the head, for a cluster's word also that within."""

    def __init__(self, words: np.ndarray, edges: tuple[int, ...], precision: str, gradients: bool):
        super().__init__()
        self.words, self.edges, self.how, self.parts = words, edges, (precision, gradients), []

    def forward(self, features, weight, bias, cluster_weight, cluster_bias):
        ctx, first = features.context, self.edges[0]
        # 0: the head, k: from edge k - 1 on
        cluster = np.searchsorted(self.edges[:-1], self.words, side="right")
        in_head = np.where(cluster == 0, self.words, first + cluster - 1)
        head_weight = nd.concat(weight[:first], cluster_weight, dim=0)
        head_bias = nd.concat(bias[:first], cluster_bias, dim=0)
        targets = nd.array(in_head, ctx, dtype="int32")
        losses, head = losses_of(features, head_weight, head_bias, targets, *self.how)
        self.parts = [(None, slice(0, first), head)]
        for k, (begin, end) in enumerate(zip(self.edges, self.edges[1:], strict=False), 1):
            rows = np.flatnonzero(cluster == k)
            if len(rows):
                chosen = nd.array(rows, ctx, dtype="int32")
                local = nd.array(self.words[rows] - begin, ctx, dtype="int32")
                part = features.take(chosen), weight[begin:end], bias[begin:end]
                own, saved = losses_of(*part, local, *self.how)
                losses[chosen] = losses.take(chosen) + own
                self.parts.append((chosen, slice(begin, end), saved))
        self.shapes = weight.shape, cluster_weight.shape
        return losses

    def backward(self, head):
        (whole, first, saved), *others = self.parts
        self.parts = []
        ctx = head.context
        weight, bias = nd.zeros(self.shapes[0], ctx), nd.zeros(self.shapes[0][:1], ctx)
        features, head_weight, head_bias = gradients_of(saved, head)
        weight[first], bias[first] = head_weight[first], head_bias[first]
        for rows, part, saved in others:
            own, _, bias[part] = gradients_of(saved, head.take(rows), out=weight[part])
            features[rows] = features.take(rows) + own
        return features, weight, bias, head_weight[first.stop :], head_bias[first.stop :]
