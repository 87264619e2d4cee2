"""What "the same value" means: the same type and content at every level.

``True`` is not ``1``, ``-0.0`` not ``0.0``, a list no tuple, and the order of a dict counts; NaN is the same as NaN.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

from durable_trio.codec.faults import Fault, fault_of, segment, type_name, unquoted
from durable_trio.codec.fields import field_names, is_model
from durable_trio.looks import defines_equality

__all__ = ["check_same", "is_same"]


class _Missing(enum.Enum):
    """Stands for the value of a field that was never set."""

    FIELD = "missing"


_MISSING: Final = _Missing.FIELD


def check_same(a: Any, b: Any) -> None:
    """Raise ``Fault`` at the first place where ``b`` is not the same as ``a``, in type or in content."""
    cls = type(a)
    if cls is not type(b):
        raise Fault(f"{type_name(a)} would come back as {type_name(b)}")
    if cls in _EQUAL:
        if a != b:
            _differs(a, b)
    else:
        (_COMPARERS.get(cls) or _comparer(cls))(a, b)


def is_same(a: Any, b: Any) -> bool:
    """Return whether ``b`` is the same as ``a``, in type and content at every level."""
    try:
        check_same(a, b)
    except Fault:
        return False
    return True


def _differs(a: object, b: object) -> NoReturn:
    other = type_name(b) if type(a) is not type(b) else "another one"
    raise Fault(f"{unquoted(a)} would come back as {other}")


def _same_float(a: float, b: float) -> None:
    if a == b:
        if a == 0.0 and math.copysign(1.0, a) != math.copysign(1.0, b):
            _differs(a, b)
    elif a == a or b == b:  # not both NaN
        _differs(a, b)


def _same_items(a: Any, b: Any) -> None:
    if len(a) != len(b):
        raise Fault(f"{len(a)} items would come back as {len(b)}")
    index = 0
    try:
        for item in a:
            other = b[index]
            cls = type(item)
            if cls not in _EQUAL or cls is not type(other) or item != other:
                (_COMPARERS.get(cls, check_same) if cls is type(other) else check_same)(item, other)
            index += 1
    except Fault as fault:
        fault.segments.append(f"[{index}]")
        raise


def _same_dict(a: dict[Any, Any], b: dict[Any, Any]) -> None:
    if len(a) != len(b):
        raise Fault(f"{len(a)} entries would come back as {len(b)}")
    key: object = None
    try:
        # strict only makes the lengths, compared above, plain to see
        for (key, value), (other_key, other) in zip(a.items(), b.items(), strict=True):
            if type(key) is not str or key != other_key:
                check_same(key, other_key)
            # As check_same would, without the calls: this is most of the time of an encode. Below too.
            cls = type(value)
            if cls not in _EQUAL or cls is not type(other) or value != other:
                (_COMPARERS.get(cls, check_same) if cls is type(other) else check_same)(value, other)
    except Fault as fault:
        fault.segments.append(segment(key))
        raise


def _same_set(a: Any, b: Any) -> None:
    others = {item: item for item in b}
    if len(a) != len(b):
        raise Fault(f"{len(a)} items would come back as {len(b)}")
    for item in a:
        if item not in others:
            raise Fault(f"an item ({unquoted(item)}) would be lost")
        check_same(item, others[item])


def _same_clock(a: Any, b: Any) -> None:
    zone, other = a.tzinfo, b.tzinfo
    if type(zone) is not type(other):
        raise Fault(f"time zone {type_name(zone)} would come back as {type_name(other)}")
    same_zone = zone.key == other.key if isinstance(zone, ZoneInfo) else zone == other
    if a.replace(tzinfo=None) != b.replace(tzinfo=None) or a.fold != b.fold or not same_zone:
        _differs(a, b)


def _same_text(a: object, b: object) -> None:
    if str(a) != str(b):
        _differs(a, b)


def _same_fields(names: tuple[str, ...]) -> Callable[[Any, Any], None]:
    def compare(a: Any, b: Any) -> None:
        for name in names:
            try:
                check_same(getattr(a, name, _MISSING), getattr(b, name, _MISSING))
            except RecursionError:
                raise
            except BaseException as error:  # also of a property
                fault = fault_of(error, "reading it has raised", f".{name}")
                raise fault from fault.__cause__

    return compare


def _same_model(names: tuple[str, ...]) -> Callable[[Any, Any], None]:
    """Compare models of Pydantic's: also which fields were set, and what is kept beside the fields."""

    def compare(a: Any, b: Any) -> None:
        for name in names:
            value, other = getattr(a, name), getattr(b, name)
            try:
                check_same(value, other)
            except Fault as fault:
                # What only Pydantic knows is compared by its own ``==``.
                if not (fault.is_unknown and type(value) is type(other) and value == other):
                    fault.segments.append(f".{name}")
                    raise
        if a.__pydantic_fields_set__ != b.__pydantic_fields_set__:
            raise Fault("which of its fields were set would be lost")
        check_same(dict(a.__pydantic_extra__ or {}), dict(b.__pydantic_extra__ or {}))
        private, other = a.__pydantic_private__ or {}, b.__pydantic_private__ or {}
        for name, value in private.items():
            # A lock, say, is equal to itself only, and no part of what the model says.
            if defines_equality(value) and (name not in other or not is_same(value, other[name])):
                raise Fault(f"the private attribute {name} would be lost; make it a field, or use a TypeHook")

    return _guarded(compare)


def _guarded(compare: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Return a comparison by code of the user's, whatever that raises."""

    def guarded(a: Any, b: Any) -> None:
        try:
            compare(a, b)
            return
        except RecursionError:
            raise
        except BaseException as error:
            fault = fault_of(error, "comparing it has raised")
        raise fault from fault.__cause__

    return guarded


def _no_comparison(a: object, b: object) -> None:
    raise Fault(f"{type_name(a)} cannot be stored exactly", is_unknown=True)


def _same_enum(a: object, b: object) -> None:
    if a is not b:
        _differs(a, b)


# Types whose == compares all there is. Paths are not among them: Windows paths compare without case.
_EQUAL: Final = frozenset({type(None), bool, int, str, bytes, UUID, date, timedelta})
_COMPARERS: dict[type, Callable[[Any, Any], None]] = {
    float: _same_float,
    list: _same_items,
    tuple: _same_items,
    dict: _same_dict,
    set: _same_set,
    frozenset: _same_set,
    datetime: _same_clock,
    time: _same_clock,
    Decimal: _same_text,
}
# Classes come and go with the functions that define them; the cache must not keep them all.
_COMPARERS_MAX: Final = 4096


def _comparer(cls: type) -> Callable[[Any, Any], None]:
    found = _COMPARERS.get(cls)
    if found is None:
        found = _make_comparer(cls)
        if len(_COMPARERS) < _COMPARERS_MAX:
            _COMPARERS[cls] = found
    return found


def _make_comparer(cls: type) -> Callable[[Any, Any], None]:
    names = field_names(cls)
    if names is not None:
        if is_model(cls):
            return _same_model(names)
        return _same_items if issubclass(cls, tuple) else _same_fields(names)
    if issubclass(cls, enum.Enum):
        return _same_enum
    if issubclass(cls, PurePath):
        return _same_text
    return _no_comparison
