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


@attrs.frozen(kw_only=True)
class Screen:
    """Where to draw. ``is_cut``: longer lines are cut at ``width``; else width is only that of drawings."""

    width: int = _WIDTH_UNKNOWN
    is_cut: bool = True
    is_unicode: bool = True

    @property
    def room(self) -> int:
        """The cells that a line may take."""
        return self.width if self.is_cut else 1_000_000


def find_screen() -> Screen:
    """Return what standard output is. Into a file or a pipe nothing is cut off, unless COLUMNS says so."""
    is_cut = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size((_WIDTH_UNKNOWN, 24)).columns
    return Screen(width=max(_WIDTH_MIN, width), is_cut=is_cut, is_unicode=is_unicode(sys.stdout))
