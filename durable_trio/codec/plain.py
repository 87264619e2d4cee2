"""Plain values: what a JSON parser returns, and the tags where JSON cannot say it.

A plain value is the value itself wherever JSON can say it; elsewhere a *tag* stands for it, an object whose only key
begins with ``$``::

    {"$float": "nan"}   inf, -inf or nan        {"$int": "18446744073709551616"}   beyond signed 64 bits
    {"$dict": {...}}    a dict with a key that begins with "$", so that no user's value is taken for a tag

The module knows no parser and no annotations.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from durable_trio import limits
from durable_trio.codec.faults import Fault, at, segment, short, type_name, unquoted

__all__ = [
    "INTEGER_MAX",
    "INTEGER_MIN",
    "escape",
    "float_from_plain",
    "float_to_plain",
    "from_plain",
    "int_from_plain",
    "int_to_plain",
    "to_plain",
    "unescape",
]

# Databases and most parsers read integers as signed 64-bit numbers.
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
# 4300 decimal digits, the interpreter's own bound against quadratic conversions; here it holds everywhere.
INTEGER_BITS_MAX: Final = 14_284
INTEGER_CHARACTERS_MAX: Final = 4301


def to_plain(value: Any, depth: int = 0) -> Any:
    """Return an exact JSON value with tags where JSON cannot say it.

    Raises:
        Fault: a type other than ``None bool int float str list dict``, or nested deeper than allowed.
    """
    cls = type(value)
    if cls is str or cls is bool or value is None:
        return value
    if cls is int:
        return int_to_plain(value)
    if cls is float:
        return float_to_plain(value)
    if depth >= limits.PAYLOAD_DEPTH_MAX:
        raise Fault(f"nested deeper than {limits.PAYLOAD_DEPTH_MAX} levels")
    if cls is list:
        index = 0
        try:
            items = []
            for item in value:
                items.append(to_plain(item, depth + 1))
                index += 1
            return items
        except Fault as fault:
            fault.segments.append(f"[{index}]")
            raise
    if cls is dict:
        return escape({_plain_key(key): at(key, to_plain, item, depth + 1) for key, item in value.items()})
    raise Fault(f"{type_name(value)} is no JSON type; annotate the value with its type")


def _plain_key(key: object) -> str:
    if type(key) is not str:
        raise Fault(f"key of type {type_name(key)} is no str; annotate the dict", segment(key))
    return key


def from_plain(plain: Any) -> Any:
    """Return the value that ``to_plain`` was given; raise ``Fault`` at a tag that it never writes."""
    cls = type(plain)
    if cls is list:
        return [at(index, from_plain, item) for index, item in enumerate(plain)]
    if cls is not dict:
        return plain
    for key in plain:
        if key[:1] == "$":
            break
    else:
        return {key: at(key, from_plain, item) for key, item in plain.items()}
    if "$int" in plain:
        return int_from_plain(plain)
    if "$float" in plain:
        return float_from_plain(plain)
    return {key: at(key, from_plain, item) for key, item in unescape(plain).items()}


def escape(plain: dict[str, Any]) -> dict[str, Any]:
    """Wrap an object that would be taken for a tag."""
    for key in plain:
        if key[:1] == "$":
            return {"$dict": plain}
    return plain


def unescape(plain: Any) -> dict[str, Any]:
    """Undo ``escape``.

    Raises:
        Fault: no object, or one with an unknown tag.
    """
    if type(plain) is not dict:
        raise Fault(f"an object was expected, not {type_name(plain)}")
    for key in plain:
        if key[:1] == "$":
            inner = plain.get("$dict")
            if len(plain) == 1 and type(inner) is dict:
                return inner
            raise Fault(f"unknown tag {short(key)}")
    return plain


def int_to_plain(value: Any) -> Any:
    """Return an ``int`` as itself, or tagged where it is longer than 64 bits."""
    if type(value) is not int:
        raise Fault(f"{type_name(value)} is no int")
    if INTEGER_MIN <= value <= INTEGER_MAX:
        return value
    if value.bit_length() > INTEGER_BITS_MAX:
        raise Fault(f"integer of {value.bit_length()} bits; at most {INTEGER_BITS_MAX} are stored")
    return {"$int": str(value)}


def int_from_plain(plain: Any) -> int:
    """Undo ``int_to_plain``."""
    if type(plain) is int:
        return plain
    text = _tagged(plain, "$int", "an integer")
    if len(text) > INTEGER_CHARACTERS_MAX or not re.fullmatch(r"-?[1-9][0-9]*", text):
        raise Fault(f"{unquoted(text)} is no integer")
    return int(text)


def float_to_plain(value: Any) -> Any:
    """Return a finite ``float`` as itself, any other tagged."""
    if type(value) is not float:
        raise Fault(f"{type_name(value)} is no float")
    return value if math.isfinite(value) else {"$float": str(value)}


def float_from_plain(plain: Any) -> float:
    """Undo ``float_to_plain``."""
    if type(plain) is float:
        return plain
    text = _tagged(plain, "$float", "a float")
    if text not in ("inf", "-inf", "nan"):
        raise Fault(f"{unquoted(text)} is no float that is tagged")
    return float(text)


def _tagged(plain: Any, tag: str, wanted: str) -> str:
    if type(plain) is not dict:
        raise Fault(f"{wanted} was expected, not {type_name(plain)}")
    text = plain.get(tag)
    if len(plain) != 1 or type(text) is not str:
        raise Fault(f"{wanted} was expected, not an object")
    return text
