"""The text of scalars: how bytes, instants, durations, decimals and UUIDs are written as strings, and read again."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from durable_trio.codec.faults import Fault, type_name, unquoted

__all__ = ["SCALARS"]


def _clock_to_text(value: Any) -> str:
    # RFC 9557: the zone in brackets after the offset; a fold is named the same way, for isoformat() drops it.
    text: str = value.isoformat()
    if isinstance(value.tzinfo, ZoneInfo):
        if value.tzinfo.key is None:
            raise Fault("a time zone without a key cannot be stored")
        text += f"[{value.tzinfo.key}]"
    elif value.tzinfo is not None and type(value.tzinfo) is not timezone:
        raise Fault(f"time zone of type {type_name(value.tzinfo)} cannot be stored; use zoneinfo or datetime.timezone")
    return text + "[fold=1]" if value.fold else text


def _clock_from_text(cls: Any, text: str) -> Any:
    main, _, rest = text.partition("[")
    fold = 1 if f"[{rest}".endswith("[fold=1]") else 0
    zone = f"[{rest}".removesuffix("[fold=1]")[1:-1]
    value = cls.fromisoformat(main).replace(fold=fold)
    if not zone:
        return value
    local = value.replace(tzinfo=ZoneInfo(zone))
    if cls is time or local.utcoffset() == value.utcoffset():
        return local
    # The rules of the zone have changed since: the recorded instant counts, not the clock on the wall.
    return value.astimezone(local.tzinfo)


_DURATION: Final = re.compile(r"(-?)P(\d{1,9})DT(\d{1,5})(?:\.(\d{6}))?S", re.ASCII)


def _duration_to_text(value: timedelta) -> str:
    size = abs(value)
    fraction = f".{size.microseconds:06}" if size.microseconds else ""
    return f"{'-' if value.days < 0 else ''}P{size.days}DT{size.seconds}{fraction}S"


def _duration_from_text(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Fault(f"{unquoted(text)} is no duration such as 'P1DT30.500000S'")
    sign, days, seconds, fraction = match.groups()
    size = timedelta(days=int(days), seconds=int(seconds), microseconds=int(fraction or 0))
    return -size if sign else size


def _decimal_to_text(value: Decimal) -> str:
    if value.is_nan():
        raise Fault("Decimal NaN is not equal to itself and cannot be stored exactly")
    return str(value)


def _bytes_to_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _bytes_from_text(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


# Class: how it is written as a string, and read again. A reader may raise any Exception at a text it cannot read.
SCALARS: Final[dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]]] = {
    bytes: (_bytes_to_text, _bytes_from_text),
    datetime: (_clock_to_text, lambda text: _clock_from_text(datetime, text)),
    time: (_clock_to_text, lambda text: _clock_from_text(time, text)),
    date: (date.isoformat, date.fromisoformat),
    timedelta: (_duration_to_text, _duration_from_text),
    Decimal: (_decimal_to_text, Decimal),
    UUID: (str, UUID),
}
