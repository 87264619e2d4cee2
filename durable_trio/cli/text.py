"""Text in cells of a terminal: how wide it is, cutting and padding it, values and counts as text.

Nothing that was stored is written to a terminal as it is; ``unseen`` says why, and makes it ``visible``.
"""

from __future__ import annotations

import json
import unicodedata
from functools import lru_cache
from typing import Any, Final

from durable_trio.unseen import visible
from durable_trio.views.values import jsonable

__all__ = ["compact", "cut", "first_line", "pad", "plural", "visible", "width_of"]

_ELLIPSIS: Final = "…"


@lru_cache(maxsize=4096)
def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def width_of(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def cut(text: str, cells: int) -> str:
    """Return a text that takes at most so many cells; where something is cut off it ends with …."""
    if width_of(text) <= cells:
        return text
    if cells <= 0:
        return ""
    kept = 0
    for index, character in enumerate(text):
        kept += _cells(character)
        if kept > cells - 1:
            return text[:index] + _ELLIPSIS
    return text


def pad(text: str, cells: int, *, right: bool = False) -> str:
    """Return a text cut or filled up with blanks to exactly so many cells; ``right`` puts it at the right end."""
    text = cut(text, cells)
    blanks = " " * (cells - width_of(text))
    return blanks + text if right else text + blanks


def first_line(text: str) -> str:
    """Return the first line of a text that has something in it; … tells that there are more."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines:
        return ""
    return visible(lines[0]) + (f" {_ELLIPSIS}" if any(lines[1:]) else "")


def compact(value: Any) -> str:
    """Return a JSON value as one line for people."""
    return visible(json.dumps(jsonable(value), ensure_ascii=False, separators=(", ", ": ")))


def plural(count: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
