"""What those who answer share: a connection in a transaction that reads, so that an answer is of one instant."""

from __future__ import annotations

from typing import Any

import attrs

from durable_trio.stores.postgres.wire import Answer, Request, Wire

__all__ = ["Asking"]


@attrs.frozen
class Asking:
    """A connection to ask on. ``lock_class``: of the locks by which executors are seen to be there."""

    wire: Wire
    lock_class: int

    def execute(self, text: str, *values: Any) -> Answer:
        """Ask with one statement: a round trip."""
        return self.wire.execute(text, *values)

    def exchange(self, *requests: tuple[str, tuple[Any, ...]]) -> list[Answer]:
        """Ask with several statements in one round trip."""
        return self.wire.exchange([Request(*each) for each in requests])
