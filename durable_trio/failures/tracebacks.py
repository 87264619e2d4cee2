"""The text of a traceback, bounded, with the last frames kept."""

from __future__ import annotations

import traceback
from typing import Final

from durable_trio.looks import clean, is_a, look, qualified_name, text_of, traceback_of

__all__ = ["EXCEPTIONS_MAX", "trace"]

# Exceptions in one failure. A group that holds itself many times over must not fill the memory.
EXCEPTIONS_MAX: Final = 1000


def trace(exc: BaseException, room: int) -> str:
    """Return the traceback of an exception and of its causes, of ``room`` characters at most."""
    # The full one looks at causes, notes and names of the exception, and of those before it.
    text = look(_full, exc, instead=lambda _: look(_frames, exc, instead=lambda _: "<no traceback>\n"))
    if len(text) <= room:
        return text
    tail = text[len(text) - room :]
    return "... (earlier frames are left out)\n" + tail[tail.find("\n") + 1 :]


def _full(exc: BaseException) -> str:
    return clean("".join(traceback.format_exception(exc))) if _is_small(exc) else _frames(exc)


def _frames(exc: BaseException) -> str:
    frames = clean("".join(traceback.format_tb(traceback_of(exc))))
    return f"{frames}{clean(qualified_name(type(exc)))}: {clean(text_of(exc))}\n"


def _is_small(exc: BaseException) -> bool:
    """Whether the exceptions that a full traceback shows are few; ``traceback`` itself has no bound for groups."""
    left: list[BaseException] = [exc]
    chained: set[int] = set()
    for _ in range(EXCEPTIONS_MAX):
        if not left:
            return True
        each = left.pop()
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
