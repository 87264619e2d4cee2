"""How long the JSON text of a value will be at least, found before it is made.

A value takes little memory where it shares its parts, ``a = [a, a]`` sixty times, and yet its text would never end.
So whatever walks a value in full, orjson included, does so only once it was counted here and there was room.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from durable_trio import limits
from durable_trio.codec.faults import Fault, segment
from durable_trio.codec.fields import field_names, unreadable

__all__ = ["no_fields", "room_left"]

_DEPTH_MAX: Final = limits.PAYLOAD_DEPTH_MAX
# Without parts, and of little text.
_SHORT: Final = frozenset({type(None), bool, int, float, Decimal, UUID, datetime, date, time, timedelta})
_ITEMS: Final = frozenset({list, tuple, set, frozenset})
# Bytes that an item and an entry have at least, besides the texts and parts within them: ``0,`` and ``"":0,``.
_ITEM_BYTES: Final = 2
_ENTRY_BYTES: Final = 5


def no_fields(cls: type) -> None:
    """Say of any class that it has no fields: where there is no annotation, none is converted."""


def room_left(
    value: Any, room: int, fields_of: Callable[[type], tuple[str, ...] | None] = field_names, depth: int = 0
) -> int:
    """Return how much of ``room`` bytes the text of ``value`` leaves at most; it stops once that is below zero.

    Args:
        fields_of: names the fields of a class; ``None`` of what is no class with fields.

    Raises:
        Fault: nested deeper than allowed, or in itself.
    """
    cls = type(value)
    names: tuple[str, ...] | None = None
    if cls is not dict and cls not in _ITEMS:
        if cls in _SHORT:
            return room
        if cls is str or cls is bytes:
            return room - len(value)
        names = fields_of(cls)
        if names is None:
            return room  # has no parts, or is refused before they are looked at
    if depth >= _DEPTH_MAX:
        raise Fault(f"nested deeper than {_DEPTH_MAX} levels, or in itself")
    place: Any = None
    try:
        if cls is dict:
            room -= _ENTRY_BYTES * len(value)
            for place, part in value.items():
                # A key that is no string is written as a text of its own, whose depth counts for itself.
                room = room - len(place) if type(place) is str else room_left(place, room, fields_of)
                kind = type(part)
                if kind is str:
                    room -= len(part)
                elif kind not in _SHORT:
                    room = room_left(part, room, fields_of, depth + 1)
                    if room < 0:
                        return room
            return room
        parts = value if names is None else _parts(value, names)
        room -= _ITEM_BYTES * len(parts)
        for place, part in enumerate(parts):  # noqa: B007  # named in the fault
            kind = type(part)
            if kind is str:
                room -= len(part)
            elif kind not in _SHORT:
                room = room_left(part, room, fields_of, depth + 1)
                if room < 0:
                    return room
        return room
    except Fault as fault:
        fault.segments.append(segment(place) if names is None else f".{names[place]}")
        raise


def _parts(value: Any, names: tuple[str, ...]) -> list[Any]:
    try:
        return [getattr(value, name, None) for name in names]
    except BaseException as error:  # of a property, say
        fault = unreadable(value, names, error)
    raise fault from fault.__cause__
