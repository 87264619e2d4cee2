"""What a loop must be able to do so that trio can be its guest. Knows no loop in particular."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Host", "Timer"]


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> object:
        """Have it not be made; nothing if it was."""


class Host(Protocol):
    """An event loop with trio as its guest. All but ``call_soon_threadsafe`` is called in the loop's thread only."""

    def call_soon(self, fn: Callable[[], object]) -> object:
        """Call ``fn`` in the loop's next pass, after what it has to do by then."""

    def call_later(self, seconds: float, fn: Callable[[], object]) -> Timer:
        """Call ``fn`` in so many seconds; a little early is harmless."""

    def add_reader(self, fd: int, fn: Callable[[], object]) -> object:
        """Call ``fn`` in each pass in which the descriptor can be read.

        Raises:
            NotImplementedError: this loop cannot watch descriptors.
        """

    def remove_reader(self, fd: int) -> object:
        """Watch the descriptor no more."""

    def call_soon_threadsafe(self, fn: Callable[[], object]) -> object:
        """Do as ``call_soon``, from any thread. May raise once the loop is closed."""

    def has_work(self) -> bool | None:
        """Return whether the loop has something to do just now besides the guest; ``None``: it cannot tell."""

    def outside(self, fn: Callable[[], None]) -> None:
        """Call ``fn`` such that no code in it takes itself for the loop's."""
