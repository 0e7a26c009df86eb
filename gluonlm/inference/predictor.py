"""One step of a model, fast: what generation and scoring ask again and again.

    >>> predictor = Predictor(model)
    >>> logits, state = predictor.predict(np.array([[4], [7]]), predictor.begin_state(1))  # (2, 1, V)

Measured for one word at 200 units and V = 10,000, on two cores that were not idle: a plain call of the model spends
nearly all of its time around the arithmetic. Planning the graph once for the shapes at hand (``static_shape``) takes
the layers from 1.2 to 0.3 ms of processor time, and NumPy's matrix-vector product with the decoder needs 0.2 ms where
MXNet's FullyConnected, which is made for many rows, needs more than 1 ms. See ``benchmarks/generate.py``.
"""

import mxnet as mx
import numpy as np

from gluonlm.model.adaptive import log_probabilities
from gluonlm.model.rnn import RNNModel

CSR_SPARSITY, CSR_ROWS = (
    0.945,
    range(10, 51),
)  # where a sparse decoder makes a step faster (benchmarks/sparse.py)
MATRIX_ROWS = 12  # up to so many rows, products with vectors are faster than one with a matrix (V = 10,000, C = 200)


class _Planned(mx.gluon.HybridBlock):
    """A block under another plan of execution: hybridizing this one leaves the block itself as it is."""

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

    The decoder's weights are copied when it is made: make a new one after further training.

    :param ctx: the device of the recurrent layers, by default the first one that the model is on. The decoder and
        the choice of words are computed on the CPU.
    """

    def __init__(self, model: RNNModel, ctx: mx.Context | None = None):
        self.model, self.body = model, _Planned(model.body)
        self.ctx = ctx or model.decoder.weight.list_ctx()[0]
        self.weight = to_floats(model.decoder.weight.data(self.ctx))  # (V, C)
        self.bias = to_floats(model.decoder.bias.data(self.ctx))  # (V,)
        self.splits = getattr(model.decoder, "splits", ())
        if self.splits:
            clusters = (
                model.decoder.cluster_weight.data(self.ctx),
                model.decoder.cluster_bias.data(self.ctx),
            )
            self.weight, self.bias = (
                np.concatenate([words, entries.asnumpy()])
                for words, entries in zip((self.weight, self.bias), clusters, strict=True)
            )
        sparse = np.mean(self.weight == 0) >= CSR_SPARSITY
        self.sparse_weight = mx.nd.array(self.weight).tostype("csr") if sparse else None

    def begin_state(self, batch_size: int) -> list[mx.nd.NDArray]:
        """A state of zeros for so many columns."""
        return self.model.begin_state(batch_size, self.ctx)

    def predict(
        self, ids: np.ndarray, state: list[mx.nd.NDArray]
    ) -> tuple[np.ndarray, list[mx.nd.NDArray]]:
        """Token ids (T, N) and a state -> logits (T, N, V) float32 and the new state."""
        inputs = mx.nd.from_numpy(np.array(ids, np.float32)).as_in_context(
            self.ctx
        )  # shares the copy's memory
        features, state = self.body(inputs, state)
        logits = self.decode(to_floats(features))
        logits += self.bias
        return (log_probabilities(logits, self.splits) if self.splits else logits), state

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Features (T, N, C) times the decoder's matrix, (T, N, V), without its bias, in the fastest way."""
        rows = features.reshape(-1, features.shape[-1])  # (T*N, C)
        if self.sparse_weight is not None and len(rows) in CSR_ROWS:
            products = mx.nd.sparse.dot(
                self.sparse_weight, mx.nd.array(rows.T)
            ).asnumpy()  # (V, T*N)
            logits = np.ascontiguousarray(products.T)
        elif len(rows) <= MATRIX_ROWS:
            logits = np.matmul(self.weight, rows[..., None])[..., 0]  # one product per row
        else:
            logits = rows @ self.weight.T
        return logits.reshape(*features.shape[:2], -1)


def to_floats(array: mx.nd.NDArray) -> np.ndarray:
    """An array as float32, which NumPy multiplies fast."""
    return array.asnumpy().astype(np.float32, copy=False)
