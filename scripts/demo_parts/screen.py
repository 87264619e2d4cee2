"""What is shown, in 80 columns: lines that stay, and on a terminal one line of progress below them."""

from __future__ import annotations

import os
import sys
import time
from typing import Final, TextIO

WIDTH: Final = 80
_SPARSE_SECONDS: Final = 5.0
_STYLES: Final = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}


class Screen:
    """Writes to a terminal, or sparsely to anything else."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._is_terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colour = self._is_terminal and "NO_COLOR" not in os.environ
        self._began = time.monotonic()
        self._progress = ""
        self._is_gone = False
        self._sparse_at = self._began + _SPARSE_SECONDS

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    def line(self, text: str = "", style: str | None = None) -> None:
        """Write a line that stays."""
        self._clear()
        self._write(self.styled(text, style) + "\n" + self._progress)

    def event(self, mark: str, text: str, style: str | None = None) -> None:
        """Write a line that stays, with the time."""
        self.line(f"  {self.seconds:5.1f} s  {self.styled(mark, style)} {text}")

    def heading(self, text: str) -> None:
        """Write a heading."""
        self.line()
        self.line(text, "bold")

    def progress(self, part: float, text: str) -> None:
        """Show how far things are; anywhere but on a terminal now and then."""
        if self._is_terminal:
            filled = round(min(1.0, part) * 20)
            bar = self.styled("█" * filled, "green") + self.styled("░" * (20 - filled), "dim")
            self._clear()
            self._progress = f"  {bar} {text[: WIDTH - 24]}"
            self._write(self._progress)
        elif time.monotonic() >= self._sparse_at:
            self._sparse_at = time.monotonic() + _SPARSE_SECONDS
            self.event("·", text)

    def end_progress(self) -> None:
        """Take the line of progress away."""
        self._clear()
        self._progress = ""

    def styled(self, text: str, style: str | None) -> str:
        """Return the text in a style, where that can be shown."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and self._has_colour else text

    def _clear(self) -> None:
        if self._progress:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if self._is_gone:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:  # nobody reads any more; there is still something to bring to its end
            self._is_gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())


def report(is_good: bool, text: str, screen: Screen) -> None:
    """Write one finding."""
    screen.line(f"  {screen.styled('✓', 'green') if is_good else screen.styled('✗', 'red')} {text}")
