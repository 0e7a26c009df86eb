"""What JSON or YAML holds, read strictly: whatever is not of the expected type is a ValueError that
says where.

    >>> parse('{"layer0": [-0.78, 0.81]}', dict[str, tuple[float, float]])
    {'layer0': (-0.78, 0.81)}

A type is str, int, float, bool, Any, a list, a tuple, a dict with names as keys, a union of plain
types, or a dataclass: then the names are its fields, and those without a default must be there.
"""

import contextlib
import dataclasses
import json
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

UNIONS = (Union, types.UnionType)
NAMES = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
}


def parse(text: str, kind: Any) -> Any:
    """The value of that type in a JSON text; a ValueError when it is not JSON or not of that
    type."""
    try:
        return typed(json.loads(text), kind, "its text")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def typed(value: Any, kind: Any, where: str) -> Any:
    """A value as one of that type; lists become tuples, mappings dataclasses, where it says so. A
    ValueError when it is of another type."""
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and is_mapping(value):
        return of_dataclass(value, kind, where)
    if origin is dict and is_mapping(value):
        return {name: typed(one, inner[1], f"{where}: {name}") for name, one in value.items()}
    if origin is list and type(value) is list:
        if inner[0] is str and all(type(one) is str for one in value):  # a vocabulary is long
            return value
        return [typed(one, inner[0], f"{where}, {i}") for i, one in enumerate(value, 1)]
    if origin is tuple and type(value) is list:
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(kinds) == len(value):
            return tuple(typed(one, of, where) for one, of in zip(value, kinds, strict=True))
    for one in inner if origin in UNIONS else ():
        with contextlib.suppress(ValueError):
            return typed(value, one, where)
    if kind is Any or type(value) is kind:  # True is no number
        return value
    if kind is float and type(value) is int and abs(value) < 2**1000:  # 1 will do for 1.0
        return value
    raise ValueError(f"{where} must be {described(kind)}")


def described(kind: Any) -> str:
    """What a type is called."""
    if dataclasses.is_dataclass(kind):
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        return f"a mapping with {names}"
    origin, inner = get_origin(kind), get_args(kind)
    if origin in UNIONS:
        return " or ".join(map(described, inner))
    return f"a list of {described(inner[0])}" if origin is list else NAMES[origin or kind]


def is_mapping(value: Any) -> bool:
    """Whether a value is a mapping of names."""
    return type(value) is dict and all(type(name) is str for name in value)


def of_dataclass(values: dict[str, Any], kind: Any, where: str) -> Any:
    """A dataclass from its fields."""
    kinds = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values.keys() - fields.keys():
        raise ValueError(f"{where}: {name} is unknown: use {', '.join(fields)}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory:  # both are missing
            raise ValueError(f"{where}: {name} is missing")
    parts = {name: typed(one, kinds[name], f"{where}: {name}") for name, one in values.items()}
    return kind(**parts)
