"""A model in fewer bytes: which part is stored how, and the arrays of its file.

    >>> quantized = quantize_model(model, {"decoder": Scheme(), "layer0": Scheme("fp16")})
    >>> quantized.arrays()      # name: array, as the file has them
    >>> quantized.floats()      # name: float32 array

The parts of a model are ``embedding``, ``layer0``, ``layer1``, ..., ``projection`` and ``decoder``, those it has; with
tied weights the decoder's matrix is the embedding. Only matrices become integers: vectors (biases) are few and stay
float32. See :mod:`gluonlm.quantize` for the command and :mod:`gluonlm.onnx.integer` for the arithmetic.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from gluonlm.compress.affine import ACTIVATIONS, Integers, quantize_matrix, scale_and_zero
from gluonlm.model.rnn import RNNModel
from gluonlm.model.weights import named_arrays
from gluonlm.system.errors import UserError

Ranges = dict[str, tuple[float, float]]
SCALE, ZERO = ".scale", ".zero_point"
CHOICES = {
    "kind": ("int8", "fp16", "fp32"),
    "mode": ("symmetric", "asymmetric"),
    "per": ("row", "tensor"),
    "activations": ("dynamic", "extremes", "averaged", "kl", "float"),
}


@dataclass(frozen=True)
class Scheme:
    """How one part of a model is stored and computed.

    :param kind: of numbers: ``int8``, ``fp16`` or ``fp32``; the others matter for ``int8`` only.
    :param mode: ``symmetric`` or ``asymmetric``, for weights and activations.
    :param per: one scale and zero point for each output ``row`` of a weight matrix, or for the ``tensor``.
    :param activations: how the range of a part's inputs is known: measured anew at each call (``dynamic``), or before
        on training text (``extremes``, ``averaged``, ``kl``, see :mod:`gluonlm.compress.calibrate`); ``float`` leaves them as
        they are.
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
        return (
            self.activations
            if self.kind == "int8" and self.activations in ("extremes", "averaged", "kl")
            else None
        )

    def __str__(self) -> str:
        return (
            ",".join(getattr(self, one.name) for one in fields(self))
            if self.kind == "int8"
            else self.kind
        )


def parse_scheme(text: str, base: Scheme = Scheme()) -> Scheme:  # noqa: B008  frozen
    """A scheme from words such as ``int8,asymmetric,row,kl`` in any order; ``base`` says what is not named.

    :raises UserError: for a word that is none of a scheme's.
    """
    said: dict[str, str] = {}
    for word in text.split(","):
        names = [name for name, words in CHOICES.items() if word in words]
        if names and said.setdefault(names[0], word) != word:
            raise UserError(f"{said[names[0]]!r} and {word!r} exclude each other: leave one out")
        if not names:
            known = ", ".join(word for words in CHOICES.values() for word in words)
            raise UserError(f"{word!r} says nothing about storing numbers: choose among {known}")
        base = replace(base, **{names[0]: word})
    return base


@dataclass(frozen=True)
class Quantized:
    """The weights of a model as they are stored, and the ranges of its signals.

    :param schemes: part: its scheme. :param weights: name: matrix as Integers, or array of float16 or float32.
    :param ranges: part: for each signal (:mod:`gluonlm.compress.calibrate`) the lowest and highest value to represent where the
        part multiplies it; for parts whose scheme wants ranges known before.
    """

    schemes: dict[str, Scheme]
    weights: dict[str, Integers | np.ndarray]
    ranges: dict[str, Ranges] = field(default_factory=dict)

    def input_of(self, part: str, signal: str) -> "tuple[np.ndarray, np.ndarray] | None":
        """Scale and zero point of a signal where ``part`` multiplies it; None if they are found at each call."""
        scheme = self.schemes[part]
        if not scheme.clip:
            return None
        return scale_and_zero(*self.ranges[part][signal], scheme.mode == "symmetric", ACTIVATIONS)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays under the names of a file. A zero point that is 0 everywhere is left out.

        Integers are stored less their zero point, modulo 256: a pruned weight is a 0 then, and takes no room.
        """
        stored = {}
        for name, weight in self.weights.items():
            if isinstance(weight, Integers):
                stored[name], stored[name + SCALE] = (
                    weight.values - weight.zero[..., None],
                    weight.scale,
                )
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
        return {
            name: weight.floats() if isinstance(weight, Integers) else weight.astype(np.float32)
            for name, weight in self.weights.items()
        }


def read_quantized(arrays: dict[str, np.ndarray], text: str, path: Path) -> Quantized:
    """What :meth:`Quantized.arrays` and :meth:`Quantized.to_json` wrote.

    :raises UserError: when the parts do not fit each other.
    """
    damaged = UserError(
        f"{path} is damaged: its quantized arrays do not fit each other; use another checkpoint"
    )
    try:
        settings = json.loads(text)
        schemes = {part: parse_scheme(words) for part, words in settings["schemes"].items()}
        ranges = {
            part: {signal: (float(low), float(high)) for signal, (low, high) in signals.items()}
            for part, signals in settings["ranges"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None
    weights: dict[str, Integers | np.ndarray] = {}
    arrays = {our_name(name): array for name, array in arrays.items()}
    for name, array in arrays.items():
        if name.endswith((SCALE, ZERO)):
            continue
        weights[name] = array
        if array.dtype == np.int8:
            scale = arrays.get(name + SCALE, np.empty(0))
            zero = arrays.get(name + ZERO, np.zeros(scale.shape, np.int8))
            stored = Integers(array, scale, zero)
            if not stored.fits():
                raise damaged
            weights[name] = replace(stored, values=array + zero[..., None])
    return Quantized(schemes, weights, ranges)


def our_name(name: str) -> str:
    """A weight's name for the one it had in files of earlier versions: ``body.layers.0.weights/i2h_weight``."""
    return name.removeprefix("body.").replace(".weights/", ".")


def part_of(name: str, weights: Iterable[str]) -> str:
    """The part of the model that one of its weights belongs to."""
    block, _, rest = name.partition(".")
    if block == "layers":
        return f"layer{rest.partition('.')[0]}"
    if block == "encoder":
        return "embedding" if "decoder.weight" in weights else "decoder"
    return block


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

    :param statistics: signal: its range by each kind of clipping (:attr:`gluonlm.compress.calibrate.Statistics.ranges`), for
        schemes that want ranges known before.
    """
    schemes = {part: schemes.get(part, Scheme("fp32")) for part in parts_of(model)}
    weights: dict[str, Integers | np.ndarray] = {}
    for name, array in named_arrays(model).items():
        scheme = schemes[part_of(name, model.layout)]
        weights[name] = array.astype(np.float16) if scheme.kind == "fp16" else array
        if scheme.kind == "int8" and array.ndim == 2:
            weights[name] = quantize_matrix(array, scheme.mode == "symmetric", scheme.per == "row")
    ranges = {
        part: {signal: clips[scheme.clip] for signal, clips in statistics.items()}
        for part, scheme in schemes.items()
        if scheme.clip
    }
    return Quantized(schemes, weights, ranges)
