"""Sparse storage: arrays with many zeros take less room in a file, and come back bit for bit.

    >>> packed, shapes = pack({"weight": np.array([0, 0, 0, 1.5, 0, 0, 0, 0, 0, 2.5], np.float32)})
    >>> packed
    {'weight': array([1.5, 2.5], dtype=float32), 'weight.bits': array([16, 64], dtype=uint8)}
    >>> shapes
    {'weight': [10]}

Of n float32 numbers k are not zero: one bit for each of the n, and those k, take n/8 + 4k bytes instead of 4n. Where
that is less, the array is stored so. At a sparsity of 80 % that is 23 % of the bytes, at 90 % 13 %, at 95 % 8 %. Of
8-bit integers with these sparsities it is 32.5, 22.5 and 17.5 %.
"""

import math

import numpy as np

BITS = ".bits"
TYPES = (np.float32, np.float16, np.int8)


def pack(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """The arrays as they are stored, and the shapes of those that are stored sparse."""
    packed, shapes = {}, {}
    for name, array in arrays.items():
        packed[name] = array
        if array.dtype not in TYPES:
            continue
        flat = np.ascontiguousarray(array).reshape(-1)
        present = (
            flat.view(f"u{flat.itemsize}") != 0
        )  # a zero with a minus sign is kept: what is read is what was written
        values = flat[present]
        bits = np.packbits(present)
        if values.nbytes + bits.nbytes < flat.nbytes:
            packed[name], packed[name + BITS] = values, bits
            shapes[name] = list(array.shape)
    return packed, shapes


def unpack(packed: dict[str, np.ndarray], shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """What was given to :func:`pack`.

    :raises ValueError: when the parts do not fit each other.
    """
    arrays = dict(packed)
    for name, shape in shapes.items():
        if name not in arrays or name + BITS not in arrays:
            raise ValueError(f"a part of {name} is missing")
        values, size = arrays[name], math.prod(shape)
        present = np.unpackbits(arrays.pop(name + BITS), count=size).astype(bool)
        if np.count_nonzero(present) != len(values):
            raise ValueError(f"the parts of {name} do not fit each other")
        flat = np.zeros(size, values.dtype)
        flat[present] = values
        arrays[name] = flat.reshape(shape)
    return arrays
