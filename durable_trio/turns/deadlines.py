"""Durable deadlines: scopes that a recorded row cancels, never trio's clock."""

from __future__ import annotations

import trio

from durable_trio.clock import Due
from durable_trio.rows import Key


class DeadlineScope:
    """What ``ctx.move_on_after`` and ``ctx.fail_after`` give: trio's scope with a recorded expiry."""

    def __init__(self, key: Key, due_at: int, *, shield: bool) -> None:
        self.key = key
        self.due_at = due_at
        self.due: Due  # the same, in its era of the clock
        self.is_expiring = False  # its row is on the way
        self._scope = trio.CancelScope(shield=shield)

    @property
    def scope(self) -> trio.CancelScope:
        """The trio scope inside."""
        return self._scope

    @property
    def cancelled_caught(self) -> bool:
        """Whether the block was left because the scope was cancelled."""
        return self._scope.cancelled_caught

    @property
    def cancel_called(self) -> bool:
        """Whether the scope has expired or was cancelled."""
        return self._scope.cancel_called

    @property
    def shield(self) -> bool:
        """Whether cancellation from outside is kept off."""
        return self._scope.shield

    @shield.setter
    def shield(self, value: bool) -> None:
        self._scope.shield = value

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the block now."""
        self._scope.cancel(reason)
