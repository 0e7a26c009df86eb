"""Products of integers in an ONNX graph, by ONNX Runtime's own 8-bit kernels.

MXNet 1.9.1 has such kernels too, and they fall short: where the processor has VNNI its quantized
LSTM says "could not create a primitive descriptor for a reorder primitive" (apache/mxnet issue
21061: oneDNN 2.4.4 wants the weights in another layout), and held back from VNNI it runs with
errors far above those of rounding. ``benchmarks/quantize.py`` shows both.

Here an input is made unsigned 8-bit integers and multiplied by the signed ones of the weights; sums
are 32-bit and exact, then scaled to float32 with the bias added. Gates, states and the softmax are
float32. Where an x86 processor has no VNNI, ONNX Runtime's sums of such pairs overflow unless the
session has ``session.x64quantprecision``, which makes the weights unsigned, too.

- Ranges known before: QuantizeLinear, MatMulIntegerToFloat; an LSTM's steps are a Scan.
- Ranges found at each call: DynamicQuantizeMatMul; an LSTM is DynamicQuantizeLSTM, unless its
  weights are asymmetric per row, which that operator refuses: then a Scan too.

The operators are Microsoft's: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from typing import NamedTuple

import numpy as np
from onnx import GraphProto, TensorProto, helper

from gluonlm.compress.quantization import grid_of
from gluonlm.model.quantized import Integers, Quantized
from gluonlm.onnx.builder import MICROSOFT, Graph

Grid = tuple[np.ndarray, np.ndarray]  # scale and zero point


class Lstm(NamedTuple):
    """The weights of an LSTM layer, with the gates in ONNX's order: input, output, forget, cell."""

    i2h: Integers  # (4*H, C)
    h2h: Integers  # (4*H, H)
    bias: np.ndarray  # (8*H,), of input-to-hidden, then of hidden-to-hidden


def multiply(
    graph: Graph, inputs: str, name: str, weight: Integers, bias: str = "", grid: Grid | None = None
) -> str:
    """Add the product of float32 inputs (..., C) with a weight (R, C), which is stored by its name,
    and a bias; returns a float32 (..., R). The ``grid`` is that of the inputs, None if it is found
    at each call."""
    values, scale, zero = graph.integers(name, weight)
    values = graph.node("Transpose", [values])  # ONNX Runtime does this once, as it loads
    if grid is None:
        operands = [inputs, values, scale, zero, bias]
        return graph.node("DynamicQuantizeMatMul", operands, domain=MICROSOFT)
    ends = (".input_scale", ".input_zero")
    own_scale, own_zero = (graph.weight(name + end, array) for end, array in zip(ends, grid))
    integers = graph.node("QuantizeLinear", [inputs, own_scale, own_zero])
    operands = [integers, values, own_scale, scale, own_zero, zero, bias]
    return graph.node("MatMulIntegerToFloat", operands, domain=MICROSOFT)


def add_linear(
    graph: Graph, stored: Quantized, part: str, inputs: str, signal: str, kind: str = ""
) -> str:
    """Add a linear map: of a layer (T, N, C) -> (T, N, R), of another part (M, C) -> (M, R). The
    ``signal`` says what its inputs are; ``kind`` comes before the names of weight and bias."""
    start = f"{part.replace('layer', 'layers.')}.{kind}"
    name = f"{start}weight"
    if name not in stored.weights:  # tied
        name = "encoder.weight"
    weight = stored.weights[name]
    bias = graph.weight(f"{start}bias", stored.weights[f"{start}bias"].astype(np.float32))
    if stored.schemes[part].multiplies_integers:
        return multiply(graph, inputs, name, weight, bias, grid_of(stored, part, signal))
    matrix = graph.floats(name, weight)
    if part.startswith("layer"):  # Gemm takes matrices only
        matrix = graph.node("Transpose", [matrix])  # once, as the file is loaded
        return graph.node("Add", [graph.node("MatMul", [inputs, matrix]), bias])
    return graph.node("Gemm", [inputs, matrix, bias], transB=1)


def add_lookup(graph: Graph, name: str, weight: Integers, ids: str, output: str) -> str:
    """Add an embedding of ids (T, N); returns the name ``output`` of float32 vectors (T, N, E)."""
    values, scale, zero = graph.integers(name, weight)
    if weight.scale.ndim:  # a scale and a zero point for each word: (T, N, 1)
        last = graph.weight("last_axis", np.array([1]))
        columns = (graph.node("Unsqueeze", [part, last]) for part in (scale, zero))
        scale, zero = (graph.node("Gather", [column, ids]) for column in columns)
    text = """integers = Gather (values, ids)
        x = Cast <to = 1> (integers)  # float
        z = Cast <to = 1> (zero)
        steps = Sub (x, z)
        output = Mul (steps, scale)"""
    names = {"values": values, "ids": ids, "zero": zero, "scale": scale, "output": output}
    return graph.add(text, names)


