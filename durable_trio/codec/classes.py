"""Coders of classes with fields: attrs, dataclasses, named tuples, structs, typed dicts. Only here is cattrs known.

cattrs writes the functions that take an instance apart and put it together; the fields themselves are converted by
our own coders, for its hooks coerce (``int("1")``, ``bool("x")``), and a durable value must not be coerced.
"""

from __future__ import annotations

import typing
from typing import Any

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn_from_attrs, make_dict_unstructure_fn_from_attrs

from durable_trio.codec.annotations import UNANNOTATED, field_types
from durable_trio.codec.coder import Coder, Compiler
from durable_trio.codec.faults import Fault, at, fault_of, type_name
from durable_trio.codec.fields import Field, fields_of, unreadable
from durable_trio.looks import class_name, qualified_name

__all__ = ["class_coder", "new_converter", "typed_dict_coder"]


def new_converter() -> cattrs.Converter:
    """Return a converter that takes coders for types."""
    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook_factory(lambda t: type(t) is Coder, lambda t: t.decode)
    converter.register_unstructure_hook_factory(lambda t: type(t) is Coder, lambda t: t.encode)
    return converter


def class_coder(coders: Compiler, converter: cattrs.Converter, annotation: Any, cls: Any) -> Coder:
    """Return the coder of a class with fields; raise ``Fault`` if it has none that are known."""
    fields = fields_of(cls)
    if fields is None:
        raise Fault(
            f"{qualified_name(cls)} is no type that can be stored; use attrs, a dataclass, a Pydantic model or a "
            f"msgspec.Struct, or name it in Engine(types=[TypeHook({class_name(cls)}, encode, decode)])"
        )
    coder = coders.started(annotation, "dict", frozenset({cls}))
    hints = field_types(annotation, cls)
    parts = {field.name: coders.get(hints.get(field.name, UNANNOTATED)) for field in fields}
    names = tuple(parts)
    coder.is_flat = all(part.is_flat for part in parts.values())
    # cattrs reads these as the fields of a class; their "types" are the coders of the fields.
    shadow = attrs.make_class(
        "Fields",
        {
            field.name: attrs.field(
                type=_located(field.name, parts[field.name]),
                kw_only=True,
                alias=field.alias,
                default=attrs.NOTHING if field.is_required else None,
            )
            for field in fields
        },
    )
    coder.allowed = frozenset(field.name for field in fields)
    coder.required = frozenset(field.name for field in fields if field.is_required)
    coder.literals = {name: part for name, part in parts.items() if part.is_literal}
    build = _constructor(cls, [field for field in fields if not field.is_init])
    unstructure = make_dict_unstructure_fn_from_attrs(
        list(attrs.fields(shadow)), build, converter, _cattrs_use_linecache=False
    )
    structure = make_dict_structure_fn_from_attrs(
        list(attrs.fields(shadow)), build, converter, _cattrs_use_linecache=False
    )

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {coder.name}")
        try:
            return unstructure(value)
        except (Fault, RecursionError):
            raise
        except BaseException as error:  # of a property, say
            raise unreadable(value, names, error) from None

    def decode(plain: Any) -> Any:
        coder.check_fields(plain)
        try:
            return structure(plain, cls)
        except (Fault, RecursionError):
            raise
        except BaseException as error:  # of a validator, say
            fault = fault_of(error, f"{coder.name} does not take these fields")
            raise fault from fault.__cause__

    coder.encode, coder.decode = encode, decode
    return coder


def typed_dict_coder(coders: Compiler, annotation: Any, cls: Any) -> Coder:
    """Return the coder of a ``TypedDict``."""
    coder = coders.started(annotation, "dict", frozenset({dict}))
    hints = field_types(annotation, cls)
    parts = {name: coders.get(hint) for name, hint in hints.items()}
    coder.is_flat = all(part.is_flat for part in parts.values())
    # __required_keys__ alone is wrong where annotations are strings.
    optional = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
    coder.literals = {name: part for name, part in parts.items() if part.is_literal}
    required = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Required}
    coder.required, coder.allowed = frozenset(cls.__required_keys__ - optional | required), frozenset(parts)
    if any(name.startswith("$") for name in parts):
        raise Fault(f"{coder.name} has a key that begins with '$'")

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Fault(f"{type_name(value)} is no {coder.name}")
        coder.check_fields(value)
        return {name: at(name, parts[name].encode, item) for name, item in value.items()}

    def decode(plain: Any) -> dict[str, Any]:
        coder.check_fields(plain)
        return {name: at(name, parts[name].decode, item) for name, item in plain.items()}

    coder.encode, coder.decode = encode, decode
    return coder


def _located(name: str, part: Coder) -> Any:
    """Return the coder of a field, whose faults name the field."""
    to_json, from_json, place = part.encode, part.decode, f".{name}"

    def encode(value: Any) -> Any:
        try:
            return to_json(value)
        except Fault as fault:
            fault.segments.append(place)
            raise

    def decode(plain: Any, _: Any) -> Any:
        try:
            return from_json(plain)
        except Fault as fault:
            fault.segments.append(place)
            raise

    return Coder(part.name, part.kinds, part.classes, encode, typing.cast(Any, decode))


def _constructor(cls: Any, late: list[Field]) -> Any:
    """Return a function that makes an instance from fields, also from those that ``__init__`` does not take."""

    def build(**values: Any) -> Any:
        kept = [(field.name, values.pop(field.alias)) for field in late if field.alias in values]
        instance = cls(**values)
        for name, value in kept:
            object.__setattr__(instance, name, value)  # frozen classes too
        return instance

    return build
