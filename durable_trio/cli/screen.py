"""What the output can show: its width and its characters. Looked up once, then passed to what draws."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

import attrs

from durable_trio.cli.output import is_unicode

__all__ = ["Screen", "find_screen"]

_WIDTH_MIN: Final = 20
_WIDTH_UNKNOWN: Final = 80
_HEIGHT_MIN: Final = 10
# What is read elsewhere than on a terminal may be longer than a screen, but is still to be read.
_HEIGHT_UNKNOWN: Final = 100


@attrs.frozen(kw_only=True)
class Screen:
    """Where to draw. ``is_cut``: longer lines are cut at ``width``; else width is only that of drawings.

    ``height``: the lines that a person sees at once, or reads.
    """

    width: int = _WIDTH_UNKNOWN
    is_cut: bool = True
    is_unicode: bool = True
    height: int = _HEIGHT_UNKNOWN

    @property
    def room(self) -> int:
        """The cells that a line may take."""
        return self.width if self.is_cut else 1_000_000


def find_screen() -> Screen:
    """Return what standard output is. Into a file or a pipe nothing is cut off, unless COLUMNS says so."""
    is_cut = sys.stdout.isatty() or "COLUMNS" in os.environ
    size = shutil.get_terminal_size((_WIDTH_UNKNOWN, _HEIGHT_UNKNOWN))
    return Screen(
        width=max(_WIDTH_MIN, size.columns),
        is_cut=is_cut,
        is_unicode=is_unicode(sys.stdout),
        height=max(_HEIGHT_MIN, size.lines) if sys.stdout.isatty() else _HEIGHT_UNKNOWN,
    )
