"""The language model as an ONNX graph, one node per layer, written from the weights.

MXNet 1.9.1 has an exporter of its own, but it imports parts of onnx that have gone since. ONNX has the same recurrent
operators with their gates in another order, so that the graph is soon written by hand:

    ids -> Gather -> [LSTM | GRU | RNN -> Squeeze] per layer -> Gemm (projection) -> Gemm (decoder) -> logits

with a state in and out for each layer. A QRNN layer is a MatMul and the loop over time that ONNX calls Scan. T and N
are free. https://onnx.ai/onnx/operators/ defines the operators. Weights that are stored as integers are multiplied as
integers (:mod:`gluonlm.onnx.integer`), or stand behind a DequantizeLinear where there is no integer operator for them.
"""

import numpy as np
import onnx
from mxnet.gluon import nn
from onnx import TensorProto, helper, numpy_helper

from gluonlm.compress.affine import Integers
from gluonlm.compress.scheme import Quantized, quantize_model
from gluonlm.model.qrnn import QRNNLayer
from gluonlm.model.rnn import Body, RecurrentLayer, RNNModel
from gluonlm.onnx.integer import DOMAIN, add_lookup, add_lstm, multiply, product
from gluonlm.system.errors import UserError

OPSET, IR_VERSION = 17, 8  # of 2022, which every runtime since then reads
LARGEST = 2**31 - 1  # bytes of a protobuf message, which is what an ONNX file is
# rows of MXNet's gates (LSTM input, forget, cell, output; GRU reset, update, new) in the order of ONNX's (LSTM input,
# output, forget, cell; GRU update, reset, new)
OPERATORS = {
    "LSTM": ("LSTM", [0, 3, 1, 2], {}),
    "GRU": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),
    "RNN_TANH": ("RNN", [0], {"activations": ["Tanh"]}),
    "RNN_RELU": ("RNN", [0], {"activations": ["Relu"]}),
}


