"""What ends a command early, other than the engine's own errors."""

from __future__ import annotations

__all__ = ["Failed", "Interrupted", "ReaderGone"]


class Failed(Exception):
    """It could not be done. The text is one line: what, to which thing, and what to do about it."""


class Interrupted(Exception):
    """Ctrl-C. The text, if there is one, says what was done before it."""


class ReaderGone(Exception):
    """Nobody reads standard output any more (``| head``)."""
