"""An ONNX graph as it is put together: nodes, weights, inputs and outputs.

    >>> graph = Graph()
    >>> vectors = graph.node("Gather", [graph.weight("w", array), graph.input("ids", 7, ["T"])])
    >>> graph.output(vectors, ["T", 8])
    >>> graph.model({"author": "somebody"}).SerializeToString()

Any operator is added by its name; which ones a model needs is in ``layers.py``, ``integer.py`` and
``attention.py``. https://onnx.ai/onnx/operators/ defines the operators.
"""

import re

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from gluonlm.model.quantized import Integers
from gluonlm.system.errors import UserError

OPSET, IR_VERSION = 17, 8  # of 2022, which every runtime since then reads
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
LARGEST = 2**31 - 1  # bytes of a protobuf message, which is what an ONNX file is


class Graph:
    """Nodes, weights, inputs and outputs as they are added; a weight that is shared is stored once.

    :param outer: the graph of which this one is the body of a loop, with weights of its own.
    """

    def __init__(self, outer: "Graph | None" = None, prefix: str = ""):
        self.nodes, self.inputs, self.outputs = [], [], []
        self.weights, self.prefix = {}, prefix
        self.domains, self.stored = (outer.domains, outer.stored) if outer else (set(), [])
        self.stored.append(self.weights)  # of this graph and of those of its loops

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
        """Store a constant as it is; returns the name of what it is in float32."""
        if isinstance(weight, Integers):
            return self.node("DequantizeLinear", self.integers(name, weight), axis=0)
        stored, exact = self.weight(name, weight), weight.dtype == np.float32
        return stored if exact else self.node("Cast", [stored], to=TensorProto.FLOAT)

    def integers(self, name: str, weight: Integers) -> list[str]:
        """Store the three arrays of a matrix: integers, scale and zero point."""
        parts = {"": weight.values, ".scale": weight.scale, ".zero": weight.zero}
        return [self.weight(name + end, array) for end, array in parts.items()]

    def node(self, operator: str, inputs: list[str], *outputs: str, **attributes) -> str:
        """Add a node; returns the name of its first output, by default one that is new."""
        outputs = outputs or (f"{self.prefix}{operator.lower()}{len(self.nodes)}",)
        self.domains.add(attributes.get("domain", ""))
        attributes["name"] = outputs[0]
        self.nodes.append(helper.make_node(operator, inputs, list(outputs), **attributes))
        return outputs[0]

    def add(self, text: str, names: dict[str, object]) -> str:
        """Add nodes in ONNX's own notation; returns the name of the last one's output.

        https://github.com/onnx/onnx/blob/main/docs/Syntax.md; what follows # is a comment.

        :param names: what names of the text mean: an array of this graph, or a constant's numbers.
            The others are of these nodes only.
        """
        prefix = f"{self.prefix}{len(self.nodes)}."
        names = {
            name: value if isinstance(value, str) else self.weight(prefix + name, np.array(value))
            for name, value in names.items()
        }
        text = re.sub("#.*", "", text)
        for node in parser.parse_graph(f"nodes () => () {{{text}}}").node:
            for part in (node.input, node.output):
                part[:] = [names.get(name, prefix + name) for name in part]
            node.name = node.output[0]
            self.domains.add(node.domain)
            self.nodes.append(node)
        return node.name

    def tensors(self) -> list[onnx.TensorProto]:
        """The weights as ONNX has them."""
        return [numpy_helper.from_array(array, name) for name, array in self.weights.items()]

    def state(self, name: str, size: int, steps: int = 1) -> str:
        """Declare a state (steps, N, size): an input, and an output with ``_out`` in its name."""
        self.output(f"{name}_out", [steps, "N", size])
        return self.input(name, TensorProto.FLOAT, [steps, "N", size])

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        """The whole as an ONNX model; a UserError when it is larger than the format allows."""
        arrays = [array for weights in self.stored for array in weights.values()]
        size = sum(array.nbytes for array in arrays) + sum(map(len, metadata.values()))
        if size > LARGEST - 2**20:  # the graph itself takes some kilobytes
            large = f"an ONNX file holds 2 GiB and the weights have {size / 2**30:.1f}"
            advice = "tie the weights, make the vocabulary or the layers smaller"
            raise UserError(f"{large}: {advice}, or export with --format gluon")
        graph = helper.make_graph(self.nodes, "gluonlm", self.inputs, self.outputs, self.tensors())
        versions = {"": OPSET, MICROSOFT: 1} if MICROSOFT in self.domains else {"": OPSET}
        domains = [helper.make_opsetid(*version) for version in versions.items()]
        said = {"ir_version": IR_VERSION, "producer_name": "gluonlm"}
        model = helper.make_model(graph, opset_imports=domains, **said)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return model
