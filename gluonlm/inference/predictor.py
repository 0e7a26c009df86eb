"""One step of a model, fast: what generation and scoring ask again and again.

    >>> predictor = Predictor(model)
    >>> state = predictor.begin_state(1)
    >>> logits, state = predictor.predict(np.array([[4], [7]]), state)  # (2, 1, V)

A plain call of the model spends nearly all of its time around the arithmetic (one word, 200 units,
V = 10,000). Planning the graph once for the shapes at hand (``static_shape``) takes the layers from
1.2 to 0.3 ms of processor time, and NumPy's matrix-vector product with the decoder needs 0.2 ms
where MXNet's FullyConnected, made for many rows, needs more than 1. See ``benchmarks/generate.py``.
"""

from collections import defaultdict
from contextlib import nullcontext
from functools import cached_property
from weakref import WeakKeyDictionary

import mxnet as mx
import numpy as np

from gluonlm.model.adaptive import log_probabilities
from gluonlm.model.rnn import RNNModel
from gluonlm.model.softmax import decoder_loss
from gluonlm.system.threads import Threads, current, one_thread

State = list[mx.nd.NDArray]  # arrays (layers, N, H)
# where a sparse decoder makes a step faster (benchmarks/sparse.py)
CSR_SPARSITY, CSR_ROWS = 0.945, range(10, 51)
# up to so many rows products with vectors, on one thread, are faster than one with a matrix on all
FEW_ROWS = 2
# of each model: what is known of its speed outlives a predictor, as those of each validation
CHOSEN: WeakKeyDictionary = WeakKeyDictionary()


class _Planned(mx.gluon.HybridBlock):
    """A block under another plan of execution, which leaves the block itself as it is."""

    def __init__(self, block: mx.gluon.HybridBlock):
        super().__init__()
        self.block = (block,)  # in a tuple it is no child, so that hybridize() does not reach it
        self.hybridize(static_alloc=True, static_shape=True)

    def collect_params(self, select=None):
        return self.block[0].collect_params(select)

    def hybrid_forward(self, F, inputs, state):
        return self.block[0](inputs, state)


class Predictor:
    """A model as a function from NumPy to NumPy.

    The decoder's weights are copied for the first prediction: make a new one after training.

    :param ctx: the device of the recurrent layers and of the losses, by default the first one that
        the model is on. Logits and the choice of words are computed on the CPU.
    """

    steps = 70  # of a text to score at once: more need more memory and are not faster
    independent = True  # each column's figures are its own

    def __init__(self, model: RNNModel, ctx: mx.Context | None = None):
        self.model = model
        # for each number of threads one: a plan keeps that with which it was made
        self.plans = defaultdict(lambda: _Planned(model.body))
        self.ctx = ctx or model.decoder.weight.list_ctx()[0]
        self.edges = getattr(model.decoder, "edges", ())
        self.threads = CHOSEN.setdefault(model, {"predict": Threads(), "read": Threads()})

    @cached_property
    def decoder(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight (V, C) and bias (V,); of an adaptive softmax also of its clusters' entries."""
        kinds = ("", "cluster_") if self.edges else ("",)

        def whole(name: str) -> np.ndarray:
            parts = [getattr(self.model.decoder, kind + name).data(self.ctx) for kind in kinds]
            return np.concatenate([to_floats(part) for part in parts])

        return whole("weight"), whole("bias")

    @cached_property
    def matrix(self) -> mx.nd.NDArray:
        """The decoder's weight for MXNet, in the same memory."""
        return mx.nd.from_numpy(self.decoder[0])

    @cached_property
    def sparse_weight(self) -> mx.nd.sparse.CSRNDArray | None:
        """The decoder's weight without its zeros, None if there are few."""
        weight, _ = self.decoder
        sparse = np.mean(weight == 0) >= CSR_SPARSITY
        return mx.nd.array(weight).tostype("csr") if sparse else None

    def begin_state(self, batch_size: int) -> State:
        """A state of zeros for so many columns."""
        return self.model.begin_state(batch_size, self.ctx)

    def predict(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Token ids (T, N) and a state -> logits (T, N, V) float32 and the new state."""
        ids = np.array(ids, np.float32)
        few = ids.size <= FEW_ROWS
        with one_thread() if few else self.threads["predict"].timed(ids.size):
            inputs = mx.nd.from_numpy(ids).as_in_context(self.ctx)  # shares the copy's memory
            features, state = self.plans[tuple(current)](inputs, state)
            return self.logits(features), state

    def losses(self, ids: np.ndarray, targets: np.ndarray, state: State) -> tuple:
        """Ids and targets (T, N) and a state -> -ln p of the targets (T, N) and the new state."""
        losses, _, state = self.read(ids, targets, state)
        return losses, state

    def read(self, ids: np.ndarray, targets: np.ndarray, state: State) -> tuple:
        """The same with the features (T, N, C), which the decoder sees, in the middle."""
        with self.threads["read"].timed(np.size(ids)):
            features, state = self.model.body(mx.nd.array(ids, self.ctx), state)
            losses = decoder_loss(self.model, features, np.asarray(targets)).asnumpy()  # (T*N,)
        return losses.reshape(np.shape(targets)), features, state

    def losses_and_logits(self, ids: np.ndarray, targets: np.ndarray, state: State) -> tuple:
        """Losses (T, N), logits (T, N, V) and the new state, in one pass."""
        losses, features, state = self.read(ids, targets, state)
        with one_thread() if np.size(ids) <= FEW_ROWS else nullcontext():  # as predict
            return losses, self.logits(features), state

    def logits(self, features: mx.nd.NDArray) -> np.ndarray:
        """Those (T, N, V) of features (T, N, C); of an adaptive softmax log-probabilities."""
        logits = self.decode(to_floats(features))
        logits += self.decoder[1]
        return log_probabilities(logits, self.edges) if self.edges else logits

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Features (T, N, C) times the decoder's matrix, (T, N, V), in the fastest way; no bias."""
        rows = features.reshape(-1, features.shape[-1])  # (T*N, C)
        if self.sparse_weight is not None and len(rows) in CSR_ROWS:
            products = mx.nd.sparse.dot(self.sparse_weight, mx.nd.array(rows.T))  # (V, T*N)
            logits = np.ascontiguousarray(products.asnumpy().T)
        elif len(rows) <= FEW_ROWS:
            logits = np.matmul(self.decoder[0], rows[..., None])[..., 0]  # one product per row
        else:
            logits = mx.nd.dot(mx.nd.array(rows), self.matrix, transpose_b=True).asnumpy()
        return logits.reshape(*features.shape[:2], -1)


def to_floats(array: mx.nd.NDArray) -> np.ndarray:
    """An array as float32, which NumPy multiplies fast."""
    return array.asnumpy().astype(np.float32, copy=False)
