"""A trained model in fewer bytes: which part of it is stored how.

    >>> quantized = quantize_model(model, {"decoder": Scheme(), "layer0": Scheme("fp16")})

The parts of a model are ``embedding``, ``layer0``, ``layer1``, ..., ``projection`` and ``decoder``,
those it has; with tied weights the decoder's matrix is the embedding. Only matrices become
integers: vectors (biases) are few and stay float32. See :mod:`gluonlm.quantize` for the command and
:mod:`gluonlm.onnx.integer` for the arithmetic.
"""

import numpy as np

from gluonlm.compress.rounding import quantize_matrix
from gluonlm.model.quantized import Quantized, Scheme, unmeasured
from gluonlm.model.rnn import RNNModel
from gluonlm.model.weights import named_arrays, part_of
from gluonlm.system.errors import UserError


def parts_of(model: RNNModel) -> list[str]:
    """The parts that the model has, from the words to the logits."""
    parts = [part_of(name, model.layout) for name in model.layout]
    return sorted(set(parts), key=lambda part: (part == "decoder", parts.index(part)))


def quantize_model(
    model: RNNModel,
    schemes: dict[str, Scheme],
    statistics: dict[str, dict[str, tuple[float, float]]] | None = None,
) -> Quantized:
    """The model's weights under the scheme of each part; parts that are not named stay float32.

    :param statistics: signal: its range by each kind of clipping
        (:attr:`gluonlm.compress.calibrate.Statistics.ranges`), for schemes that want ranges known
        before.
    :raises UserError: when such a scheme is for a Transformer's layers, inside which no ranges are
        measured.
    """
    if unmeasured(schemes, model.layout):
        raise UserError(
            "inside a Transformer's layers no ranges are measured: quantize with dynamic or float, "
            "and without --table"
        )
    schemes = {part: schemes.get(part, Scheme("fp32")) for part in parts_of(model)}
    weights = {
        name: stored(array, schemes[part_of(name, model.layout)])
        for name, array in named_arrays(model).items()
    }
    ranges = {
        part: {signal: clips[scheme.clip] for signal, clips in statistics.items()}
        for part, scheme in schemes.items()
        if scheme.clip
    }
    return Quantized(schemes, weights, ranges)


def stored(array: np.ndarray, scheme: Scheme):
    """One weight under a scheme: an array of float16 or float32, or a matrix as Integers."""
    if scheme.kind == "fp16":
        return array.astype(np.float16)
    if scheme.kind == "int8" and array.ndim == 2:
        return quantize_matrix(array, scheme.mode == "symmetric", scheme.per == "row")
    return array
