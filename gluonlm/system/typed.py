"""JSON from files that may be damaged or edited, read strictly: what is not of the expected type is a ValueError.

    >>> parse('{"layer0": [-0.78, 0.81]}', dict[str, tuple[float, float]])
    {'layer0': (-0.78, 0.81)}

A type is str, int, float, bool, a list, a tuple, a dict with names as keys, a union of these, or a dataclass, whose
fields without a default must be there. Numbers are finite, unless the text itself says Infinity where a float may be.
"""

import dataclasses
import json
import types
from typing import Any, Union, get_args, get_origin, get_type_hints


def parse(text: str, kind: Any) -> Any:
    """The value of that type in a JSON text.

    :raises ValueError: when it is not JSON or not of that type.
    """
    try:
        return typed(json.loads(text), kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def typed(value: Any, kind: Any, where: str = "it") -> Any:
    """A value out of JSON as one of that type, which may be a dataclass.

    :raises ValueError: when it is of another type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return value if any(is_one(value, one) for one in inner) else refuse(where, kind)
    if dataclasses.is_dataclass(kind):
        return of_dataclass(typed(value, dict[str, Any], where), kind, where)
    if origin is dict and is_one(value, dict):
        return {name: typed(one, inner[1], f"{where}, {name!r}") for name, one in value.items()}
    if origin is list and is_one(value, list):
        return [typed(one, inner[0], f"an element of {where}") for one in value]
    if origin is tuple and is_one(value, list):
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(kinds) == len(value):
            return tuple(
                typed(one, kind, f"an element of {where}")
                for one, kind in zip(value, kinds, strict=True)
            )
    if origin is None and is_one(value, kind):
        return value
    return refuse(where, kind)


def is_one(value: Any, kind: Any) -> bool:
    """Whether a value is of a plain type; True is no number, and 1 is as good as 1.0."""
    if kind is Any:
        return True
    if kind is float:
        return type(value) in (int, float) and value == value
    return type(value) is kind or (value is None and kind is types.NoneType)


def of_dataclass(values: dict[str, Any], kind: Any, where: str) -> Any:
    """A dataclass from its fields."""
    hints = get_type_hints(kind)
    fields = {
        name: typed(value, hints[name], name) if name in hints else refuse(f"{where}: {name}", None)
        for name, value in values.items()
    }
    try:
        return kind(**fields)
    except TypeError:  # a field is missing
        return refuse(where, kind)


def refuse(where: str, kind: Any) -> None:
    """Raise the ValueError."""
    if kind is None:
        raise ValueError(f"{where} is unknown")
    raise ValueError(f"{where} is not of the kind {getattr(kind, '__name__', kind)}")
