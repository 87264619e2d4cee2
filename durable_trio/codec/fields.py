"""The fields of classes that have them: attrs classes, dataclasses, named tuples, Pydantic models, msgspec structs.

The last two are known by their base class, if the program has imported it: neither library is needed here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
from typing import Any, Final, NamedTuple

import attrs

from durable_trio.codec.faults import Fault, fault_of
from durable_trio.looks import look

__all__ = ["Field", "field_names", "fields_of", "is_model", "unreadable"]

# Classes come and go with the functions that define them; the cache must not keep them all.
_CLASSES_MAX: Final = 4096


class Field(NamedTuple):
    """A field, and the constructor's parameter for it."""

    name: str
    alias: str  # its parameter
    is_required: bool
    is_init: bool


def fields_of(cls: Any) -> list[Field] | None:
    """Return the fields of a class; ``None`` if it is no class with fields."""
    if attrs.has(cls):
        return [
            Field(f.name, f.alias or f.name, f.default is attrs.NOTHING and f.init, f.init) for f in attrs.fields(cls)
        ]
    if dataclasses.is_dataclass(cls):
        none = dataclasses.MISSING
        return [
            Field(f.name, f.name, f.default is none and f.default_factory is none and f.init, f.init)
            for f in dataclasses.fields(cls)
        ]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return [Field(name, name, name not in cls._field_defaults, True) for name in cls._fields]
    if is_model(cls):
        return [Field(name, name, field.is_required(), True) for name, field in cls.__pydantic_fields__.items()]
    if _has_base(cls, "msgspec", "Struct"):
        return [Field(f.name, f.name, f.required, True) for f in sys.modules["msgspec"].structs.fields(cls)]
    return None


def is_model(cls: type) -> bool:
    """Whether a class is a model of Pydantic's, version 2."""
    return _has_base(cls, "pydantic.main", "BaseModel")


def _has_base(cls: type, module: str, name: str) -> bool:
    base = getattr(sys.modules.get(module), name, None)
    return base is not None and any(each is base for each in cls.__mro__[1:])


@functools.lru_cache(maxsize=_CLASSES_MAX)
def field_names(cls: type) -> tuple[str, ...] | None:
    """Return the names of a class's fields; ``None`` if it is no class with fields, or an enum of such."""
    fields = None if issubclass(cls, enum.Enum) else fields_of(cls)
    return None if fields is None else tuple(field.name for field in fields)


def unreadable(value: object, names: tuple[str, ...], error: BaseException) -> Fault:
    """Return the fault of a value whose fields could not all be read; it names the first that cannot be."""
    for name in names:
        failure = look(_read, value, name, instead=lambda error: error)
        if failure is not None:
            return fault_of(failure, "reading it has raised", f".{name}")
    return fault_of(error, "reading its fields has raised")


def _read(value: object, name: str) -> BaseException | None:
    getattr(value, name)
    return None