class Graph:
    """Nodes, weights, inputs and outputs as they are added; a weight that is shared is stored once.

    :param outer: the graph of which this one is the body of a loop, with weights of its own.
    """

    def __init__(self, outer: "Graph | None" = None, prefix: str = ""):
        self.nodes, self.inputs, self.outputs = [], [], []
        self.weights, self.prefix = {}, prefix
        self.domains, self.all_weights = (
            (outer.domains, outer.all_weights) if outer else (set(), [])
        )
        self.all_weights.append(self.weights)

    def input(self, name: str, kind: int, shape: list) -> str:
        """Declare an input; a dimension given as text is free."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, shape: list) -> str:
        """Declare an output of float32."""
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        """Store a constant."""
        self.weights[name] = array
        return name

    def floats(self, name: str, weight: Integers | np.ndarray) -> str:
        """Store a constant in the numbers that it is in; returns the name of what it is in float32."""
        if isinstance(weight, Integers):
            stored = self.weight(name, weight.values), self.weight(f"{name}.scale", weight.scale)
            zero = self.weight(f"{name}.zero", weight.zero)
            return self.node("DequantizeLinear", [*stored, zero], axis=0)
        stored = self.weight(name, weight)
        return (
            stored
            if weight.dtype == np.float32
            else self.node("Cast", [stored], to=TensorProto.FLOAT)
        )

    def node(self, operator: str, inputs: list[str], *outputs: str, **attributes) -> str:
        """Add a node; returns the name of its first output, by default one that is new."""
        outputs = outputs or (f"{self.prefix}{operator.lower()}{len(self.nodes)}",)
        self.domains.add(attributes.get("domain", ""))
        self.nodes.append(
            helper.make_node(operator, inputs, list(outputs), name=outputs[0], **attributes)
        )
        return outputs[0]

    def tensors(self) -> list[onnx.TensorProto]:
        """The weights as ONNX has them."""
        return [numpy_helper.from_array(array, name) for name, array in self.weights.items()]

    def state(self, name: str, size: int) -> str:
        """Declare a state (1, N, size) as an input and, with ``_out`` after its name, as an output."""
        self.output(f"{name}_out", [1, "N", size])
        return self.input(name, TensorProto.FLOAT, [1, "N", size])

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        """The whole as an ONNX model.

        :raises UserError: when it is larger than the format allows.
        """
        arrays = [array for weights in self.all_weights for array in weights.values()]
        size = sum(array.nbytes for array in arrays) + sum(map(len, metadata.values()))
        if size > LARGEST - 2**20:  # the graph itself takes some kilobytes
            raise UserError(
                f"the model has {size / 2**30:.1f} GiB of weights and an ONNX file holds 2: tie the weights, make "
                "the vocabulary or the layers smaller, or export with --format gluon"
            )
        graph = helper.make_graph(self.nodes, "gluonlm", self.inputs, self.outputs, self.tensors())
        domains = [helper.make_opsetid("", OPSET)]
        if DOMAIN in self.domains:
            domains.append(helper.make_opsetid(DOMAIN, 1))
        model = helper.make_model(
            graph, opset_imports=domains, ir_version=IR_VERSION, producer_name="gluonlm"
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return model


def build(
    model: RNNModel,
    metadata: dict[str, str],
    quantized: Quantized | None = None,
    losses: bool = False,
) -> onnx.ModelProto:
    """The model in ONNX: ``ids`` (T, N) int64 and states (1, N, H) -> ``logits`` (T, N, V) and new states.

    The states are ``h0``, ``c0``, ``h1``, ... by layer (``c`` only for an LSTM; ``c0``, ``x0``, ``c1``, ... for a QRNN,
    ``x`` where its window is 2), the new ones ``h0_out``, ...

    :param quantized: the model's weights as they are to be stored and multiplied; None for float32.
    :param losses: for scoring: a further input ``targets`` (T, N) int64 and a further output ``losses`` (T, N),
        the negative log-likelihood of the targets in nats.
    :raises UserError: when the model has a part that is not expressed here, or is larger than 2 GiB.
    """
    refuse_unknown(model)
    graph, stored, vocab_size = (
        Graph(),
        quantized or quantize_model(model, {}),
        model.decoder.weight.shape[0],
    )
    ids = graph.input("ids", TensorProto.INT64, ["T", "N"])
    logits = graph.output("logits", ["T", "N", vocab_size])
    shared = model.decoder.weight is model.body.encoder.weight
    words = stored.weights["encoder.weight"]  # (V, E)
    if isinstance(words, Integers):
        hidden = add_lookup(graph, "embedding", words, ids)  # (T, N, E)
    else:
        hidden = graph.node("Gather", [graph.floats("embedding", words), ids])
    signal = "embedding"
    for index, layer in enumerate(model.body.layers):
        add = add_qrnn_layer if isinstance(layer, QRNNLayer) else add_layer
        hidden = add(graph, layer, hidden, index, stored, signal)  # (T, N, H)
        signal = f"layer{index}"
    rows = graph.weight("rows", np.array([-1, model.body.layers[-1].hidden_size]))
    hidden = graph.node("Reshape", [hidden, rows])  # (T*N, H)
    if model.body.projection:
        hidden = add_linear(graph, "projection", "projection", hidden, stored, signal)  # (T*N, E)
        signal = "projection"
    scores = add_linear(
        graph, "decoder", "decoder", hidden, stored, signal, words if shared else None
    )  # (T*N, V)
    width = graph.weight("vocab_size", np.array([vocab_size]))
    shape = graph.node("Concat", [graph.node("Shape", [ids]), width], axis=0)
    graph.node("Reshape", [scores, shape], logits)
    if losses:
        add_losses(graph, scores, ids, graph.output("losses", ["T", "N"]))
    return graph.model(metadata)


def refuse_unknown(model: RNNModel) -> None:
    """Raise a UserError that names the first part of the model that :func:`build` does not know.

    What regularizes in training only may be derived from these parts: the export compares the results anyway.
    """
    if hasattr(model.decoder, "splits"):
        raise UserError(
            "the ONNX export does not know the adaptive softmax: leave out --splits and --adaptive (or give "
            "--no-adaptive), or export with --format gluon"
        )
    known = (RNNModel, Body, RecurrentLayer, QRNNLayer, nn.Dense, nn.Embedding)
    parts = [model, model.body, model.body.encoder, *model.body.layers, model.decoder]
    for part in parts:
        if not isinstance(part, known):
            raise UserError(
                f"the model has a {type(part).__name__}, which the ONNX export does not know: "
                "export it with --format gluon"
            )


def add_linear(
    graph: Graph,
    part: str,
    name: str,
    inputs: str,
    stored: Quantized,
    signal: str,
    weight: Integers | None = None,
) -> str:
    """Add a linear map of rows (M, C) -> (M, R); ``weight`` is the embedding's where it is shared.

    :param signal: what the rows are, to find their range.
    """
    scheme, bias = stored.schemes[part], stored.weights[f"{name}.bias"].astype(np.float32)
    shared, weight = (
        weight is not None,
        stored.weights[f"{name}.weight"] if weight is None else weight,
    )
    weight_name, bias_name = (
        "embedding" if shared else f"{part}.weight",
        graph.weight(f"{part}.bias", bias),
    )
    if scheme.multiplies_integers:
        return multiply(
            graph,
            inputs,
            product(graph, weight_name, weight, bias_name, stored.input_of(part, signal)),
        )
    return graph.node("Gemm", [inputs, graph.floats(weight_name, weight), bias_name], transB=1)


def add_losses(graph: Graph, scores: str, ids: str, result: str) -> None:
    """Add targets as an input, and compute their losses (T, N) from scores (T*N, V)."""
    targets = graph.input("targets", TensorProto.INT64, ["T", "N"])
    column = graph.node("Reshape", [targets, graph.weight("column", np.array([-1, 1]))])  # (T*N, 1)
    chosen = graph.node(
        "GatherElements", [graph.node("LogSoftmax", [scores], axis=1), column], axis=1
    )
    graph.node("Reshape", [graph.node("Neg", [chosen]), graph.node("Shape", [ids])], result)


def add_layer(
    graph: Graph, layer: RecurrentLayer, inputs: str, index: int, stored: Quantized, signal: str
) -> str:
    """Add a recurrent layer with its states; returns the name of its outputs (T, N, H)."""
    operator, gates, attributes = OPERATORS[layer.mode]
    parts = {
        name: by_gates(stored.weights[f"layers.{index}.{name}"], gates) for name in layer.layout
    }
    bias = np.concatenate([parts["i2h_bias"], parts["h2h_bias"]]).astype(np.float32)  # (2*G*H,)
    letters = "hc" if layer.mode == "LSTM" else "h"
    states = [graph.state(f"{letter}{index}", layer.hidden_size) for letter in letters]
    if layer.mode == "LSTM" and stored.schemes[f"layer{index}"].multiplies_integers:
        return add_lstm(
            graph, index, inputs, parts["i2h_weight"], parts["h2h_weight"], bias, stored, signal
        )
    weights = [
        one_direction(graph, f"layer{index}.{letter}", parts[name])
        for letter, name in (("W", "i2h_weight"), ("R", "h2h_weight"))
    ]
    outputs = graph.node(
        operator,
        [
            inputs,
            *weights,
            graph.weight(f"layer{index}.B", bias[None]),
            "",
            *states,
        ],  # "": sequences of own lengths
        f"layer{index}",
        *(f"{state}_out" for state in states),
        hidden_size=layer.hidden_size,
        **attributes,
    )  # (T, 1, N, H)
    return graph.node("Squeeze", [outputs, graph.weight("direction", np.array([1]))])


def add_qrnn_layer(
    graph: Graph, layer: QRNNLayer, inputs: str, index: int, stored: Quantized, signal: str
) -> str:
    """Add a quasi-recurrent layer with its states; returns the name of its outputs (T, N, H)."""
    zero, last, end = (graph.weight(f"at{at}", np.array([at])) for at in (0, -1, LARGEST))
    one = graph.weight("one", np.float32(1))
    cell, seen = graph.state(f"c{index}", layer.hidden_size), inputs
    if layer.window == 2:
        longer = graph.node(
            "Concat", [graph.state(f"x{index}", layer.input_size), inputs], axis=0
        )  # (T+1, N, I)
        seen = graph.node(
            "Concat", [inputs, graph.node("Slice", [longer, zero, last, zero])], axis=2
        )  # (T, N, 2I)
        graph.node("Slice", [inputs, last, end, zero], f"x{index}_out")
    gates = add_gates(graph, f"layer{index}", f"layers.{index}", seen, stored, signal)  # (T, N, 3H)
    z, f, o = (f"layer{index}.{letter}" for letter in "zfo")
    graph.node("Split", [gates], z, f, o, axis=2)
    z, f, o = graph.node("Tanh", [z]), graph.node("Sigmoid", [f]), graph.node("Sigmoid", [o])
    share = graph.weight(f"layer{index}.share", np.float32(1 - layer.zoneout))
    update = graph.node("Mul", [graph.node("Sub", [one, f]), share])
    start, cells = graph.node("Squeeze", [cell, zero]), f"layer{index}.cells"
    final = graph.node(
        "Scan", [start, update, z], f"layer{index}.final", cells, num_scan_inputs=2, body=pooling()
    )
    graph.node("Unsqueeze", [final, zero], f"c{index}_out")
    return graph.node("Mul", [o, cells])


def add_gates(graph: Graph, part: str, name: str, seen: str, stored: Quantized, signal: str) -> str:
    """Add the product of a quasi-recurrent layer (T, N, window I) -> (T, N, 3H)."""
    weight, bias = (
        stored.weights[f"{name}.weight"],
        graph.weight(f"{part}.B", stored.weights[f"{name}.bias"].astype("f4")),
    )
    if stored.schemes[part].multiplies_integers:
        return multiply(
            graph, seen, product(graph, f"{part}.W", weight, bias, stored.input_of(part, signal))
        )
    if isinstance(weight, Integers):
        matrix = graph.node("Transpose", [graph.floats(f"{part}.W", weight)])
    else:
        matrix = graph.floats(f"{part}.W", weight.T)
    return graph.node("Add", [graph.node("MatMul", [seen, matrix]), bias])


def pooling() -> onnx.GraphProto:
    """A step of the pooling: c (N, H), update and z of the step -> c + update (z - c), as new state and as output."""
    names = ["c", "update", "z", "new", "cell"]
    c, update, z, new, cell = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    nodes = [
        helper.make_node("Sub", ["z", "c"], ["change"]),
        helper.make_node("Mul", ["update", "change"], ["step"]),
        helper.make_node("Add", ["c", "step"], ["new"]),
        helper.make_node("Identity", ["new"], ["cell"]),
    ]
    return helper.make_graph(nodes, "pooling", [c, update, z], [new, cell])


def one_direction(graph: Graph, name: str, weight: Integers | np.ndarray) -> str:
    """A recurrent layer's matrix (G*H, C) as float32 (1, G*H, C), as ONNX has it for one direction."""
    if isinstance(weight, Integers):
        return graph.node(
            "Unsqueeze", [graph.floats(name, weight), graph.weight("first", np.array([0]))]
        )
    return graph.floats(name, weight[None])


def by_gates(array: Integers | np.ndarray, gates: list[int]) -> Integers | np.ndarray:
    """The rows of a matrix or vector (G*H, ...) with its G blocks in another order."""
    if isinstance(array, Integers):
        per_row = array.scale.ndim > 0
        scale, zero = (
            by_gates(part, gates) if per_row else part for part in (array.scale, array.zero)
        )
        return Integers(by_gates(array.values, gates), scale, zero)
    blocks = np.split(array, len(gates))
    return np.concatenate([blocks[gate] for gate in gates])
