"""The mailboxes of a supervisor: each belongs to a place in the tree, and outlives what runs there.

The places below a nested supervisor are the same after its restart, though the supervisor and its children are new. So
what is below a place is kept by the supervisor above it, up to the root.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, TypeAlias

import trio

Mailbox: TypeAlias = tuple[trio.MemorySendChannel[Any], trio.MemoryReceiveChannel[Any]]


class Mailboxes:
    """The mailboxes of the children of one supervisor, and of the supervisors among them, by name."""

    def __init__(self) -> None:
        self._open: dict[str, Mailbox] = {}
        self._below: dict[str, Mailboxes] = {}

    def open(self, name: str, capacity: int) -> Mailbox:
        """Return the mailbox of a place: the one that is there, else a new one."""
        if name not in self._open:
            self._open[name] = trio.open_memory_channel(capacity)
        return self._open[name]

    def below(self, name: str) -> Mailboxes:
        """Return the mailboxes of the supervisor in a place."""
        return self._below.setdefault(name, Mailboxes())

    def close(self, name: str) -> None:
        """Close the mailbox of a place that is given up, and all below it."""
        for channel in self._open.pop(name, ()):
            channel.close()
        if name in self._below:
            self._below.pop(name).close_all()

    def close_all(self, *, but: Container[str] = ()) -> None:
        """Close those of all places, except some."""
        for name in [*self._open, *self._below]:
            if name not in but:
                self.close(name)
