"""The text of a traceback, bounded, with the last frames kept; and Unicode made of any text."""

from __future__ import annotations

import traceback
from typing import Final

__all__ = ["EXCEPTIONS_MAX", "clean", "trace"]

# Exceptions in one failure. A group that holds itself many times over must not fill the memory.
EXCEPTIONS_MAX: Final = 1000


def clean(text: str) -> str:
    """Escape what is not Unicode text."""
    return text.encode("utf-8", "backslashreplace").decode()


def trace(exc: BaseException, room: int) -> str:
    """Return the traceback of an exception and of its causes, of ``room`` characters at most."""
    try:
        lines = traceback.format_exception(exc) if _is_small(exc) else traceback.format_tb(exc.__traceback__)
        text = clean("".join(lines))
    except Exception as error:  # of a __str__ or a __cause__ that is no exception
        text = f"<no traceback: {type(error).__name__}>\n"
    if len(text) <= room:
        return text
    tail = text[len(text) - room :]
    return "... (earlier frames are left out)\n" + tail[tail.find("\n") + 1 :]


def _is_small(exc: BaseException) -> bool:
    """Whether the exceptions that a full traceback shows are few; ``traceback`` itself has no bound for groups."""
    left: list[BaseException] = [exc]
    chained: set[int] = set()
    for _ in range(EXCEPTIONS_MAX):
        if not left:
            return True
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left.extend(each.exceptions)
        for other in (each.__cause__, each.__context__):
            if other is not None and id(other) not in chained:
                chained.add(id(other))
                left.append(other)
    return not left
