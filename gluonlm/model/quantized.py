"""Weights stored in fewer bytes: what a file holds of a quantized model.

``gluonlm.compress`` makes it.

    >>> quantized.arrays()      # name: array, as the file has them
    >>> quantized.floats()      # name: float32 array, which the stored ones stand for

A number x is stored as q = round(x / scale) + zero, and read as scale * (q - zero).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gluonlm.config import Config
from gluonlm.model.weights import part_of, projected
from gluonlm.system.errors import UserError
from gluonlm.system.typed import parse, typed

Ranges = dict[str, tuple[float, float]]
SCALE, ZERO = ".scale", ".zero_point"
CLIPS = ("extremes", "averaged", "kl")  # how ranges are made of what was measured
CHOICES = {
    "kind": ("int8", "fp16", "fp32"),
    "mode": ("symmetric", "asymmetric"),
    "per": ("row", "tensor"),
    "activations": ("dynamic", *CLIPS, "float"),
}


@dataclass(frozen=True)
class Integers:
    """A matrix (R, C): int8 ``values``, float32 ``scale`` and int8 ``zero`` (R,), or () for all."""

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def floats(self) -> np.ndarray:
        """What the integers stand for, float32 (R, C)."""
        steps = self.values.astype(np.float32) - self.zero.astype(np.float32)[..., None]
        return steps * self.scale[..., None]

    def fits(self) -> bool:
        """Whether types and shapes are those of a matrix of integers, after reading a file."""
        types = [part.dtype for part in (self.values, self.scale, self.zero)]
        return (
            types == [np.int8, np.float32, np.int8]
            and self.values.ndim == 2
            and self.scale.shape == self.zero.shape
            and self.scale.shape in ((), self.values.shape[:1])
            and bool(np.isfinite(self.scale).all())
        )


@dataclass(frozen=True)
class Scheme:
    """How one part of a model is stored and computed.

    :param kind: of numbers: ``int8``, ``fp16`` or ``fp32``; the others matter for ``int8`` only.
    :param mode: ``symmetric`` or ``asymmetric``, for weights and activations.
    :param per: one scale and zero point for each output ``row`` of a weight matrix, or for the
        ``tensor``.
    :param activations: how the range of a part's inputs is known: measured anew at each call
        (``dynamic``), or before on training text (``extremes``, ``averaged``, ``kl``, see
        :mod:`gluonlm.compress.calibrate`); ``float`` leaves them as they are.
    """

    kind: str = "int8"
    mode: str = "symmetric"
    per: str = "row"
    activations: str = "dynamic"

    @property
    def multiplies_integers(self) -> bool:
        """Whether inputs become integers as well, so that integers are multiplied."""
        return self.kind == "int8" and self.activations != "float"

    @property
    def clip(self) -> str | None:
        """The kind of measured range that is needed, None without one."""
        measured = self.multiplies_integers and self.activations != "dynamic"
        return self.activations if measured else None

    def __str__(self) -> str:
        return ",".join(vars(self).values()) if self.kind == "int8" else self.kind


def parse_scheme(text: str, base: Scheme = Scheme()) -> Scheme:  # noqa: B008  frozen
    """A scheme from words such as ``int8,asymmetric,row,kl`` in any order, the others of ``base``;
    a UserError for a word that is none of a scheme's, or two of the same kind."""
    said: dict[str, str] = {}
    for word in text.split(","):
        name = next((name for name, words in CHOICES.items() if word in words), None)
        if name is None:
            known = ", ".join(word for words in CHOICES.values() for word in words)
            raise UserError(f"{word!r} says nothing about storing numbers: choose among {known}")
        if said.setdefault(name, word) != word:
            raise UserError(f"{said[name]!r} and {word!r} exclude each other: leave one out")
    return replace(base, **said)


def unmeasured(schemes: dict[str, Scheme], weights: Iterable[str]) -> bool:
    """Whether a scheme wants ranges inside a Transformer's layer, where none are measured."""
    attention = any(name.endswith("position_bias") for name in weights)
    return attention and any(schemes[part].clip for part in schemes if part.startswith("layer"))


