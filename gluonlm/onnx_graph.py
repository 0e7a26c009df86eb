"""The language model as an ONNX graph, one node per layer, written from the weights.

MXNet 1.9.1 has an exporter of its own, but it imports parts of onnx that have gone since. ONNX has the same recurrent
operators with their gates in another order, so that the graph is soon written by hand:

    ids -> Gather -> [LSTM | GRU | RNN -> Squeeze] per layer -> Gemm (projection) -> Gemm (decoder) -> logits

with a state in and out for each layer. A QRNN layer is a MatMul and the loop over time that ONNX calls Scan. T and N
are free. https://onnx.ai/onnx/operators/ defines the operators.
"""

import mxnet as mx
import numpy as np
import onnx
from mxnet.gluon import nn
from onnx import TensorProto, helper, numpy_helper

from gluonlm.errors import UserError
from gluonlm.model import Body, RecurrentLayer, RNNModel
from gluonlm.qrnn import QRNNLayer

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
    """Nodes, weights, inputs and outputs as they are added; a weight that is shared is stored once."""

    def __init__(self):
        self.nodes, self.weights, self.inputs, self.outputs = [], {}, [], []

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

    def node(self, operator: str, inputs: list[str], *outputs: str, **attributes) -> str:
        """Add a node; returns the name of its first output, by default one that is new."""
        outputs = outputs or (f"{operator.lower()}{len(self.nodes)}",)
        self.nodes.append(helper.make_node(operator, inputs, list(outputs), name=outputs[0], **attributes))
        return outputs[0]

    def state(self, name: str, size: int) -> str:
        """Declare a state (1, N, size) as an input and, with ``_out`` after its name, as an output."""
        self.output(f"{name}_out", [1, "N", size])
        return self.input(name, TensorProto.FLOAT, [1, "N", size])

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        """The whole as an ONNX model.

        :raises UserError: when it is larger than the format allows.
        """
        size = sum(array.nbytes for array in self.weights.values()) + sum(map(len, metadata.values()))
        if size > LARGEST - 2**20:  # the graph itself takes some kilobytes
            raise UserError(
                f"the model has {size / 2**30:.1f} GiB of weights and an ONNX file holds 2: tie the weights, make "
                "the vocabulary or the layers smaller, or export with --format gluon"
            )
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "gluonlm", self.inputs, self.outputs, tensors)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="gluonlm"
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return model


def build(model: RNNModel, metadata: dict[str, str]) -> onnx.ModelProto:
    """The model in ONNX: ``ids`` (T, N) int64 and states (1, N, H) -> ``logits`` (T, N, V) and new states.

    The states are ``h0``, ``c0``, ``h1``, ... by layer (``c`` only for an LSTM; ``c0``, ``x0``, ``c1``, ... for a QRNN,
    ``x`` where its window is 2), the new ones ``h0_out``, ...

    :raises UserError: when the model has a part that is not expressed here, or is larger than 2 GiB.
    """
    refuse_unknown(model)
    graph, encoder, decoder = Graph(), model.body.encoder.weight, model.decoder.weight
    vocab_size = graph.weight("vocab_size", np.array([decoder.shape[0]]))
    ids = graph.input("ids", TensorProto.INT64, ["T", "N"])
    graph.output("logits", ["T", "N", decoder.shape[0]])
    embedding = graph.weight("embedding", values(encoder))  # (V, E)
    hidden = graph.node("Gather", [embedding, ids])  # (T, N, E)
    for index, layer in enumerate(model.body.layers):
        add = add_qrnn_layer if isinstance(layer, QRNNLayer) else add_layer
        hidden = add(graph, layer, hidden, index)  # (T, N, H)
    rows = graph.weight("rows", np.array([-1, model.body.layers[-1].hidden_size]))
    hidden = graph.node("Reshape", [hidden, rows])  # (T*N, H)
    if model.body.projection:
        weight = graph.weight("projection.weight", values(model.body.projection.weight))  # (E, H)
        bias = graph.weight("projection.bias", values(model.body.projection.bias))
        hidden = graph.node("Gemm", [hidden, weight, bias], transB=1)  # (T*N, E)
    weight = embedding if decoder is encoder else graph.weight("decoder.weight", values(decoder))  # (V, C)
    bias = graph.weight("decoder.bias", values(model.decoder.bias))
    scores = graph.node("Gemm", [hidden, weight, bias], transB=1)  # (T*N, V)
    shape = graph.node("Concat", [graph.node("Shape", [ids]), vocab_size], axis=0)
    graph.node("Reshape", [scores, shape], "logits")
    return graph.model(metadata)


