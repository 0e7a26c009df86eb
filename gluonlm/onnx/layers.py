"""The language model as an ONNX graph, one node per layer, made of its settings and named weights.

MXNet 1.9.1 has an exporter of its own, but it imports parts of onnx that have gone since. ONNX has
the same recurrent operators with their gates in another order, so the graph is soon written:

    ids -> Gather -> [LSTM | GRU | RNN -> Squeeze] per layer -> Gemm (projection, decoder) -> logits

with a state in and out for each layer. A QRNN layer is a MatMul and the loop over time that ONNX
calls Scan, a Transformer's is in :mod:`gluonlm.onnx.attention`. T and N are free. Weights stored as
integers are multiplied as integers (:mod:`gluonlm.onnx.integer`), or come after a DequantizeLinear
where there is no integer operator for them.

A weight has the name it has in :mod:`gluonlm.model.weights`. The output of a part (``embedding``,
``layer0``, ``projection``) has the part's name, by which the range of what the next part multiplies
is known.
"""

import numpy as np
import onnx
from onnx import TensorProto

from gluonlm.compress.quantization import grid_of
from gluonlm.config import Config
from gluonlm.model.quantized import Integers, Quantized
from gluonlm.model.weights import layer_sizes, projected, splits_of
from gluonlm.onnx.attention import add_transformer_layer
from gluonlm.onnx.builder import LARGEST, Graph
from gluonlm.onnx.integer import Lstm, add_linear, add_lookup, add_lstm

# rows of MXNet's gates (LSTM input, forget, cell, output; GRU reset, update, new) in the order of
# ONNX's (LSTM input, output, forget, cell; GRU update, reset, new)
OPERATORS = {
    "LSTM": ("LSTM", [0, 3, 1, 2], {}),
    "GRU": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),
    "RNN_TANH": ("RNN", [0], {"activations": ["Tanh"]}),
    "RNN_RELU": ("RNN", [0], {"activations": ["Relu"]}),
}


def build(
    config: Config, stored: Quantized, metadata: dict[str, str], losses: bool = False
) -> onnx.ModelProto:
    """The model in ONNX: ``ids`` (T, N) int64, states (1, N, H) -> ``logits`` (T, N, V), states.

    The states are ``h0``, ``c0``, ``h1``, ... by layer (``c`` only for an LSTM; ``c0``, ``x0``,
    ``c1``, ... for a QRNN, ``x`` where its window is 2; ``pairs0``, ``seen0``, ... for a
    Transformer), the new ones ``h0_out``, ...

    :param stored: the model's weights as they are to be stored and multiplied.
    :param losses: for scoring: a further input ``targets`` (T, N) int64 and a further output
        ``losses`` (T, N), the negative log-likelihood of the targets in nats.
    :raises UserError: when the model is larger than 2 GiB.
    """
    graph, vocab_size = Graph(), len(stored.weights["decoder.bias"])
    ids = graph.input("ids", TensorProto.INT64, ["T", "N"])
    logits = graph.output("logits", ["T", "N", vocab_size])
    hidden = add_embedding(graph, stored, ids)  # (T, N, E)
    add = {"QRNN": add_qrnn_layer, "Transformer": add_transformer_layer}.get(
        config.model, add_layer
    )
    for index in range(config.nlayers):
        hidden = add(graph, config, stored, index, hidden)  # (T, N, H)
    size = graph.weight("rows", np.array([-1, layer_sizes(config)[-1][1]]))
    signal, rows = hidden, graph.node("Reshape", [hidden, size])  # (T*N, H)
    if projected(config):
        rows = add_linear(graph, stored, "projection", rows, signal)  # (T*N, E)
        signal = "projection"
    scores = add_decoder(graph, stored, rows, signal, splits_of(config, vocab_size))  # (T*N, V)
    width = graph.weight("vocab_size", np.array([vocab_size]))
    shape = graph.node("Concat", [graph.node("Shape", [ids]), width], axis=0)
    graph.node("Reshape", [scores, shape], logits)
    if losses:
        add_losses(graph, scores, ids)
    return graph.model(metadata)


def add_embedding(graph: Graph, stored: Quantized, ids: str) -> str:
    """Add the embedding; returns the name of the words' vectors (T, N, E)."""
    words = stored.weights["encoder.weight"]  # (V, E)
    if isinstance(words, Integers):
        return add_lookup(graph, "encoder.weight", words, ids, "embedding")
    return graph.node("Gather", [graph.floats("encoder.weight", words), ids], "embedding")


def add_decoder(
    graph: Graph, stored: Quantized, rows: str, signal: str, splits: tuple[int, ...]
) -> str:
    """Add the decoder of rows (M, C); returns the name of the scores (M, V).

    They are log-probabilities if it is split, see :mod:`gluonlm.model.adaptive`: p(word) = p(word
    in the head), or p(its cluster's entry) p(word in the cluster).
    """
    scores = add_linear(graph, stored, "decoder", rows, signal)
    if not splits:
        return scores
    edges = (0, *splits, len(stored.weights["decoder.bias"]))
    sizes = graph.weight("cluster_sizes", np.diff(edges))
    first, *clusters = (f"cluster{k}" for k in range(len(edges) - 1))
    graph.node("Split", [scores, sizes], first, *clusters, axis=1)
    entries = add_linear(graph, stored, "decoder", rows, signal, "cluster_")  # (M, K)
    head = graph.node("Concat", [first, entries], axis=1)
    head = graph.node("LogSoftmax", [head], axis=1)
    parts = [f"log_p{k}" for k in range(len(edges) - 1)]
    of_entries = [f"log_entry{k}" for k in range(len(splits))]
    widths = graph.weight("head_sizes", np.array([splits[0], *[1] * len(splits)]))
    graph.node("Split", [head, widths], parts[0], *of_entries, axis=1)
    for part, cluster, entry in zip(parts[1:], clusters, of_entries, strict=True):
        graph.node("Add", [graph.node("LogSoftmax", [cluster], axis=1), entry], part)
    return graph.node("Concat", parts, axis=1)


