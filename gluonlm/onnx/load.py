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
from typing import Any

from gluonlm.inference.language_model import LanguageModel
from gluonlm.onnx.session import OnnxModel, describe
from gluonlm.system.errors import UserError, require

Device = Any  # an mx.Context, or None for the CPU: MXNet may be missing


def load(
    path: str | Path, ctx: Device = None, features: bool = False, precision: str = "float32"
) -> LanguageModel:
    """A model to predict, score and write with; a UserError when there is none, it is damaged, or
    what computes it is not installed.

    :param path: a run's folder, a model file, or an ONNX file, whose name ends in ``.onnx``.

    :param features: whether its hidden states are wanted (for a cache), which only MXNet gives.

    :param precision: of the products, where MXNet computes them (:mod:`gluonlm.model.precision`).
    """
    if Path(path).suffix == ".onnx":
        return load_onnx(path, ctx, features, precision)
    # here, because an ONNX file needs no MXNet
    from gluonlm.inference.predictor import Predictor
    from gluonlm.model.checkpoint import make_model, read_model
    from gluonlm.model.precision import check_precision

    stored = read_model(path)
    arithmetic = integers(stored, ctx, features)  # of an INT8 file, without a model in MXNet
    if arithmetic is None:
        check_precision(precision, ctx is not None and ctx.device_type == "gpu")
        arithmetic = Predictor(make_model(stored, ctx and [ctx], precision).model, ctx)
    else:
        check_arithmetic(path, precision)
    return LanguageModel(arithmetic, stored.dictionary, stored.config, stored.level, stored.path)


def check_arithmetic(path: str | Path, precision: str) -> None:
    """Raise a UserError for a precision of a model that ONNX Runtime computes."""
    if precision != "float32":
        integers = f"{path} is computed by ONNX Runtime, in the numbers of its file"
        raise UserError(f"{integers}: leave out --precision")


def load_onnx(
    path: str | Path, ctx: Device = None, features: bool = False, precision: str = "float32"
) -> LanguageModel:
    """The model in an ONNX file, whatever its name; arguments as those of :func:`load`."""
    check_arithmetic(path, precision)
    if ctx is not None and ctx.device_type == "gpu":
        raise UserError("an ONNX model is computed on the CPU: leave out --gpu and --cuda")
    if features:
        lacking = "--cache needs the model's hidden states, which an exported model does not give"
        raise UserError(f"{lacking}: name its run")
    model = OnnxModel(path)
    return LanguageModel(model, *model.description(), Path(path))


def integers(stored: Any, ctx: Device = None, features: bool = False) -> OnnxModel | None:
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


def has_integers(stored: Any) -> bool:
    """Whether a model, Stored or Trained, asks for products of integers in any part."""
    schemes = stored.quantized.schemes.values() if stored.quantized else ()
    return any(scheme.multiplies_integers for scheme in schemes)


def simulated(where: str) -> None:
    """Say that there the weights are rounded as the integers have it, but computed in float32."""
    said = "the weights are those of the INT8 file, computed in float32"
    print(f"no integer arithmetic {where}: {said}", file=sys.stderr)
