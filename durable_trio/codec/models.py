"""Coders of Pydantic models. Pydantic is never imported here: a model can only come from where it was.

A field is converted by our own coder of its annotation, exactly, as those of other classes are; and by Pydantic's own
JSON where the annotation is one that only Pydantic understands (``HttpUrl``, ``SecretStr``, a type with serializers).
The model is put together by ``model_validate``, so its validators run, also at replay. What there is no field for has a
key that none can have: ``$unset``, the fields that were never set, which ``exclude_unset`` goes by; and ``$extra``,
what ``extra="allow"`` has let in. Private attributes are not stored.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import orjson

from durable_trio.codec.annotations import label
from durable_trio.codec.coder import ALL_KINDS, Coder, Compiler
from durable_trio.codec.faults import Fault, fault_of, type_name
from durable_trio.codec.fields import unreadable
from durable_trio.codec.plain import from_plain, to_plain

__all__ = ["model_coder"]

_UNSET: Final = "$unset"
_EXTRA: Final = "$extra"


def model_coder(coders: Compiler, annotation: Any, cls: Any) -> Coder:
    """Return the coder of a subclass of ``pydantic.BaseModel``."""
    coder = coders.started(annotation, "dict", frozenset({cls}))
    fields = cls.__pydantic_fields__
    names = tuple(fields)
    parts = {name: _field_coder(coders, cls, name, field) for name, field in fields.items()}
    coder.is_flat = all(part.is_flat for part in parts.values())
    coder.required = frozenset(name for name, field in fields.items() if field.is_required())
    coder.allowed = frozenset({*names, _UNSET, _EXTRA})
    decimals = frozenset(name for name in names if _is_decimal(fields[name].annotation))
    coder.literals = {name: parts[name] for name in names if parts[name].is_literal}

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {coder.name}")
        try:
            found = {name: getattr(value, name) for name in names}
            unset = [name for name in names if name not in value.__pydantic_fields_set__]
            extra = value.__pydantic_extra__
        except BaseException as error:  # of a property, or a field that ``model_construct`` has left out
            raise unreadable(value, names, error) from None
        plain = {name: _at(name, parts[name].encode, item) for name, item in found.items()}
        if unset:
            plain[_UNSET] = unset
        if extra:
            plain[_EXTRA] = to_plain(dict(extra))
        return plain

    def decode(plain: Any) -> Any:
        coder.check_fields(plain)
        # A number stands for a Decimal where JSON comes from elsewhere: so Pydantic itself has it.
        given = {name: str(item) if name in decimals and _is_number(item) else item for name, item in plain.items()}
        values = {name: _at(name, parts[name].decode, item) for name, item in given.items() if name in parts}
        unset = plain.get(_UNSET, [])
        if type(unset) is not list or not all(type(name) is str and name in values for name in unset):
            raise Fault(f"{_UNSET} must be a list of fields that are there")
        extra = from_plain(plain.get(_EXTRA, {}))
        if type(extra) is not dict or not values.keys().isdisjoint(extra):
            raise Fault(f"{_EXTRA} must be an object without the fields of {coder.name}")
        try:
            model = _validated(cls, {**extra, **values})
            if type(model) is cls:
                model.__pydantic_fields_set__.difference_update(unset)
        except BaseException as error:  # of a validator, say
            fault = fault_of(error, f"{coder.name} does not take these fields")
            raise fault from fault.__cause__
        if type(model) is not cls:
            raise Fault(f"{coder.name} was validated and became {type_name(model)}")
        return model

    coder.encode, coder.decode = encode, decode
    return coder


def _is_decimal(annotation: Any) -> bool:
    return annotation is Decimal or set(typing.get_args(annotation)) == {Decimal, type(None)}


def _is_number(plain: Any) -> bool:
    return type(plain) is int or type(plain) is float


def _validated(cls: Any, values: dict[str, Any]) -> Any:
    if cls.__pydantic_root_model__:
        return cls.model_validate(values["root"])
    if all(field.validation_alias is None for field in cls.__pydantic_fields__.values()):
        return cls.model_validate(values)
    return cls.model_validate(values, by_alias=False, by_name=True)  # new in Pydantic 2.11


def _field_coder(coders: Compiler, cls: Any, name: str, field: Any) -> Coder:
    try:
        return coders.get(field.annotation)
    except Fault as error:
        reason = error.reason
    adapter = sys.modules["pydantic"].TypeAdapter
    annotation = typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        return _pydantic_coder(label(field.annotation), adapter(annotation))
    except BaseException as error:
        fault = fault_of(error, f"{reason}; nor by Pydantic", f".{name}")
        raise fault from fault.__cause__


def _pydantic_coder(name: str, adapter: Any) -> Coder:
    """Return the coder of what only Pydantic understands, by its own JSON."""

    def encode(value: Any) -> Any:
        return to_plain(_by_pydantic(name, lambda: orjson.loads(adapter.dump_json(value, **_EXACT))))

    def decode(plain: Any) -> Any:
        return _by_pydantic(name, lambda: adapter.validate_json(orjson.dumps(from_plain(plain))))

    return Coder(name, ALL_KINDS, None, encode, decode)


# What may be lost on the way is an error, not a warning.
_EXACT: Final = {"by_alias": True, "round_trip": True, "warnings": "error"}


def _by_pydantic(name: str, convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except BaseException as error:
        fault = fault_of(error, f"Pydantic cannot convert {name}")
    raise fault from fault.__cause__


def _at(name: str, convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except Fault as fault:
        fault.segments.append(f".{name}")
        raise
