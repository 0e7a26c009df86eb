"""A Transformer's layer in an ONNX graph: what :mod:`gluonlm.model.transformer` computes.

Shapes: T steps, M the memory's, S = M + T, N batch columns, E embedding size, d = E / heads.
"""

import numpy as np

from gluonlm.config import Config
from gluonlm.model.quantized import Quantized
from gluonlm.onnx.builder import LARGEST, Graph
from gluonlm.onnx.integer import add_linear

ATTENTION = """
# each head by itself
q_heads = Reshape (query, heads)
q = Transpose <perm = [1, 2, 0, 3]> (q_heads)  # (N, heads, T, d)
pairs_heads = Reshape (pairs, heads)
k_heads, v_heads = Split <axis = 3> (pairs_heads)
k = Transpose <perm = [1, 2, 3, 0]> (k_heads)  # (N, heads, d, S)
v = Transpose <perm = [1, 2, 0, 3]> (v_heads)  # (N, heads, S, d)
product = MatMul (q, k)
scaled = Mul (product, root)  # (N, heads, T, S)
# what counts besides is the distance
length = Shape <start = 0, end = 1> (query)
steps = Squeeze (length)
all_steps = Add (steps, memory)
own = Range (memory, all_steps, one)
rows = Unsqueeze (own, axis)  # (T, 1)
others = Range (zero, all_steps, one)  # (S,)
distance = Sub (rows, others)
inside = Clip (distance, zero, memory)
by_distance = Gather <axis = 1> (bias, inside)  # (heads, T, S)
scores = Add (scaled, by_distance)
# what is too far, still to come or not there is out of sight
near = Equal (distance, inside)
there = Greater (seen, nothing)
by_column = Transpose <perm = [1, 2, 0]> (there)
for_heads = Unsqueeze (by_column, axis)  # (N, 1, 1, S)
visible = And (near, for_heads)
masked = Where (visible, scores, hidden)
# the mean of the values by these weights
weights = Softmax <axis = -1> (masked)
mean = MatMul (weights, v)  # (N, heads, T, d)
by_step = Transpose <perm = [2, 0, 1, 3]> (mean)
gathered = Reshape (by_step, together)
"""


def add_transformer_layer(
    graph: Graph, config: Config, stored: Quantized, index: int, inputs: str
) -> str:
    """Add a Transformer's layer with its states; returns the name of its outputs (T, N, E)."""
    root = graph.weight("width_root", np.float32(config.emsize**0.5))

    def norm(stream: str) -> str:
        return graph.node("Mul", [graph.node("LpNormalization", [stream], axis=-1, p=2), root])

    def linear(rows: str, name: str) -> str:
        return add_linear(graph, stored, f"layer{index}", rows, "", f"{name}_")

    stream = graph.node("Mul", [inputs, root]) if index == 0 else inputs
    # 1. attention
    normed = norm(stream)
    name = f"layers.{index}.position_bias"
    bias = stored.weights[name].astype(np.float32).reshape(config.nhead, -1)
    states = add_memory(graph, config, index, linear(normed, "key_value"))
    query = linear(normed, "query")
    gathered = add_attention(graph, config, graph.weight(name, bias), query, states)
    stream = graph.node("Add", [stream, linear(gathered, "output")])
    # 2. the map of each word
    inner = graph.node("Relu", [linear(norm(stream), "inner")])
    stream = graph.node("Add", [stream, linear(inner, "outer")])
    last = index == config.nlayers - 1
    return graph.node("Identity", [norm(stream) if last else stream], f"layer{index}")


def add_memory(graph: Graph, config: Config, index: int, new: str) -> dict[str, str]:
    """Add the states: keys and values (S, N, 2E) to see; whether they are there (S, N, 1)."""
    there = graph.add(
        """columns = Shape <start = 0, end = 2> (new)
        shape = Concat <axis = 0> (columns, one)
        there = ConstantOfShape <value = float[1] {1.0}> (shape)  # (T, N, 1)""",
        {"new": new, "one": [1]},
    )
    longer, edges = {}, {"newest": [-config.memory], "end": [LARGEST], "zero": [0]}
    for name, width, now in (("pairs", 2 * config.emsize, new), ("seen", 1, there)):
        before = graph.state(f"{name}{index}", width, config.memory)
        longer[name] = graph.node("Concat", [before, now], axis=0)
        states = {"all": longer[name], "kept": f"{before}_out"}
        graph.add("kept = Slice (all, newest, end, zero)", states | edges)
    return longer


def add_attention(
    graph: Graph, config: Config, bias: str, query: str, states: dict[str, str]
) -> str:
    """Add the attention of queries (T, N, E) to the states; returns what they gather (T, N, E)."""
    heads, size = config.nhead, config.emsize // config.nhead
    names = {"bias": bias, "query": query, **states}
    names |= {"heads": [0, 0, heads, -1], "together": [0, 0, -1], "root": np.float32(size**-0.5)}
    names |= {"memory": config.memory, "zero": 0, "one": 1, "axis": [1]}
    return graph.add(ATTENTION, names | {"nothing": np.float32(0), "hidden": np.float32(-1e9)})
