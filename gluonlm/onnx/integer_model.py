"""What computes a quantized checkpoint with integers: ONNX Runtime on a graph made from the checkpoint's own integers.

    >>> trained = load_model("runs/ptb/int8.safetensors")
    >>> model = integer_model(trained)                       # a predictor, see gluonlm.inference.sampling

``trained.model`` has the float32 values that the integers stand for: it computes with MXNet, on any device and with any
part of this package, what rounding the weights does, but not what rounding the activations does, and no faster.
"""

import sys
from typing import TYPE_CHECKING

from gluonlm.onnx.session import OnnxModel, describe, require
from gluonlm.system.errors import UserError

if TYPE_CHECKING:
    import mxnet as mx

    from gluonlm.model.checkpoint import Trained


def integer_model(
    trained: "Trained", ctx: "mx.Context | None" = None, losses: bool = False
) -> OnnxModel | None:
    """The model that multiplies integers; None where float32 arithmetic is what the checkpoint wants, or all there is.

    That there is no integer arithmetic for a checkpoint of integers is said on stderr.

    :param ctx: the device that was asked for. :param losses: make a model for scoring, see :meth:`OnnxModel.losses`.
    :raises UserError: when onnx or onnxruntime is not installed.
    """
    if not has_integers(trained):
        return None
    if ctx is not None and ctx.device_type == "gpu":
        return simulated("on a GPU")
    require("onnx", "onnxruntime")
    from gluonlm.onnx.graph import (  # here, because only this needs the package onnx
        build,
        refuse_unknown,
    )

    try:
        refuse_unknown(trained.model)
    except UserError:
        return simulated("for a part of this model")
    if trained.config.model not in ("LSTM", "QRNN"):
        print(
            f"no integer arithmetic for {trained.config.model} layers: their weights are INT8, computed in float32",
            file=sys.stderr,
        )
    return OnnxModel(
        build(trained.model, describe(trained), trained.quantized, losses).SerializeToString()
    )


def has_integers(trained: "Trained") -> bool:
    """Whether a checkpoint asks for products of integers in any part."""
    stored = trained.quantized
    return stored is not None and any(
        scheme.multiplies_integers for scheme in stored.schemes.values()
    )


def simulated(where: str) -> None:
    """Say that there the weights are rounded as the integers have it and the arithmetic is float32."""
    print(
        f"no integer arithmetic {where}: the weights are those of the INT8 file, computed in float32",
        file=sys.stderr,
    )
