"""What "the same value" means: exact comparison, the JSON form of plain values, the text form of scalars.

Two values are the same if they have the same type and content at every level: ``True`` is not ``1``, ``-0.0`` not
``0.0``, a list no tuple, and the order of a dict counts; NaN is the same as NaN. A *plain* value is what a JSON
parser returns. It is the value itself wherever JSON can say it; where JSON cannot, a tag stands for it, an object
whose only key begins with ``$``::

    {"$float": "nan"}   inf, -inf or nan        {"$int": "18446744073709551616"}   beyond signed 64 bits
    {"$dict": {...}}    a dict with a key that begins with "$", so that no user's value is taken for a tag

The module knows no parser, no annotations and nothing of payload limits.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import hashlib
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs

from durable_trio import limits

__all__ = ["SCALARS", "Fault", "check_same", "digest_of", "from_plain", "to_plain"]

# SQLite, Datasette and most parsers read integers as signed 64-bit numbers.
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
# 4300 decimal digits, the interpreter's own bound against quadratic conversions; here it holds everywhere.
INTEGER_BITS_MAX: Final = 14_284
INTEGER_CHARACTERS_MAX: Final = 4301


class _Missing(enum.Enum):
    """Stands for the value of a field that was never set."""

    FIELD = "missing"


_MISSING: Final = _Missing.FIELD


class Fault(Exception):
    """A value cannot be converted: ``reason``, and where inside the value, collected on the way out."""

    def __init__(self, reason: str, *segments: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.segments = list(segments)  # innermost first

    @property
    def path(self) -> str:
        """The place in the value, such as ``.items[3].price``."""
        return "".join(reversed(self.segments))


def type_name(value: object) -> str:
    """Name the type of a value for people."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def segment(key: object) -> str:
    """Name one entry of a dict or list in a path; long keys are cut."""
    text = repr(key)
    return f"[{text if len(text) <= 60 else text[:57] + '...'}]"


# ---- the same value ----------------------------------------------------------------------------------------------


def check_same(a: Any, b: Any) -> None:
    """Raise ``Fault`` at the first place where ``b`` is not the same as ``a``, in type or in content."""
    cls = type(a)
    if cls is not type(b):
        raise Fault(f"{type_name(a)} would come back as {type_name(b)}")
    if cls in _EQUAL:
        if a != b:
            _differs(a, b)
    else:
        _comparer(cls)(a, b)


def is_same(a: Any, b: Any) -> bool:
    """Return whether ``b`` is the same as ``a``, in type and content at every level."""
    try:
        check_same(a, b)
    except Fault:
        return False
    return True


def _differs(a: object, b: object) -> NoReturn:
    raise Fault(f"{type_name(a)} {_short(a)} would come back as {_short(b)}")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type_name(value)}>"
    return text if len(text) <= 80 else text[:77] + "..."


def _same_float(a: float, b: float) -> None:
    if not (a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) and not (a != a and b != b):
        _differs(a, b)


def _same_items(a: Any, b: Any) -> None:
    if len(a) != len(b):
        raise Fault(f"{len(a)} items would come back as {len(b)}")
    index = 0
    try:
        for item in a:
            check_same(item, b[index])
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
            check_same(value, other)
    except Fault as fault:
        fault.segments.append(segment(key))
        raise


def _same_set(a: Any, b: Any) -> None:
    others = {item: item for item in b}
    if len(a) != len(b):
        raise Fault(f"{len(a)} items would come back as {len(b)}")
    for item in a:
        if item not in others:
            raise Fault(f"item {_short(item)} would be lost")
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
            except Fault as fault:
                fault.segments.append(f".{name}")
                raise

    return compare


def _same_enum(a: object, b: object) -> None:
    if a is not b:
        _differs(a, b)


def _no_comparison(a: object, b: object) -> None:
    raise Fault(f"{type_name(a)} cannot be stored exactly")


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
    if attrs.has(cls):
        return _same_fields(tuple(field.name for field in attrs.fields(cls)))
    if dataclasses.is_dataclass(cls):
        return _same_fields(tuple(field.name for field in dataclasses.fields(cls)))
    if issubclass(cls, enum.Enum):
        return _same_enum
    if issubclass(cls, PurePath):
        return _same_text
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _same_items
    return _no_comparison


# ---- plain values ------------------------------------------------------------------------------------------------


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
        return escape({_plain_key(key): _at(key, to_plain, item, depth + 1) for key, item in value.items()})
    raise Fault(f"{type_name(value)} is no JSON type; annotate the value with its type")


def _plain_key(key: object) -> str:
    if type(key) is not str:
        raise Fault(f"key of type {type_name(key)} is no str; annotate the dict", segment(key))
    return key


def _at(key: object, convert: Callable[..., Any], *args: Any) -> Any:
    try:
        return convert(*args)
    except Fault as fault:
        fault.segments.append(segment(key))
        raise


def from_plain(plain: Any) -> Any:
    """Return the value that ``to_plain`` was given; raise ``Fault`` at a tag that it never writes."""
    cls = type(plain)
    if cls is list:
        return [_at(index, from_plain, item) for index, item in enumerate(plain)]
    if cls is not dict:
        return plain
    for key in plain:
        if key[:1] == "$":
            break
    else:
        return {key: _at(key, from_plain, item) for key, item in plain.items()}
    if "$int" in plain:
        return int_from_plain(plain)
    if "$float" in plain:
        return float_from_plain(plain)
    return {key: _at(key, from_plain, item) for key, item in unescape(plain).items()}


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
            raise Fault(f"unknown tag {_short(key)}")
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
        raise Fault(f"{_short(text)} is no integer")
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
        raise Fault(f"{_short(text)} is no float that is tagged")
    return float(text)


def _tagged(plain: Any, tag: str, wanted: str) -> str:
    if type(plain) is not dict:
        raise Fault(f"{wanted} was expected, not {type_name(plain)}")
    text = plain.get(tag)
    if len(plain) != 1 or type(text) is not str:
        raise Fault(f"{wanted} was expected, not an object")
    return text


# ---- the text of scalars -----------------------------------------------------------------------------------------


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
        raise Fault(f"{_short(text)} is no duration such as 'P1DT30.500000S'")
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


def digest_of(canonical: bytes) -> bytes:
    """Return the SHA-256 of a canonical JSON text."""
    return hashlib.sha256(canonical).digest()
