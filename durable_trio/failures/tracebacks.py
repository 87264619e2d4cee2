"""The text of a traceback, bounded, with the last frames kept; and cut texts.

Between the user's frames stand those of this library and of trio, more of them than of the user's, and the same in each
traceback. They are left out, but where a fault of this library's own is told.

An exception may be of any size: text of many megabytes, thousands of causes, each with thousands of frames. The event
loop stands still while it is written down, so it is measured first, and what is beyond a bound is left out with a note.
"""

from __future__ import annotations

import os
import traceback
from typing import Final

import outcome
import trio

import supervisors
from durable_trio.looks import clean, is_a, look, qualified_name, text_of, traceback_of

__all__ = ["CUT", "EXCEPTIONS_MAX", "cut", "is_of_library", "trace"]

# Exceptions in one failure. A group that holds itself many times over must not fill the memory.
EXCEPTIONS_MAX: Final = 1000
# What a full traceback is made of at most, all its exceptions together; some ten milliseconds.
_CHARACTERS_MAX: Final = 1_000_000
_FRAMES_MAX: Final = 2000
# Of a traceback that is cut: more than the room for its text holds.
_FRAMES_KEPT: Final = 200
CUT: Final = "... (cut)"
# The folders of this library's packages, and of those that run it.
_LIBRARY: Final = (
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ""),
    *(os.path.join(os.path.dirname(str(each.__file__)), "") for each in (supervisors, trio, outcome)),
    "<attrs generated",
)


def is_of_library(file: str) -> bool:
    """Whether a frame of this file is this library's or trio's own, and of no interest to a user."""
    return file.startswith(_LIBRARY)


def cut(text: str, room: int) -> str:
    """Return a text as Unicode, of ``room`` characters at most and a mark where it is cut."""
    return clean(text) if len(text) <= room else clean(text[:room]) + CUT


def trace(exc: BaseException, room: int, text: str | None = None, *, is_ours: bool = False) -> str:
    """Return the traceback of an exception and of its causes, of ``room`` characters at most.

    Args:
        text: that of the exception, if it is known; to ask for it again may cost as much as all the rest.
        is_ours: it is a fault of this library, whose frames are shown.
    """
    own = text_of(exc) if text is None else text
    # The full one looks at causes, notes and names of the exception, and of those before it.
    shown = look(
        _full,
        exc,
        room,
        own,
        is_ours,
        instead=lambda _: look(_frames, exc, room, own, instead=lambda _: "<no traceback>\n"),
    )
    if len(shown) <= room:
        return shown
    tail = shown[len(shown) - room :]
    return "... (earlier frames are left out)\n" + tail[tail.find("\n") + 1 :]


def _full(exc: BaseException, room: int, text: str, is_ours: bool) -> str:
    if not _is_small(exc, text):
        return _frames(exc, room, text)
    found = traceback.TracebackException(type(exc), exc, traceback_of(exc), compact=True)
    if not is_ours:
        _leave_out_library(found)
    return clean("".join(found.format()))


def _leave_out_library(found: traceback.TracebackException) -> None:
    """Leave out the library's frames, of all that is shown."""
    left: list[traceback.TracebackException | None] = [found]
    while left:
        each = left.pop()
        if each is not None:
            each.stack[:] = [frame for frame in each.stack if not is_of_library(frame.filename)]
            left += [each.__cause__, each.__context__, *(each.exceptions or ())]


def _frames(exc: BaseException, room: int, text: str) -> str:
    frames = clean("".join(traceback.format_tb(traceback_of(exc), limit=-_FRAMES_KEPT)))
    left_out = "" if _is_alone(exc) else "... (the exceptions in it and before it are left out)\n"
    # A text takes half of the room at most, so that there is something of the frames.
    return f"{frames}{left_out}{clean(qualified_name(type(exc)))}: {cut(text, room // 2)}\n"


def _is_alone(exc: BaseException) -> bool:
    return exc.__cause__ is None and exc.__context__ is None and not is_a(exc, BaseExceptionGroup)


def _is_small(exc: BaseException, text: str) -> bool:
    """Whether a full traceback shows little; ``traceback`` itself has no bound for groups, texts and chains."""
    left: list[BaseException] = [exc]
    chained: set[int] = set()
    characters, frames = 0, 0
    for _ in range(EXCEPTIONS_MAX):
        if not left:
            return True
        each = left.pop()
        characters += len(text if each is exc else text_of(each))
        notes = getattr(each, "__notes__", ())
        if type(notes) is not list and type(notes) is not tuple:
            return False  # it may have no end
        characters += sum(len(note) for note in notes if type(note) is str)
        frames += _frame_count(each)
        if characters > _CHARACTERS_MAX or frames > _FRAMES_MAX:
            return False
        if is_a(each, BaseExceptionGroup):
            members = each.exceptions  # type: ignore[attr-defined]  # as ``traceback`` will see it
            if type(members) is not tuple:
                return False
            left.extend(members)
        for other in (each.__cause__, each.__context__):
            if other is not None and id(other) not in chained:
                chained.add(id(other))
                left.append(other)
    return not left


def _frame_count(exc: BaseException) -> int:
    entry, count = traceback_of(exc), 0
    while entry is not None and count <= _FRAMES_MAX:
        entry, count = entry.tb_next, count + 1
    return count
