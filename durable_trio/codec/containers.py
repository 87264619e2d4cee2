"""Coders of lists, tuples, sets and dicts, by the coders of their items.

Sets are written sorted. The keys of a dict need not be strings: a key that is none is written as its JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from durable_trio.codec.annotations import UNANNOTATED, resolve
from durable_trio.codec.coder import Coder, Compiler
from durable_trio.codec.faults import Fault, each_of, segment, type_name
from durable_trio.codec.json_text import canonical, load
from durable_trio.codec.plain import escape, unescape

__all__ = ["dict_coder", "fixed_tuple_coder", "items_coder"]


def items_coder(coders: Compiler, annotation: Any, cls: type, item: Any) -> Coder:
    """Return the coder of a list, set, frozenset or tuple of any length."""
    coder = coders.started(annotation, "list", frozenset({cls}))
    part = coders.get(item)
    is_set = cls is set or cls is frozenset

    def encode(value: Any) -> list[Any]:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {coder.name}")
        items = each_of(part.encode, value)
        return sorted(items, key=canonical) if is_set else items

    def decode(plain: Any) -> Any:
        if type(plain) is not list:
            raise Fault(f"a list was expected, not {type_name(plain)}")
        items = each_of(part.decode, plain)
        if cls is list:
            return items
        try:
            value = cls(items)
        except TypeError as error:
            raise Fault(str(error)) from None
        if len(value) != len(items):
            raise Fault("an item of a set is there twice")
        return value

    coder.encode, coder.decode = encode, decode
    return coder


def fixed_tuple_coder(coders: Compiler, annotation: Any, arguments: tuple[Any, ...]) -> Coder:
    """Return the coder of a tuple with a type for each place."""
    coder = coders.started(annotation, "list", frozenset({tuple}))
    parts = [coders.get(item) for item in arguments]
    coder.is_flat = all(part.is_flat for part in parts)

    def pairs(items: Any) -> Iterable[Any]:
        return zip(parts, items, strict=True)

    def encode(value: Any) -> list[Any]:
        if type(value) is not tuple or len(value) != len(parts):
            raise Fault(f"{type_name(value)} is no {coder.name}")
        return each_of(lambda pair: pair[0].encode(pair[1]), pairs(value))

    def decode(plain: Any) -> tuple[Any, ...]:
        if type(plain) is not list or len(plain) != len(parts):
            raise Fault(f"a list of {len(parts)} was expected, not {type_name(plain)}")
        return tuple(each_of(lambda pair: pair[0].decode(pair[1]), pairs(plain)))

    coder.encode, coder.decode = encode, decode
    return coder


def dict_coder(coders: Compiler, annotation: Any, key: Any, item: Any) -> Coder:
    """Return the coder of a dict."""
    coder = coders.started(annotation, "dict", frozenset({dict}))
    keys, values = coders.get(str if resolve(key) is UNANNOTATED else key), coders.get(item)
    to_key, from_key = keys.encode, keys.decode
    if keys.kinds != {"str"}:
        to_key, from_key = (
            lambda name: _key_to_text(keys.encode(name)),
            lambda text: keys.decode(_key_from_text(text)),
        )
    if coders.is_lenient:  # keys may have been of another kind, and so written in the other way
        from_key = _either(from_key, keys.decode if keys.kinds != {"str"} else lambda text: keys.decode(load(text)))

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Fault(f"{type_name(value)} is no {coder.name}")
        name: Any = None
        try:
            plain = {}
            for name, entry in value.items():
                plain[to_key(name)] = values.encode(entry)
        except Fault as fault:
            fault.segments.append(segment(name))
            raise
        return escape(plain)

    def decode(plain: Any) -> dict[Any, Any]:
        plain = unescape(plain)
        name: Any = None
        try:
            value = {}
            for name, entry in plain.items():
                value[from_key(name)] = values.decode(entry)
        except Fault as fault:
            fault.segments.append(segment(name))
            raise
        except TypeError as error:
            raise Fault(str(error), segment(name)) from None
        if len(value) != len(plain):
            raise Fault("a key is there twice")
        return value

    coder.encode, coder.decode = encode, decode
    return coder


def _either(one: Callable[[str], Any], other: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return one(text)
        except Fault as fault:
            refused = fault
        try:
            return other(text)
        except Fault:
            raise refused from None

    return read


# What could be the JSON text of a key that is no string.
_JSON_KEY: Final = re.compile(r'["\[{0-9-]|(?:null|true|false)?\Z')


def _key_to_text(plain: Any) -> str:
    """Return the key of an object for a key that need not be a string: its JSON, or a string that is none."""
    return plain if type(plain) is str and not _JSON_KEY.match(plain) else canonical(plain).decode()


def _key_from_text(text: str) -> Any:
    if not _JSON_KEY.match(text):
        return text
    plain = load(text)
    if _key_to_text(plain) != text:
        raise Fault(f"a key of {len(text)} characters is not in its canonical form")
    return plain
