"""A trained model in fewer bytes: which part of it is stored how, and numbers as 8-bit integers.

    >>> quantized = quantize_model(model, {"decoder": Scheme(), "layer0": Scheme("fp16")})
    >>> matrix = np.array([[-1.0, 0.0, 0.5], [0.0, 1.0, 4.0]], np.float32)
    >>> integers = quantize_matrix(matrix, symmetric=False, rows=True)
    >>> integers.values
    array([[-128,   42,  127],
           [-128,  -64,  127]], dtype=int8)
    >>> integers.scale, integers.zero
    (array([0.00588235, 0.01568628], dtype=float32), array([  42, -128], dtype=int8))

The parts of a model are ``embedding``, ``layer0``, ``layer1``, ..., ``projection`` and ``decoder``,
those it has; with tied weights the decoder's matrix is the embedding. Only matrices become
integers: vectors (biases) are few and stay float32.

x is stored as q = round(x / scale) + zero, and read as scale * (q - zero). Symmetric: the zero
point is the middle of the integers, and the scale fits the largest magnitude. Asymmetric: the 256
integers span from the smallest to the largest number (Krishnamoorthi 2018, arXiv:1806.08342,
section 2). Weights are signed (-128 to 127), activations unsigned (0 to 255): that is the one
pairing that the processors' instruction for it (VNNI) multiplies. :mod:`gluonlm.model.quantized`
says what a file may hold, :mod:`gluonlm.onnx.integer` how it is multiplied.
"""

import numpy as np

from gluonlm.model.quantized import Integers, Quantized, Ranges, Scheme, unmeasured
from gluonlm.model.rnn import RNNModel
from gluonlm.model.weights import named_arrays, part_of
from gluonlm.system.errors import UserError

LEVELS = 255  # steps between the lowest and the highest integer
WEIGHTS, ACTIVATIONS = np.int8, np.uint8


def parts_of(model: RNNModel) -> list[str]:
    """The parts that the model has, from the words to the logits."""
    parts = [part_of(name, model.layout) for name in model.layout]
    return sorted(set(parts), key=lambda part: (part == "decoder", parts.index(part)))


def quantize_model(
    model: RNNModel, schemes: dict[str, Scheme], statistics: dict[str, Ranges] | None = None
) -> Quantized:
    """The model's weights under the scheme of each part; parts that are not named stay float32.

    ``statistics`` are :attr:`gluonlm.compress.calibrate.Statistics.ranges`, for schemes that want
    ranges known before; a UserError when such a scheme is for a Transformer's layers.
    """
    if unmeasured(schemes, model.layout):
        advice = "quantize with dynamic or float, and without --table"
        raise UserError(f"inside a Transformer's layers no ranges are measured: {advice}")
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


def scale_and_zero(low, high, symmetric: bool, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """The scale, float32, and the zero point that represent the numbers from ``low`` to ``high``
    (or arrays of both) and 0 in any case; ``kind`` is ``WEIGHTS`` or ``ACTIVATIONS``."""
    low = np.minimum(np.asarray(low, np.float32), 0)
    high = np.maximum(np.asarray(high, np.float32), 0)
    lowest = np.iinfo(kind).min
    span, steps = (np.maximum(-low, high), 127) if symmetric else (high - low, LEVELS)
    scale = (span / np.float32(steps)).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))  # of nothing but zeros: any will do
    zero = np.full(scale.shape, lowest + 128) if symmetric else np.rint(lowest - low / scale)
    return scale, zero.clip(lowest, lowest + LEVELS).astype(kind)


def to_integers(numbers: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Numbers as integers of ``zero``'s type; those out of range become the nearest."""
    limits = np.iinfo(zero.dtype)
    return (np.rint(numbers / scale) + zero).clip(limits.min, limits.max).astype(zero.dtype)


def quantize_matrix(matrix: np.ndarray, symmetric: bool, rows: bool) -> Integers:
    """A float32 matrix (R, C) as int8: a scale and a zero point for each row, or for all."""
    axis = 1 if rows else None
    scale, zero = scale_and_zero(matrix.min(axis), matrix.max(axis), symmetric, WEIGHTS)
    return Integers(to_integers(matrix, scale[..., None], zero[..., None]), scale, zero)


def grid_of(stored: Quantized, part: str, signal: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and zero point of a signal where ``part`` multiplies it; None if found at each call."""
    scheme = stored.schemes[part]
    if not scheme.clip:
        return None
    return scale_and_zero(*stored.ranges[part][signal], scheme.mode == "symmetric", ACTIVATIONS)