@dataclass(frozen=True)
class Quantized:
    """The weights of a model as they are stored, and the ranges of its signals.

    :param schemes: part of the model: its scheme.
    :param weights: name (:mod:`gluonlm.model.weights`): matrix as Integers, or array of float16 or
        float32.
    :param ranges: part: for each signal (:mod:`gluonlm.compress.calibrate`) the lowest and highest
        value to represent where the part multiplies it; for parts whose scheme wants ranges.
    """

    schemes: dict[str, Scheme]
    weights: dict[str, Integers | np.ndarray]
    ranges: dict[str, Ranges] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays under the names of a file. Integers are stored less their zero point, modulo
        256: a pruned weight then is a 0, and takes no room."""
        stored = {}
        for name, weight in self.weights.items():
            if isinstance(weight, Integers):
                stored[name] = weight.values - weight.zero[..., None]
                stored[name + SCALE] = weight.scale
                if weight.zero.any():
                    stored[name + ZERO] = weight.zero
            else:
                stored[name] = weight
        return stored

    def to_json(self) -> str:
        """What a file says of its arrays."""
        schemes = {part: str(scheme) for part, scheme in self.schemes.items()}
        return json.dumps({"schemes": schemes, "ranges": self.ranges})

    def floats(self) -> dict[str, np.ndarray]:
        """The float32 arrays that the stored ones stand for."""
        stored = self.weights.items()
        return {n: w.floats() if isinstance(w, Integers) else w.astype("f") for n, w in stored}


def read_quantized(arrays: dict[str, np.ndarray], text: str) -> Quantized:
    """What :meth:`Quantized.arrays` and :meth:`Quantized.to_json` gave; a ValueError when its parts
    do not fit each other, a UserError for a scheme that is none."""
    said = parse(text, dict[str, dict[str, Any]])
    words = typed(said["schemes"], dict[str, str], "schemes")
    weights: dict[str, Integers | np.ndarray] = {}
    for name, array in arrays.items():
        if array.dtype == np.int8 and not name.endswith(ZERO):
            scale = arrays.get(name + SCALE, np.empty(0))
            zero = arrays.get(name + ZERO, np.zeros(scale.shape, np.int8))
            if not Integers(array, scale, zero).fits():
                raise ValueError(f"the quantized arrays of {name} do not fit each other")
            weights[name] = Integers(array + zero[..., None], scale, zero)
        elif not name.endswith((SCALE, ZERO)):
            weights[name] = array
    schemes = {part: parse_scheme(scheme) for part, scheme in words.items()}
    return Quantized(schemes, weights, typed(said["ranges"], dict[str, Ranges], "ranges"))


def check_schemes(config: Config, quantized: Quantized) -> None:
    """Raise a ValueError unless each part has a scheme, weights and ranges that fit it."""
    schemes, layers = quantized.schemes, [f"layer{index}" for index in range(config.nlayers)]
    signals = {"embedding", *layers, *(["projection"] if projected(config) else [])}
    parts = {name: part_of(name, quantized.weights) for name in quantized.weights}
    if schemes.keys() != set(parts.values()):
        raise ValueError(f"its schemes are not those of {', '.join(sorted(set(parts.values())))}")
    if unmeasured(schemes, quantized.weights):
        raise ValueError("a Transformer's layers have no ranges for its schemes")
    for name, weight in quantized.weights.items():
        integers = schemes[parts[name]].kind == "int8" and len(weight.shape) == 2
        if isinstance(weight, Integers) != integers:
            raise ValueError(f"{name} is not stored as its scheme says")
    for part, scheme in schemes.items():
        ranges = quantized.ranges.get(part, {})
        if scheme.clip and not signals <= ranges.keys():
            raise ValueError(f"it has no ranges for {part}")
        if not np.isfinite(list(ranges.values())).all():
            raise ValueError(f"the ranges for {part} are not finite")
