"""What there is to see of an exception: its name, text and notes, its attributes, also those kept in slots and C.

Nothing of it may be trusted: each look may raise, and a text may be no Unicode. ``described`` and ``failed`` never
raise; the others may raise whatever the exception does.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any, Final, cast

from durable_trio.codec.sameness import is_same
from durable_trio.failures.tracebacks import cut, trace
from durable_trio.looks import attributes, is_a, leaves, look, qualified_name, text_of

__all__ = ["args_of", "attributes_of", "described", "failed", "is_equal", "slots_of"]

# Of a group that cannot be kept, so many failures are told in its text.
_LEAVES_TOLD: Final = 3
# Of all notes together: they are for people, and to be read.
_NOTES_CHARACTERS_MAX: Final = 256_000
_NOTES_MAX: Final = 1000
# The object whose attribute was asked for belongs to the place of the error, like the frames of the traceback.
_LEFT_OUT: Final = frozenset({(AttributeError, "obj"), (BaseException, "args")})


def _notes(exc: BaseException) -> list[str]:
    notes = look(getattr, exc, "__notes__", None, instead=lambda _: attributes(exc).get("__notes__"))
    if type(notes) is not list and type(notes) is not tuple:
        return []
    found: list[str] = []
    room = _NOTES_CHARACTERS_MAX
    for note in notes:
        if room <= 0 or len(found) >= _NOTES_MAX:
            found.append(f"... (of {len(notes)} notes the others are left out)")
            break
        if type(note) is str:
            found.append(cut(note, room))
            room -= len(note)
    return found


def described(exc: BaseException, room: int, *, text_room: int, text: str | None = None) -> dict[str, Any]:
    """Return the part of a record that people read.

    Args:
        room: characters that its traceback may have.
        text_room: those that its text may have.
        text: that text, if it is known.
    """
    text = text_of(exc) if text is None else text
    record: dict[str, Any] = {
        "type": cut(qualified_name(type(exc)), text_room),
        "message": cut(text, text_room),
        "traceback": trace(exc, room, text),
    }
    notes = _notes(exc)
    return record | {"notes": notes} if notes else record


def failed(
    exc: BaseException, room: int, *, text_room: int, text: str | None = None, keeps_notes: bool = True
) -> dict[str, Any]:
    """Return the record of what ``StepFailed`` will stand for; the arguments are those of ``described``."""
    record = described(exc, room, text_room=text_room, text=text) | {"recipe": "failed"}
    if is_a(exc, BaseExceptionGroup):  # too deep or too large to be kept: what it is about, no traceback tells
        told = [f"{qualified_name(type(leaf))}: {cut(text_of(leaf), text_room)}" for leaf in leaves(exc)[:_LEAVES_TOLD]]
        record["message"] = cut(f"{record['message']}: {'; '.join(told)}", text_room)
    if not keeps_notes:
        record.pop("notes", None)
    return record


def slots_of(cls: type) -> Mapping[str, Any]:
    """Return the descriptors of a class's slots and C fields, but for those of every exception."""
    return _slots_of(cast(Any, cls))  # classes are hashable, whatever mypy thinks


@functools.lru_cache(maxsize=1024)
def _slots_of(cls: type) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            is_slot = isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType)
            if is_slot and not name.startswith("__") and (base, name) not in _LEFT_OUT:
                found[name] = member
    return found


def attributes_of(exc: BaseException) -> dict[str, Any]:
    """Return all that an exception holds besides its args and notes."""
    found = {name: value for name, value in attributes(exc).items() if name != "__notes__"}
    for name, member in slots_of(type(exc)).items():
        try:
            found[name] = member.__get__(exc)
        except AttributeError:
            continue  # never set
    return found


def args_of(exc: BaseException) -> tuple[Any, ...]:
    """Return the args of an exception, as its class shows them.

    Raises:
        TypeError: it shows something else.
    """
    args = exc.args
    if type(args) is not tuple:
        raise TypeError("its args are no tuple")
    return args


def is_equal(exc: Exception, rebuilt: Exception) -> bool:
    """Whether all of ``exc`` is in ``rebuilt``. Exceptions within it were proved by themselves."""
    mine, theirs = attributes_of(exc), attributes_of(rebuilt)
    return (
        type(exc) is type(rebuilt)
        and mine.keys() == theirs.keys()
        and len(args_of(exc)) == len(args_of(rebuilt))
        and text_of(exc) == text_of(rebuilt)
        and all(
            is_same(a, b) or (is_a(a, Exception) and is_a(b, Exception))
            for a, b in [
                *((mine[name], theirs[name]) for name in mine),
                *zip(args_of(exc), args_of(rebuilt), strict=True),
            ]
        )
    )
