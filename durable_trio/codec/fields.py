"""The fields of classes that have them: attrs classes, dataclasses, named tuples."""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import Any, Final, NamedTuple

import attrs

from durable_trio.codec.faults import Fault, fault_of
from durable_trio.looks import look

__all__ = ["Field", "field_names", "fields_of", "unreadable"]

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
    return None


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