def add_lstm(
    graph: Graph, index: int, inputs: str, weights: Lstm, grids: tuple[Grid | None, Grid | None]
) -> str:
    """Add an LSTM layer; returns the name of its outputs (T, N, H). The ``grids`` are those of its
    inputs and of its own state, None if they are found at each call."""
    i2h, h2h, bias = weights
    asymmetric_rows = i2h.scale.ndim and (i2h.zero.any() or h2h.zero.any())
    if grids[0] is None and not asymmetric_rows:
        return add_dynamic_lstm(graph, index, inputs, weights)
    name = f"layers.{index}"
    both = graph.weight(f"{name}.bias", bias.reshape(2, -1).sum(axis=0))
    gates = multiply(graph, inputs, f"{name}.i2h_weight", i2h, both, grids[0])  # (T, N, 4*H)
    return add_scan(graph, index, gates, h2h, grids[1])


def add_dynamic_lstm(graph: Graph, index: int, inputs: str, weights: Lstm) -> str:
    """Add an LSTM layer that measures ranges: of inputs at each call, of its state at each step.

    ONNX Runtime does so for the columns of each thread: results depend a little on their number.
    """
    name, part = f"layers.{index}", f"layer{index}"
    matrices, grids = [], []
    for kind, own in (("i2h_weight", weights.i2h), ("h2h_weight", weights.h2h)):
        turned = Integers(own.values.T[None], own.scale[None], own.zero[None])  # (1, C, 4*H)
        values, *grid = graph.integers(f"{name}.{kind}", turned)
        matrices.append(values)
        grids += grid
    bias = graph.weight(f"{name}.bias", weights.bias[None])
    operands = [inputs, *matrices, bias, "", f"h{index}", f"c{index}", "", *grids]
    outputs = [f"{part}.outputs", f"h{index}_out", f"c{index}_out"]  # (T, 1, N, H), states
    options = {"hidden_size": len(weights.bias) // 8, "domain": MICROSOFT}
    graph.node("DynamicQuantizeLSTM", operands, *outputs, **options)
    return graph.node("Squeeze", [outputs[0], graph.weight("direction", np.array([1]))], part)


def add_scan(graph: Graph, index: int, gates: str, h2h: Integers, grid: Grid | None) -> str:
    """Add the steps of an LSTM layer: its inputs' share of the gates (T, N, 4*H) -> (T, N, H).

    The body has its weights within: ``session.x64quantprecision`` makes unsigned only those.
    """
    layer, first = f"layer{index}", graph.weight("first", np.array([0]))
    states = [graph.node("Squeeze", [f"{letter}{index}", first]) for letter in "hc"]  # (N, H)
    ends = [f"{layer}.{letter}" for letter in "hc"]
    step = lstm_step(Graph(graph, f"{layer}.step."), f"layers.{index}.h2h_weight", h2h, grid)
    graph.node("Scan", [*states, gates], *ends, layer, body=step, num_scan_inputs=1)
    for letter, end in zip("hc", ends, strict=True):
        graph.node("Unsqueeze", [end, first], f"{letter}{index}_out")
    return layer


def lstm_step(body: Graph, name: str, h2h: Integers, grid: Grid | None) -> GraphProto:
    """The body of a Scan: h, c (N, H), the inputs' share of the gates (N, 4*H) -> new h, c; h."""
    size = h2h.shape[1]
    inputs = {"h": size, "c": size, "gates": 4 * size}.items()
    h, c, share = (body.input(body.prefix + n, TensorProto.FLOAT, ["N", w]) for n, w in inputs)
    total = body.node("Add", [share, multiply(body, h, name, h2h, grid=grid)])
    sigmoids, cell, i, o, f = (body.prefix + name for name in ("sigmoids", "cell", "i", "o", "f"))
    sizes = body.weight(f"gates_{size}", np.array([3 * size, size]))
    body.node("Split", [total, sizes], sigmoids, cell, axis=1)
    body.node("Split", [body.node("Sigmoid", [sigmoids])], i, o, f, axis=1)
    kept, written = body.node("Mul", [f, c]), body.node("Mul", [i, body.node("Tanh", [cell])])
    new_c = body.node("Add", [kept, written])
    new_h = body.node("Mul", [o, body.node("Tanh", [new_c])])
    for name in (new_h, new_c, body.node("Identity", [new_h])):
        body.output(name, ["N", size])
    whole = body.inputs, body.outputs, body.tensors()
    return helper.make_graph(body.nodes, f"{body.prefix}body", *whole)
