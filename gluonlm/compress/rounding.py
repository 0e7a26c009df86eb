"""Numbers as 8-bit integers: x is stored as q = round(x / scale) + zero, and read as scale * (q -
zero).

    >>> matrix = np.array([[-1.0, 0.0, 0.5], [0.0, 1.0, 4.0]], np.float32)
    >>> integers = quantize_matrix(matrix, symmetric=False, rows=True)
    >>> integers.values
    array([[-128,   42,  127],
           [-128,  -64,  127]], dtype=int8)
    >>> integers.scale, integers.zero
    (array([0.00588235, 0.01568628], dtype=float32), array([  42, -128], dtype=int8))

The scale is the width of a step; the zero point is the integer that means 0.0 exactly. Symmetric:
the zero point is the middle of the integers, and the scale fits the largest magnitude. Asymmetric:
the 256 integers span from the smallest to the largest number (Krishnamoorthi 2018,
arXiv:1806.08342, section 2). Weights are signed (-128 to 127), activations unsigned (0 to 255):
that is the one pairing that the processors' instruction for it (VNNI) multiplies. What a model may
store at all is in :mod:`gluonlm.model.quantized` (``CHOICES``, ``Integers``).
"""

import numpy as np

from gluonlm.model.quantized import Integers, Quantized

LEVELS = 255  # steps between the lowest and the highest integer
WEIGHTS, ACTIVATIONS = np.int8, np.uint8


def scale_and_zero(low, high, symmetric: bool, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """The scale, float32, and the zero point that represent the numbers from ``low`` to ``high``,
    and 0 in any case.

    :param low: a number, or an array.
    :param high: likewise, of the same shape.
    :param kind: ``WEIGHTS`` or ``ACTIVATIONS``.
    """
    low = np.minimum(np.asarray(low, np.float32), 0)
    high = np.maximum(np.asarray(high, np.float32), 0)
    lowest = np.iinfo(kind).min
    span, steps = (np.maximum(-low, high), 127) if symmetric else (high - low, LEVELS)
    scale = span / np.float32(steps)
    scale = np.where(scale > 0, scale, np.float32(1))  # of nothing but zeros: any will do
    scale = scale.astype(np.float32)
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
