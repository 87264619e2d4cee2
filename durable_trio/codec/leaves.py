"""Coders of values without parts: JSON's own, numbers, scalars as text, paths, enums."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from durable_trio.codec.annotations import label
from durable_trio.codec.coder import KINDS, Coder
from durable_trio.codec.faults import Fault, type_name, unquoted
from durable_trio.codec.plain import (
    float_from_plain,
    float_to_plain,
    from_plain,
    int_from_plain,
    int_to_plain,
    to_plain,
)

__all__ = ["enum_coder", "exact_coder", "float_coder", "int_coder", "text_coder"]


def int_coder() -> Coder:
    """Return the coder of ``int``."""
    return Coder("int", frozenset({"int"}), frozenset({int}), int_to_plain, int_from_plain, is_flat=True)


def float_coder(*, takes_int: bool) -> Coder:
    """Return the coder of ``float``, which to type checkers includes ``int``; each comes back as what it was."""
    if not takes_int:
        return Coder("float", frozenset({"float"}), frozenset({float}), float_to_plain, float_from_plain, is_flat=True)

    def encode(value: Any) -> Any:
        return int_to_plain(value) if type(value) is int else float_to_plain(value)

    def decode(plain: Any) -> Any:
        is_int = type(plain) is int or (type(plain) is dict and "$int" in plain)
        return int_from_plain(plain) if is_int else float_from_plain(plain)

    return Coder("float", frozenset({"float", "int"}), frozenset({float, int}), encode, decode, is_flat=True)


def exact_coder(cls: type) -> Coder:
    """Return the coder of a class that JSON has itself: ``None``, ``bool`` or ``str``."""

    def check(value: Any) -> Any:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {label(cls)}")
        return value

    return Coder(label(cls), frozenset({KINDS[cls]}), frozenset({cls}), check, check, is_flat=True)


def text_coder(name: str, cls: type, write: Callable[[Any], str], read: Callable[[str], Any]) -> Coder:
    """Return the coder of a class that is written as a string; ``read`` may raise any ``Exception``."""

    def encode(value: Any) -> str:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {name}")
        text = write(value)
        if type(text) is not str:  # of a path of the user's
            raise Fault(f"its text is {type_name(text)}, no str")
        return text

    def decode(plain: Any) -> Any:
        if type(plain) is not str:
            raise Fault(f"{name} as a string was expected, not {type_name(plain)}")
        try:
            return read(plain)
        except Exception as error:
            raise Fault(f"{unquoted(plain)} is no {name}") from error

    return Coder(name, frozenset({"str"}), frozenset({cls}), encode, decode, is_flat=True)


def enum_coder(cls: Any) -> Coder:
    """Return the coder of an enum: by value where JSON has it exactly, else by name."""
    members = list(cls.__members__.values())
    is_flag = issubclass(cls, enum.Flag)
    by_value = is_flag or all(type(member.value) in (str, int, bool) for member in members)
    kinds = {"int"} if is_flag else {KINDS[type(member.value)] for member in members} if by_value else {"str"}

    def encode(value: Any) -> Any:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {cls.__name__}")
        return to_plain(value.value if by_value else value.name)

    def decode(plain: Any) -> Any:
        try:
            plain = from_plain(plain)
            member = cls(plain) if by_value else cls[plain]
        except Exception:
            raise Fault(f"{unquoted(plain)} is no {cls.__name__}") from None
        if is_flag and getattr(member, "value", None) != plain:  # a flag may drop bits that it has not, as 3.11.2 does
            raise Fault(f"{type_name(plain)} has bits that are no {cls.__name__}")
        if by_value and member.value == plain and type(member.value) is not type(plain):
            raise Fault(f"{type_name(plain)} is no {cls.__name__}: it has that value of another type")
        return member

    return Coder(cls.__name__, frozenset(kinds), frozenset({cls}), encode, decode, is_flat=True)
