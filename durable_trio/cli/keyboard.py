"""Keys from a terminal, one by one, under trio; and what they are called.

Ctrl-C and Ctrl-Z stay signals.
"""

from __future__ import annotations

import os
import termios
import tty
from collections import deque
from types import TracebackType
from typing import Any, Final, Self

import trio

__all__ = ["Keyboard", "split_keys"]

_ESCAPE: Final = b"\x1b"
# After a lone Escape: time in which the rest of a key's sequence would have come.
_SEQUENCE_SECONDS: Final = 0.05
_BYTES_MAX: Final = 1024

_SEQUENCES: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page_up",
    b"\x1b[6~": "page_down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\t": "tab",
}


def split_keys(data: bytes) -> tuple[list[str], bytes]:
    """Return the keys that stand in what a terminal has sent, and the beginning of one that is not all there."""
    keys: list[str] = []
    while data:
        length = _length(data)
        if length is None:
            break
        piece, data = data[:length], data[length:]
        if piece in _SEQUENCES:
            keys.append(_SEQUENCES[piece])
        elif not piece.startswith(_ESCAPE):
            keys += [character for character in piece.decode("utf-8", "ignore") if character.isprintable()]
    return keys, data


def _length(data: bytes) -> int | None:
    """Return how many bytes the first key takes; ``None`` while it is not all there."""
    first = data[0]
    if 0xC0 <= first < 0xF8:
        size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        return size if len(data) >= size else None
    if data[:1] != _ESCAPE:
        return 1
    if len(data) == 1:
        return None
    if data[1:2] == b"O":
        return 3 if len(data) >= 3 else None
    if data[1:2] != b"[":
        return 1 if data[1:2] == _ESCAPE else 2  # Alt with a key
    for index in range(2, len(data)):
        if 0x40 <= data[index] <= 0x7E:
            return index + 1
    return None


class Keyboard:
    """A terminal whose keys come at once and are not echoed, inside the block. Its mode is put back at the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before: list[Any] | None = None
        self._rest = b""
        self._keys: deque[str] = deque()

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    async def key(self) -> str:
        """Return the next key: a character, or a name such as ``up``, ``enter``, ``escape``.

        *Cancellation:* no key is lost.

        Raises:
            EOFError: the terminal has gone.
        """
        while not self._keys:
            with trio.move_on_after(_SEQUENCE_SECONDS if self._rest else float("inf")) as scope:
                await trio.lowlevel.wait_readable(self._descriptor)
            if scope.cancelled_caught:
                is_escape, self._rest = self._rest == _ESCAPE, b""
                if is_escape:
                    return "escape"
                continue
            data = os.read(self._descriptor, _BYTES_MAX)
            if not data:
                raise EOFError
            keys, self._rest = split_keys(self._rest + data)
            self._keys += keys
        return self._keys.popleft()
