"""A Transformer's layer in an ONNX graph: what :mod:`gluonlm.model.transformer` computes, node by
node.

Shapes: T steps, M the memory's, S = M + T, N batch columns, E embedding size, d = E / heads.
"""

import numpy as np
from onnx import TensorProto, helper

from gluonlm.config import Config
from gluonlm.model.quantized import Quantized
from gluonlm.onnx.builder import LARGEST, Graph
from gluonlm.onnx.integer import add_map

HIDDEN = np.float32(1e9)  # taken off the score of what must not be seen


def add_transformer_layer(
    graph: Graph, config: Config, stored: Quantized, index: int, inputs: str
) -> str:
    """Add a Transformer's layer with its states; returns the name of its outputs (T, N, E)."""

    root = graph.weight("width_root", np.float32(config.emsize**0.5))

    def norm(stream: str) -> str:
        return graph.node("Mul", [graph.node("LpNormalization", [stream], axis=-1, p=2), root])

    def linear(rows: str, name: str) -> str:
        return add_map(graph, stored, index, rows, "", f"{name}_")

    stream = inputs
    if index == 0:
        stream = graph.node("Mul", [inputs, root])
    # 1. attention
    normed = norm(stream)
    name = f"layers.{index}.position_bias"
    bias = stored.weights[name].astype(np.float32).reshape(config.nhead, -1)
    bias = graph.weight(name, bias)
    states = add_memory(graph, config, index, linear(normed, "key_value"))
    gathered = add_attention(graph, config, bias, linear(normed, "query"), states)
    stream = graph.node("Add", [stream, linear(gathered, "output")])
    # 2. the map of each word
    inner = graph.node("Relu", [linear(norm(stream), "inner")])
    outer = linear(inner, "outer")
    if index < config.nlayers - 1:
        return graph.node("Add", [stream, outer], f"layer{index}")
    final = norm(graph.node("Add", [stream, outer]))
    return graph.node("Identity", [final], f"layer{index}")


def add_memory(graph: Graph, config: Config, index: int, new: str) -> tuple[str, str]:
    """Add the states: keys and values (S, N, 2E) of all that may be seen, and whether it is there
    (S, N, 1)."""
    zero, size, one = (graph.weight(f"at{at}", np.array([at])) for at in (0, 2, 1))
    columns = graph.node("Slice", [graph.node("Shape", [new]), zero, size])
    shape = graph.node("Concat", [columns, one], axis=0)
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    there = graph.node("ConstantOfShape", [shape], value=ones)  # (T, N, 1)
    newest, end = (graph.weight(f"at{at}", np.array([at])) for at in (-config.memory, LARGEST))
    longer = []
    for name, width, now in (("pairs", 2 * config.emsize, new), ("seen", 1, there)):
        before = graph.state(f"{name}{index}", width, config.memory)
        longer.append(graph.node("Concat", [before, now], axis=0))
        graph.node("Slice", [longer[-1], newest, end, zero], f"{name}{index}_out")
    return tuple(longer)


def add_attention(
    graph: Graph, config: Config, bias: str, query: str, states: tuple[str, str]
) -> str:
    """Add the attention of queries (T, N, E) to the states; returns the name of what they gather
    (T, N, E)."""
    heads, size = config.nhead, config.emsize // config.nhead
    pairs, seen = states
    # 1. each head by itself: (N, heads, T, d) times (N, heads, d, S)
    by_head = graph.weight("by_head", np.array([0, 0, heads, -1]))
    query = graph.node("Transpose", [graph.node("Reshape", [query, by_head])], perm=[1, 2, 0, 3])
    keys, values = f"{pairs}.keys", f"{pairs}.values"
    graph.node("Split", [graph.node("Reshape", [pairs, by_head])], keys, values, axis=3)
    keys = graph.node("Transpose", [keys], perm=[1, 2, 3, 0])
    root = graph.weight("root", np.float32(size**-0.5))
    scores = graph.node("Mul", [graph.node("MatMul", [query, keys]), root])
    # 2. what counts besides is the distance; what is too far, still to come or not there is out of
    # sight
    scores = graph.node("Add", [scores, add_bias(graph, config, bias, query, keys)])
    missing = graph.node("LessOrEqual", [seen, graph.weight("nothing", np.float32(0))])
    missing = graph.node("Transpose", [out_of_sight(graph, missing)], perm=[1, 2, 0])
    missing = graph.node("Unsqueeze", [missing, graph.weight("at1", np.array([1]))])
    weights = graph.node("Softmax", [graph.node("Sub", [scores, missing])], axis=-1)
    # 3. the mean of the values by these weights
    values = graph.node("Transpose", [values], perm=[1, 2, 0, 3])
    gathered = graph.node("MatMul", [weights, values])  # (N, heads, T, d)
    gathered = graph.node("Transpose", [gathered], perm=[2, 0, 1, 3])
    return graph.node("Reshape", [gathered, graph.weight("together", np.array([0, 0, -1]))])


def add_bias(graph: Graph, config: Config, bias: str, query: str, keys: str) -> str:
    """Add what the distance adds to the scores of queries (N, heads, T, d) and keys (.., d, S):
    (heads, T, S)."""
    zero, one, memory = (
        graph.weight(f"number{n}", np.array(n, np.int64)) for n in (0, 1, config.memory)
    )

    def places(array: str, axis: int, start: str, new_axis: int) -> str:
        length = graph.node(
            "Gather", [graph.node("Shape", [array]), graph.weight(f"axis{axis}", np.array(axis))]
        )
        range_ = graph.node("Range", [start, graph.node("Add", [start, length]), one])
        return graph.node(
            "Unsqueeze", [range_, graph.weight(f"at{new_axis}", np.array([new_axis]))]
        )

    distance = graph.node("Sub", [places(query, 2, memory, 1), places(keys, 3, zero, 0)])  # (T, S)
    inside = graph.node("Clip", [distance, zero, memory])
    by_distance = graph.node("Gather", [bias, inside], axis=1)
    outside = graph.node("Not", [graph.node("Equal", [distance, inside])])
    return graph.node("Sub", [by_distance, out_of_sight(graph, outside)])


def out_of_sight(graph: Graph, condition: str) -> str:
    """Add a number that is large where a condition holds."""
    large = graph.weight("large", HIDDEN)
    return graph.node("Mul", [graph.node("Cast", [condition], to=TensorProto.FLOAT), large])
