"""What MXNet 1.9.1's own 8-bit kernels do on this processor; prints JSON. A part of
benchmarks/quantize.py.

python benchmarks/quantize_mxnet.py            # all
python benchmarks/quantize_mxnet.py lstm       # the quantized LSTM in this process
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

import gluonlm
from gluonlm.compress.quantization import (
    ACTIVATIONS,
    Integers,
    quantize_matrix,
    scale_and_zero,
    to_integers,
)
from gluonlm.onnx.builder import Graph
from gluonlm.onnx.integer import multiply
from gluonlm.onnx.session import open_session

import mxnet as mx  # isort: skip  after gluonlm, which makes it fast

T, N, H = 5, 2, 64
LIMITS = {
    "as it is": {},
    "without VNNI": {"DNNL_MAX_CPU_ISA": "AVX512_CORE"},
}  # of oneDNN's instructions
ROWS, C, V, ROUNDS = 160, 200, 10_000, 15


def lstm() -> dict:
    """MXNet's LSTM in float32 and quantized, on the same weights: the largest difference of their
    outputs, or why not.

    For scale, what weights and inputs lose by the same rounding when all else is exact.
    """
    random = np.random.default_rng(0)
    flat = random.uniform(-0.125, 0.125, 4 * H * (2 * H + 2)).astype(np.float32)
    inputs = random.uniform(-1, 1, (T, N, H)).astype(np.float32)
    zeros, settings = (
        mx.nd.zeros((1, N, H)),
        {"state_size": H, "num_layers": 1, "mode": "lstm", "state_outputs": True},
    )
    exact = mx.nd.RNN(mx.nd.array(inputs), mx.nd.array(flat), zeros, zeros, **settings)[0].asnumpy()
    rounded = flat.copy()
    for part in (rounded[: 4 * H * H], rounded[4 * H * H : 8 * H * H]):
        part[:] = (
            quantize_matrix(part.reshape(4 * H, H), symmetric=True, rows=True).floats().reshape(-1)
        )
    grid = scale_and_zero(-1, 1, False, ACTIVATIONS)
    near = (to_integers(inputs, *grid).astype(np.float32) - float(grid[1])) * grid[0]
    simulated = mx.nd.RNN(mx.nd.array(near), mx.nd.array(rounded), zeros, zeros, **settings)[
        0
    ].asnumpy()
    data, weights, h, c = (mx.sym.Variable(name) for name in ("data", "weights", "h", "c"))
    integers, scale, shift = mx.sym.contrib.quantize_asym(data)
    outputs = mx.sym.contrib.quantized_rnn(
        data=integers,
        parameters=weights,
        state=h,
        state_cell=c,
        min_data=scale,
        max_data=shift,
        **settings,
    )
    arguments = {"data": mx.nd.array(inputs), "weights": mx.nd.array(flat), "h": zeros, "c": zeros}
    result = {"error_of_rounding": float(np.abs(simulated - exact).max())}
    try:
        found = (
            outputs.bind(mx.cpu(), arguments, grad_req="null").forward(is_train=False)[0].asnumpy()
        )
        result["error"] = float(np.abs(found - exact).max())
    except mx.MXNetError as error:
        result["raises"] = str(error).strip().splitlines()[-1]
    return result


def lstms() -> dict:
    """:func:`lstm` in a process for each limit."""
    found = {}
    for name, variables in LIMITS.items():
        command = [sys.executable, __file__, "lstm"]
        ended = subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | variables
        )
        found[name] = json.loads(ended.stdout)
    return found


def fully_connected() -> dict:
    """Milliseconds of a decoder's product (rows, C) x (C, V), median: MXNet's float32 and INT8,
    ONNX Runtime's INT8.

    MXNet's ends with 32-bit integers, which another operator would have to scale; ONNX Runtime's
    with float32.
    """
    random = np.random.default_rng(1)
    weight, times = random.uniform(-0.1, 0.1, (V, C)).astype(np.float32), {}
    for rows in (1, ROWS):
        ways = products(random.uniform(-1, 1, (rows, C)).astype(np.float32), weight)
        seconds = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
        medians = {
            name: float(np.median(values[3:])) for name, values in seconds.items()
        }  # the first have warmed up
        times[f"{rows} rows"] = {name: round(1000 * median, 3) for name, median in medians.items()}
    return times


def products(inputs: np.ndarray, weight: np.ndarray) -> dict[str, Callable[[], object]]:
    """Functions that multiply inputs (rows, C) with a weight (V, C)."""
    stored, bias = quantize_matrix(weight, symmetric=True, rows=True), np.zeros(V, np.float32)
    x, w, b = mx.nd.array(inputs), mx.nd.array(weight), mx.nd.array(bias)
    qx, qw = (
        mx.nd.array(np.rint(inputs * 127), dtype="int8"),
        mx.nd.array(stored.values, dtype="int8"),
    )
    qb, limits = (
        mx.nd.zeros(V, dtype="int8"),
        [mx.nd.array([value]) for value in (-1, 1, -0.1, 0.1, -1, 1)],
    )
    session = onnx_session(stored, bias)

    def mxnet_int8():
        integers, *_ = mx.nd.contrib.quantized_fully_connected(qx, qw, qb, *limits, num_hidden=V)
        integers.wait_to_read()

    return {
        "mxnet float32": lambda: mx.nd.FullyConnected(x, w, b, num_hidden=V).wait_to_read(),
        "mxnet int8": mxnet_int8,
        "onnx int8": lambda: session.run(None, {"x": inputs}),
    }


def onnx_session(weight: Integers, bias: np.ndarray):
    """The product by integers in ONNX Runtime."""
    graph, grid = Graph(), scale_and_zero(-1, 1, True, ACTIVATIONS)
    inputs = graph.input("x", 1, ["M", C])  # 1: float32
    scores = multiply(graph, inputs, "w", weight, graph.weight("b", bias), grid)
    graph.output(scores, ["M", V])
    return open_session(graph.model({}).SerializeToString(), gluonlm.RUNTIME.threads)


if __name__ == "__main__":
    found = (
        lstm()
        if sys.argv[1:] == ["lstm"]
        else {"lstm": lstms(), "fully_connected_ms": fully_connected()}
    )
    print(json.dumps(found))
