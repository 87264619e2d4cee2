"""What is stored of a failure, read with suspicion: each part is there and of its type, or it is ``CodecError``."""

from __future__ import annotations

from typing import Any, Final

from durable_trio.codec import parse
from durable_trio.errors import CodecError
from durable_trio.records import FailureRecord

__all__ = ["causes", "causes_of", "describe", "expect", "read"]

# Characters of a message in a list of failures; more of it tells nothing that another failure has not.
_MESSAGE_MAX: Final = 500
# Of the failures in one group.
_CAUSES_MAX: Final = 20


def describe(text: str) -> FailureRecord:
    """Return the type, text and traceback of a stored failure for people; rebuild nothing.

    Raises:
        CodecError: ``text`` is no failure.
    """
    name, message, trace, _, _ = read(parse(text, where="failure"))
    return FailureRecord(type=name, message=message, traceback=trace)


def causes(text: str, *, limit: int) -> list[FailureRecord]:
    """Return the failures in a stored group, however deep, at most so many; of anything else, that failure alone.

    Raises:
        CodecError: ``text`` is no failure.
    """
    found: list[FailureRecord] = []
    left = [parse(text, where="failure")]
    while left and len(found) < limit:
        record = left.pop()
        errors = record.get("errors") if type(record) is dict else None
        if type(errors) is list and errors:
            left.extend(reversed(errors))
        else:
            name, message, trace, _, _ = read(record)
            found.append(FailureRecord(type=name, message=message, traceback=trace))
    return found


def causes_of(error: object) -> tuple[tuple[str, str], ...]:
    """Return type and text of a stored failure, as a store lists them; of a group, of each that is in it, some.

    What is none, because the store is damaged or others wrote to it, has the type ``unreadable``.
    """
    if type(error) is not str:
        return (("unreadable", "" if error is None else "the error is no text"),)
    try:
        found = causes(error, limit=_CAUSES_MAX)
    except CodecError as fault:
        return (("unreadable", str(fault)[:_MESSAGE_MAX]),)
    return tuple((record.type, record.message[:_MESSAGE_MAX]) for record in found)


def expect(record: dict[str, Any], key: str, cls: type) -> Any:
    """Return one entry of a record, which must be of this class."""
    value = record.get(key)
    if type(value) is not cls:
        raise CodecError(f"failure: no {cls.__name__} {key!r} in it", where="failure", path=f".{key}")
    return value


def read(record: Any) -> tuple[str, str, str, list[str], str]:
    """Return type, message, traceback, notes and recipe of a record."""
    if type(record) is not dict:
        raise CodecError("failure: an object was expected", where="failure")
    notes = record.get("notes", [])
    if type(notes) is not list or not all(type(note) is str for note in notes):
        raise CodecError("failure: its notes are no list of strings", where="failure", path=".notes")
    name, message, trace, recipe = (expect(record, key, str) for key in ("type", "message", "traceback", "recipe"))
    return name, message, trace, notes, recipe
