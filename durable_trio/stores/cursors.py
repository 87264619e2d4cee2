"""Points in the stream of what is committed to a store, as its users hold them.

What a point is made of only the store knows: where commits have one order, a number; where many write at once, what was
visible then. So nobody compares two of them. What was committed after a point is told once, and where it cannot be told
any more (``CursorLost``) whoever wants to know looks at everything.
"""

from __future__ import annotations

from typing import NewType

__all__ = ["Cursor", "CursorLost"]

#: A text without blanks, which can be written down and used by another process (``Store.read_cursor``).
Cursor = NewType("Cursor", str)


class CursorLost(Exception):
    """What was committed after that point cannot be told."""
