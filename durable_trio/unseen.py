"""Characters that are not seen, and how they are written where people read.

What was stored may hold anything. Written to a terminal as it is, a control character moves the cursor, changes the
title or the colours; a mark of writing direction shows ``exe.png`` for ``gnp.exe``; one without width makes two ids
look the same. So nothing that came from outside goes to a terminal, or to people in a log, before it has passed here.

Unseen is what Unicode has in the categories of controls, formats, surrogates, private use, unassigned, and separators
of lines and paragraphs; and what it calls ignorable by default, wherever that stands (variation selectors, fillers).
That takes the joiners of some scripts and of emoji along: a text stays legible without them, and they can hide a
difference.
"""

from __future__ import annotations

import json
import sys
import traceback
import unicodedata
from collections.abc import Callable
from types import TracebackType
from typing import Final

__all__ = ["print_traceback", "visible", "visible_json", "visible_lines"]

_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Default_Ignorable_Code_Point outside those categories; DerivedCoreProperties.txt of Unicode 16.
_IGNORABLE: Final = frozenset(
    {
        0x034F,  # combining grapheme joiner
        *(0x115F, 0x1160, 0x3164, 0xFFA0),  # Hangul fillers
        *(0x17B4, 0x17B5),  # inherent vowels of Khmer
        *(0x180B, 0x180C, 0x180D, 0x180F),  # variation selectors of Mongolian
        *range(0xFE00, 0xFE10),  # variation selectors
        *range(0xE0100, 0xE01F0),  # more of them
    }
)


def visible(text: str) -> str:
    """Return a text for a line, with everything unseen written as an escape of Python: ``\\x1b``, ``\\u202e``."""
    return text if text.isascii() and text.isprintable() else text.translate(_IN_LINE)


def visible_lines(text: str) -> str:
    """Return the same of a text that may have several lines, and tabs."""
    return text if text.isascii() and text.isprintable() else text.translate(_IN_LINES)


def visible_json(text: str) -> str:
    """Return a JSON text with everything unseen written as an escape of JSON: it means the same.

    The text may have line ends between its values; all else that is unseen can only stand inside of strings.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_IN_JSON)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write an exception to standard error, as ``sys.excepthook`` does, of which it takes the place."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(visible_lines(text), end="", file=sys.stderr, flush=True)


class _Escapes(dict[int, str | int]):
    """A table for ``str.translate`` that is filled as characters are met; it cannot outgrow Unicode."""

    def __init__(self, escape: Callable[[str], str], kept: str = "") -> None:
        super().__init__({ord(character): character for character in kept})
        self._escape = escape

    def __missing__(self, code: int) -> str | int:
        character = chr(code)
        is_unseen = unicodedata.category(character) in _CATEGORIES or code in _IGNORABLE
        self[code] = self._escape(character) if is_unseen else code
        return self[code]


def _of_python(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _of_json(character: str) -> str:
    return json.dumps(character)[1:-1]


_IN_LINE: Final = _Escapes(_of_python)
_IN_LINES: Final = _Escapes(_of_python, "\n\t")
_IN_JSON: Final = _Escapes(_of_json, "\n")
