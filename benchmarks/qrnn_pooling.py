"""Ways to compute the pooling of a QRNN in MXNet: gates (T, N, 3H) and c0 (1, N, H) -> h and c,
both (T, N, H).

    c[t] = f[t] c[t-1] + (1 - f[t]) z[t],  h[t] = o[t] c[t]

The package keeps ``operator``; benchmarks/qrnn.py measures it against the others. Each is a
function of NDArrays, with gradients through autograd.
"""

from collections.abc import Callable

import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import HybridBlock

from gluonlm.system import native

Pooling = Callable[[nd.NDArray, nd.NDArray], tuple[nd.NDArray, nd.NDArray]]


class Block(HybridBlock):
    """A pooling as a compiled graph; T must be given where the graph depends on it."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.hybridize(static_alloc=True, static_shape=True)

    def hybrid_forward(self, F, gates, c):
        z, f, o = F.split(gates, num_outputs=3, axis=2)
        z, f, o = (
            F.Activation(z, act_type="tanh"),
            F.Activation(f, act_type="sigmoid"),
            F.Activation(o, act_type="sigmoid"),
        )
        cells = self.pool(F, f, (1 - f) * z, c)
        return o * cells, cells


class Loop(Block):
    """Step by step: T times two small operators."""

    def pool(self, F, f, update, c):
        cells = []
        pairs = (
            zip(*(F.split(array, num_outputs=self.steps, axis=0) for array in (f, update)))
            if self.steps > 1
            else [(f, update)]
        )
        for kept, new in pairs:
            c = kept * c + new
            cells.append(c)
        return F.concat(*cells, dim=0)


class Foreach(Block):
    """The same as MXNet's loop operator, which knows no T."""

    def pool(self, F, f, update, c):
        def step(pair, c):
            c = pair[0] * c + pair[1]
            return c, c

        cells, _ = F.contrib.foreach(step, [f, update], F.squeeze(c, axis=0))
        return cells


class Scan(Block):
    """In log2(T) steps of all T at once: two neighbouring steps are one step of the same form
    (Blelloch 1990)."""

    def pool(self, F, f, update, c):
        first = F.slice_axis(f, axis=0, begin=0, end=1) * c + F.slice_axis(
            update, axis=0, begin=0, end=1
        )
        b = (
            F.concat(first, F.slice_axis(update, axis=0, begin=1, end=None), dim=0)
            if self.steps > 1
            else first
        )
        a, distance = f, 1
        while distance < self.steps:
            head, tail = (
                F.slice_axis(b, axis=0, begin=0, end=end) for end in (distance, -distance)
            )
            late = F.slice_axis(
                a, axis=0, begin=distance, end=None
            )  # what step t keeps of step t - distance
            b = F.concat(
                head, F.slice_axis(b, axis=0, begin=distance, end=None) + late * tail, dim=0
            )
            a = F.concat(
                F.slice_axis(a, axis=0, begin=0, end=distance),
                late * F.slice_axis(a, axis=0, begin=0, end=-distance),
                dim=0,
            )
            distance *= 2
        return b


class NumpyRecurrence(autograd.Function):
    """c of f and update by a loop in NumPy, with its gradient; every call waits for what it
    needs."""

    def forward(self, f, update, c):
        f, cells = f.asnumpy(), update.asnumpy().copy()
        previous = start = c.asnumpy()[0]
        buffer = np.empty_like(previous)
        for kept, cell in zip(f, cells, strict=True):
            np.multiply(kept, previous, out=buffer)
            cell += buffer
            previous = cell
        self.kept, self.before = f, np.concatenate([start[None], cells[:-1]])
        return nd.array(cells)

    def backward(self, gradient):
        gradient = gradient.asnumpy().copy()
        for t in range(len(gradient) - 1, 0, -1):
            gradient[t - 1] += self.kept[t] * gradient[t]
        return (
            nd.array(gradient * self.before),
            nd.array(gradient),
            nd.array((self.kept[0] * gradient[0])[None]),
        )


class Numpy:
    """A loop over T in NumPy between operators of MXNet; outside of any graph, since it is
    Python."""

    def __init__(self, steps: int):
        self.steps = steps

    def __call__(self, gates, c):
        z, f, o = nd.split(gates, num_outputs=3, axis=2)
        z, f, o = (
            nd.Activation(z, act_type="tanh"),
            nd.Activation(f, act_type="sigmoid"),
            nd.Activation(o, act_type="sigmoid"),
        )
        cells = NumpyRecurrence()(f, (1 - f) * z, c)
        return o * cells, cells


def operator(steps: int) -> Pooling:
    """The package's: nonlinearities, loop and their gradients in one pass of compiled code
    (gluonlm/model/fo_pool.c)."""
    native.load_operators("fo_pool")
    return nd.gluonlm_fo_pool


CANDIDATES: dict[str, Callable[[int], Pooling]] = {
    "operator": operator,
    "numpy": Numpy,
    "scan": Scan,
    "foreach": Foreach,
    "loop": Loop,
}
