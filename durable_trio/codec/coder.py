"""A coder: what an annotation is compiled to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs

from durable_trio.codec.faults import Fault, segment, type_name

__all__ = ["ALL_KINDS", "KINDS", "Coder", "Compiler"]

# The kinds of JSON values that are no object, by their class.
KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "list",
}
ALL_KINDS: Final = frozenset({*KINDS.values(), "dict"})


@attrs.define(eq=False)
class Coder:
    """How the values of one annotation are converted.

    ``kinds`` are the kinds of JSON values it may write, ``classes`` the exact classes of values it takes (``None``:
    any JSON type). ``required`` and ``allowed`` are the fields of what is written as an object with fields. A coder is
    flat if its annotation alone bounds how many parts a value has.
    Both functions raise ``Fault``, and nothing else but ``RecursionError``.
    """

    name: str
    kinds: frozenset[str]
    classes: frozenset[type] | None
    encode: Callable[[Any], Any] = None  # type: ignore[assignment]  # until its parts are compiled
    decode: Callable[[Any], Any] = None  # type: ignore[assignment]
    required: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None
    is_flat: bool = False
    is_literal: bool = False
    #: The fields that take a few words only, which tell the members of a union apart.
    literals: Mapping[str, Coder] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        if self.encode is None:
            # A type within itself takes these before its functions exist.
            self.encode = lambda value: self.encode(value)
            self.decode = lambda plain: self.decode(plain)

    def check_fields(self, plain: Any) -> None:
        """Raise ``Fault`` if that is no object with the fields that this coder writes."""
        if type(plain) is not dict:
            raise Fault(f"an object with the fields of {self.name} was expected, not {type_name(plain)}")
        keys = plain.keys()
        if not self.required <= keys:
            raise Fault(f"{self.name} lacks the field {min(self.required - keys)!r}")
        if self.allowed is not None and not keys <= self.allowed:
            raise Fault(f"{self.name} has no field {min(map(segment, keys - self.allowed))[1:-1]}")


class Compiler(Protocol):
    """What compiles the parts of an annotation; a coder of parts is given one."""

    #: The classes that names in what is stored stand for, where they have others now.
    aliases: Mapping[str, type]
    #: Whether its coders also read what was written when an annotation was another one.
    is_lenient: bool

    def get(self, annotation: Any) -> Coder:
        """Return the coder of an annotation; raise ``Fault`` if it is not supported."""

    def started(self, annotation: Any, kind: str, classes: frozenset[type]) -> Coder:
        """Return a coder without functions, known already to the types within it."""
