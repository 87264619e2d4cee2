"""What calls and tasks know of the bridge between asyncio and trio that they go over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

__all__ = ["Link"]


class Link(Protocol):
    """The two ways over. ``bridges`` has both kinds."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def check(self) -> None:
        """Refuse a call from anywhere but a task of the loop; see ``Bridge.check``."""

    def to_trio(self, fn: Callable[[], object]) -> None:
        """Call ``fn`` where trio is; from the loop's thread.

        Raises:
            trio.RunFinishedError: the run has ended.
        """

    def to_loop(self, fn: Callable[[], object]) -> None:
        """Call ``fn`` soon in the loop; from where trio is. Nothing if the loop is closed."""
