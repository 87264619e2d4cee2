"""A line at the bottom of the terminal that stays while everything else scrolls above it.

The terminal itself keeps the others' output off the line (a scroll region), so that it does not matter who writes what:
log records, worker processes, ``print`` of a step.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final, TextIO

from durable_trio.cli.output import harmless, is_colored, is_unicode
from durable_trio.cli.text import cut, pad

__all__ = ["StatusLine", "can_have_status_line", "fitted"]

_ROWS_MIN: Final = 5
_COLUMNS_MIN: Final = 20


def can_have_status_line(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that knows scroll regions."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


class StatusLine:
    """The line; give it texts with ``show``, and ``close`` it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._size: os.terminal_size | None = None
        self._is_closed = False

    def show(self, text: str) -> None:
        """Replace the line's text; what is too wide is cut off."""
        if self._is_closed:
            return
        size = os.get_terminal_size(self._stream.fileno())
        if size.lines < _ROWS_MIN or size.columns < _COLUMNS_MIN:
            self._reset()
            return
        if size != self._size:
            self._reserve(size)
        text = pad(harmless(text), size.columns)
        if not is_unicode(self._stream):
            text = text.replace("·", "-").replace("…", "~").replace("×", "x")
        if is_colored(self._stream):
            text = f"\x1b[7m{text}\x1b[0m"
        self._write(f"\x1b7\x1b[{size.lines};1H{text}\x1b8")

    def close(self) -> None:
        """Give the line back to the terminal; after that nothing is shown any more."""
        if not self._is_closed:
            self._is_closed = True
            with suppress(OSError):  # the terminal has gone
                self._reset()

    def _reserve(self, size: os.terminal_size) -> None:
        self._reset()
        self._size = size
        # A new line first: what stands on the last line scrolls up, and the cursor with it.
        self._write(f"\n\x1b7\x1b[1;{size.lines - 1}r\x1b8\x1b[1A")

    def _reset(self) -> None:
        if self._size is not None:
            self._write(f"\x1b7\x1b[r\x1b[{self._size.lines};1H\x1b[2K\x1b8")
            self._size = None

    def _write(self, text: str) -> None:
        """Write in one piece, so that nobody else's output comes in between."""
        self._stream.flush()
        data = text.encode(self._stream.encoding or "ascii", "replace")
        while data:
            data = data[os.write(self._stream.fileno(), data) :]


def fitted(parts: list[str], columns: int) -> str:
    """Join as many parts as fit; what comes first matters most."""
    text = ""
    for part in parts:
        longer = f"{text} · {part}" if text else f" {part}"
        if len(longer) > columns - 1:
            break
        text = longer
    return cut(text, columns)