def add_losses(graph: Graph, scores: str, ids: str) -> None:
    """Add targets as an input, and as an output their losses (T, N) from scores (T*N, V)."""
    targets = graph.input("targets", TensorProto.INT64, ["T", "N"])
    column = graph.node("Reshape", [targets, graph.weight("column", np.array([-1, 1]))])  # (T*N, 1)
    log_p = graph.node("LogSoftmax", [scores], axis=1)
    losses = graph.node("Neg", [graph.node("GatherElements", [log_p, column], axis=1)])
    shape = graph.node("Shape", [ids])
    graph.node("Reshape", [losses, shape], graph.output("losses", ["T", "N"]))


def add_layer(graph: Graph, config: Config, stored: Quantized, index: int, inputs: str) -> str:
    """Add a recurrent layer with its states; returns the name of its outputs (T, N, H)."""
    part, size = f"layer{index}", layer_sizes(config)[index][1]
    operator, gates, attributes = OPERATORS[config.model]
    i2h, h2h, *biases = (
        by_gates(stored.weights[f"layers.{index}.{name}"], gates)
        for name in ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
    )
    bias = np.concatenate(biases).astype(np.float32)  # (2*G*H,)
    letters = "hc" if config.model == "LSTM" else "h"
    states = [graph.state(f"{letter}{index}", size) for letter in letters]
    if config.model == "LSTM" and stored.schemes[part].multiplies_integers:
        grids = grid_of(stored, part, inputs), grid_of(stored, part, part)
        return add_lstm(graph, index, inputs, Lstm(i2h, h2h, bias), grids)
    operands = [
        inputs,
        one_direction(graph, f"layers.{index}.i2h_weight", i2h),
        one_direction(graph, f"layers.{index}.h2h_weight", h2h),
        graph.weight(f"layers.{index}.bias", bias[None]),
        "",  # sequences of their own lengths
        *states,
    ]
    outputs = [f"{part}.outputs", *(f"{state}_out" for state in states)]  # (T, 1, N, H), states
    graph.node(operator, operands, *outputs, hidden_size=size, **attributes)
    return graph.node("Squeeze", [outputs[0], graph.weight("direction", np.array([1]))], part)


def add_qrnn_layer(graph: Graph, config: Config, stored: Quantized, index: int, inputs: str) -> str:
    """Add a quasi-recurrent layer with its states; returns the name of its outputs (T, N, H)."""
    part, (input_size, size) = f"layer{index}", layer_sizes(config)[index]
    cell, seen = graph.state(f"c{index}", size), inputs
    if index == 0 and config.window == 2:  # the gates see the step before, too
        previous = graph.state(f"x{index}", input_size)
        seen = graph.add(
            """longer = Concat <axis = 0> (previous, inputs)  # (T+1, N, I)
            earlier = Slice (longer, zero, last, zero)
            newest = Slice (inputs, last, end, zero)
            seen = Concat <axis = 2> (inputs, earlier)  # (T, N, 2I)""",
            {"previous": previous, "inputs": inputs, "newest": f"{previous}_out"}
            | {"zero": [0], "last": [-1], "end": [LARGEST]},
        )
    gates = add_linear(graph, stored, part, seen, inputs)  # (T, N, 3H), of all steps at once
    names = {"gates": gates, "cell": cell, "end": f"{cell}_out", "outputs": part}
    return graph.add(
        """z_in, f_in, o_in = Split <axis = 2> (gates)
        z = Tanh (z_in)
        f = Sigmoid (f_in)
        o = Sigmoid (o_in)
        change = Sub (one, f)
        update = Mul (change, share)
        start = Squeeze (cell, zero)  # (N, H)
        final, cells = Scan <num_scan_inputs = 2, body = pooling
            (float[N, H] c, float[N, H] u, float[N, H] zt) => (float[N, H] new, float[N, H] out) {
                difference = Sub (zt, c)
                step = Mul (u, difference)
                new = Add (c, step)
                out = Identity (new)
            }> (start, update, z)
        end = Unsqueeze (final, zero)
        outputs = Mul (o, cells)""",
        names | {"one": np.float32(1), "share": np.float32(1 - config.zoneout), "zero": [0]},
    )


def one_direction(graph: Graph, name: str, weight: Integers | np.ndarray) -> str:
    """A recurrent layer's matrix (G*H, C) in float32 as ONNX has it, (1, G*H, C)."""
    if isinstance(weight, Integers):
        first = graph.weight("first", np.array([0]))
        return graph.node("Unsqueeze", [graph.floats(name, weight), first])
    return graph.floats(name, weight[None])


def by_gates(array: Integers | np.ndarray, gates: list[int]) -> Integers | np.ndarray:
    """The rows of a matrix or vector (G*H, ...) with its G blocks in another order."""
    if isinstance(array, Integers):
        scale, zero = (
            by_gates(part, gates) if part.ndim else part for part in (array.scale, array.zero)
        )
        return Integers(by_gates(array.values, gates), scale, zero)
    blocks = np.split(array, len(gates))
    return np.concatenate([blocks[gate] for gate in gates])
