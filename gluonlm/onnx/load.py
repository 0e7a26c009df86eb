"""Any model's file as a LanguageModel: here the arithmetic is chosen.

    >>> model = gluonlm.load("runs/ptb")

- A run or a model file is computed by MXNet.
- An INT8 file is computed by ONNX Runtime, on a graph made of the file's own integers: MXNet would
  round the weights only, not what they multiply, and be no faster. Where there is no integer
  arithmetic, MXNet computes, and it is said.
- An ONNX file is computed by ONNX Runtime; neither MXNet nor the package onnx is needed.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gluonlm.inference.language_model import LanguageModel
from gluonlm.onnx.session import OnnxModel, describe
from gluonlm.system.errors import UserError, require

if TYPE_CHECKING:
    import mxnet as mx

    from gluonlm.model.checkpoint import Stored, Trained


def load(
    path: str | Path, ctx: "mx.Context | None" = None, features: bool = False
) -> LanguageModel:
    """A model to predict, score and write with.

    :param path: a run's folder, a model file, or an ONNX file, whose name ends in ``.onnx``.
    :param ctx: the device; the CPU if None.
    :param features: whether its hidden states are wanted (for a cache), which only MXNet gives.
    :raises UserError: when there is no model, it is damaged, or what computes it is not installed.
    """
    if Path(path).suffix == ".onnx":
        return load_onnx(path, ctx, features)
    # here, because an ONNX file needs no MXNet
    from gluonlm.inference.predictor import Predictor
    from gluonlm.model.checkpoint import make_model, read_model

    stored = read_model(path)
    arithmetic = integers(stored, ctx, features)  # of an INT8 file, without a model in MXNet
    if arithmetic is None:
        arithmetic = Predictor(make_model(stored, ctx and [ctx]).model, ctx)
    return LanguageModel(arithmetic, stored.dictionary, stored.config, stored.level, stored.path)


def load_onnx(
    path: str | Path, ctx: "mx.Context | None" = None, features: bool = False
) -> LanguageModel:
    """The model in an ONNX file, whatever its name; arguments as those of :func:`load`."""
    if ctx is not None and ctx.device_type == "gpu":
        raise UserError("an ONNX model is computed on the CPU: leave out --gpu and --cuda")
    if features:
        raise UserError(
            "--cache needs the model's hidden states, which an exported model does not give: name "
            "its run"
        )
    model = OnnxModel(path)
    return LanguageModel(model, *model.description(), Path(path))


def integers(
    stored: "Stored | Trained", ctx: "mx.Context | None" = None, features: bool = False
) -> OnnxModel | None:
    """The arithmetic of integers; None where float32 is what the checkpoint wants, or all there is,
    which is said on stderr. A UserError when onnx or onnxruntime is not installed."""
    if not has_integers(stored):
        return None
    if features:
        return simulated("with a cache")
    if ctx is not None and ctx.device_type == "gpu":
        return simulated("on a GPU")
    require("onnx", "onnx", "onnxruntime")
    from gluonlm.onnx.layers import build  # here, because only this needs onnx

    if (kind := stored.config.model) not in ("LSTM", "QRNN", "Transformer"):
        simulated(f"for {kind} layers")
    graph = build(stored.config, stored.quantized, describe(stored), losses=True)
    return OnnxModel(graph.SerializeToString())


def has_integers(trained: "Stored | Trained") -> bool:
    """Whether a checkpoint asks for products of integers in any part."""
    schemes = trained.quantized.schemes.values() if trained.quantized else ()
    return any(scheme.multiplies_integers for scheme in schemes)


def simulated(where: str) -> None:
    """Say that there the weights are rounded as the integers have it, but computed in float32."""
    said = "the weights are those of the INT8 file, computed in float32"
    print(f"no integer arithmetic {where}: {said}", file=sys.stderr)
