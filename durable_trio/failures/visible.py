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
from durable_trio.failures.tracebacks import trace
from durable_trio.looks import attributes, clean, is_a, leaves, look, qualified_name, text_of

__all__ = ["args_of", "attributes_of", "described", "failed", "is_equal", "slots_of"]

# Of a group that cannot be kept, so many failures are told in its text.
_LEAVES_TOLD: Final = 3
# The object whose attribute was asked for belongs to the place of the error, like the frames of the traceback.
_LEFT_OUT: Final = frozenset({(AttributeError, "obj"), (BaseException, "args")})


def _notes(exc: BaseException) -> list[str]:
    notes = look(getattr, exc, "__notes__", None, instead=lambda _: attributes(exc).get("__notes__"))
    return [clean(note) for note in notes if type(note) is str] if type(notes) is list or type(notes) is tuple else []


def described(exc: BaseException, room: int) -> dict[str, Any]:
    """Return the part of a record that people read; ``room`` is that of the traceback."""
    record: dict[str, Any] = {
        "type": clean(qualified_name(type(exc))),
        "message": clean(text_of(exc)),
        "traceback": trace(exc, room),
    }
    notes = _notes(exc)
    return record | {"notes": notes} if notes else record


def failed(exc: BaseException, room: int, *, is_cut: bool = False) -> dict[str, Any]:
    """Return the record of what ``StepFailed`` will stand for."""
    record = described(exc, room) | {"recipe": "failed"}
    if is_a(exc, BaseExceptionGroup):  # too deep or too large to be kept: what it is about, no traceback tells
        told = [f"{clean(qualified_name(type(leaf)))}: {clean(text_of(leaf))}" for leaf in leaves(exc)[:_LEAVES_TOLD]]
        record["message"] += f": {'; '.join(told)}"
    if is_cut:
        record.pop("notes", None)
        record["type"] = record["type"][:room]
        if len(record["message"]) > room:
            record["message"] = record["message"][:room] + "... (cut)"
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