def refuse_unknown(model: RNNModel) -> None:
    """Raise a UserError that names the first part of the model that :func:`build` does not know.

    What regularizes in training only may be derived from these parts: the export compares the results anyway.
    """
    known = (RNNModel, Body, RecurrentLayer, QRNNLayer, nn.Dense, nn.Embedding)
    parts = [model, model.body, model.body.encoder, *model.body.layers, model.decoder]
    for part in parts:
        if not isinstance(part, known):
            raise UserError(
                f"the model has a {type(part).__name__}, which the ONNX export does not know: "
                "export it with --format gluon"
            )


def add_layer(graph: Graph, layer: RecurrentLayer, inputs: str, index: int) -> str:
    """Add a recurrent layer with its states; returns the name of its outputs (T, N, H)."""
    operator, gates, attributes = OPERATORS[layer.mode]
    flat = layer.weights.data(layer.weights.list_ctx()[0])
    parts = {name: by_gates(part.asnumpy(), gates) for name, part in layer.parts(flat).items()}
    weights = [
        graph.weight(f"layer{index}.W", parts["i2h_weight"][None]),  # (1, G*H, I): one direction
        graph.weight(f"layer{index}.R", parts["h2h_weight"][None]),  # (1, G*H, H)
        graph.weight(f"layer{index}.B", np.concatenate([parts["i2h_bias"], parts["h2h_bias"]])[None]),  # (1, 2*G*H)
    ]
    letters = "hc" if layer.mode == "LSTM" else "h"
    states = [graph.state(f"{letter}{index}", layer.hidden_size) for letter in letters]
    outputs = graph.node(
        operator,
        [inputs, *weights, "", *states],  # "": sequences of a length of their own, which we have not
        f"layer{index}",
        *(f"{state}_out" for state in states),
        hidden_size=layer.hidden_size,
        **attributes,
    )  # (T, 1, N, H)
    return graph.node("Squeeze", [outputs, graph.weight("direction", np.array([1]))])


def add_qrnn_layer(graph: Graph, layer: QRNNLayer, inputs: str, index: int) -> str:
    """Add a quasi-recurrent layer with its states; returns the name of its outputs (T, N, H)."""
    zero, last, end = (graph.weight(f"at{at}", np.array([at])) for at in (0, -1, LARGEST))
    one = graph.weight("one", np.float32(1))
    cell, seen = graph.state(f"c{index}", layer.hidden_size), inputs
    if layer.window == 2:
        longer = graph.node("Concat", [graph.state(f"x{index}", layer.input_size), inputs], axis=0)  # (T+1, N, I)
        seen = graph.node("Concat", [inputs, graph.node("Slice", [longer, zero, last, zero])], axis=2)  # (T, N, 2I)
        graph.node("Slice", [inputs, last, end, zero], f"x{index}_out")
    weight = graph.weight(f"layer{index}.W", values(layer.weight).T)  # (window I, 3H)
    product = graph.node("MatMul", [seen, weight])
    gates = graph.node("Add", [product, graph.weight(f"layer{index}.B", values(layer.bias))])  # (T, N, 3H)
    z, f, o = (f"layer{index}.{letter}" for letter in "zfo")
    graph.node("Split", [gates], z, f, o, axis=2)
    z, f, o = graph.node("Tanh", [z]), graph.node("Sigmoid", [f]), graph.node("Sigmoid", [o])
    share = graph.weight(f"layer{index}.share", np.float32(1 - layer.zoneout))
    update = graph.node("Mul", [graph.node("Sub", [one, f]), share])
    start, cells = graph.node("Squeeze", [cell, zero]), f"layer{index}.cells"
    final = graph.node("Scan", [start, update, z], f"layer{index}.final", cells, num_scan_inputs=2, body=pooling())
    graph.node("Unsqueeze", [final, zero], f"c{index}_out")
    return graph.node("Mul", [o, cells])


def pooling() -> onnx.GraphProto:
    """A step of the pooling: c (N, H), update and z of the step -> c + update (z - c), as new state and as output."""
    names = ["c", "update", "z", "new", "cell"]
    c, update, z, new, cell = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    nodes = [
        helper.make_node("Sub", ["z", "c"], ["change"]),
        helper.make_node("Mul", ["update", "change"], ["step"]),
        helper.make_node("Add", ["c", "step"], ["new"]),
        helper.make_node("Identity", ["new"], ["cell"]),
    ]
    return helper.make_graph(nodes, "pooling", [c, update, z], [new, cell])


def by_gates(array: np.ndarray, gates: list[int]) -> np.ndarray:
    """The rows of a matrix or vector (G*H, ...) with its G blocks in another order."""
    blocks = np.split(array, len(gates))
    return np.concatenate([blocks[gate] for gate in gates])


def values(parameter: mx.gluon.Parameter) -> np.ndarray:
    """A parameter's values."""
    return parameter.data(parameter.list_ctx()[0]).asnumpy()
