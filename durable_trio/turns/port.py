"""A run's only way out: every write of a resident run passes here, with its fence.

Cutting the port is the first act of every detach: from then on nothing of this run is written by this process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import attrs

from durable_trio.doors import Owner, tell
from durable_trio.records import RunStatus
from durable_trio.rows import HistoryRow
from durable_trio.rules.run_life import RECORD
from durable_trio.stores.contract import Advance, ContinueAsNew, Fence, Finish, Operation, Release

Outcome = Any
Callback = Callable[[Outcome], None]


class Outlet(Protocol):
    """Where a run's operations go: what it needs of the store's writer."""

    def submit(self, operation: Operation, callback: Callback) -> None:
        """Queue an operation; the callback gets its outcome, an exception as a value, on the event loop."""

    def submit_transaction(
        self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float, callback: Callback
    ) -> None:
        """Queue a transaction of the user's; the callback gets its outcome, an exception as a value."""


@attrs.define(eq=False)
class Port:
    """Sends a run's operations in order of submission, counts those in flight, and can be cut."""

    _outlet: Outlet
    fence: Fence
    # What the store says the run's status is once all that was submitted is committed.
    status: RunStatus
    # Whose run it is: told of a fault in what is called back.
    owner: Owner | None = None
    is_cut: bool = False
    in_flight: int = 0
    _riders: list[HistoryRow] = attrs.Factory(list)

    @property
    def next_status(self) -> RunStatus | None:
        """The status that a new row gives the run, if it changes it: one that is suspended goes on."""
        after = RECORD[self.status]
        return None if after is self.status else after

    def recorded(self) -> None:
        """A row was committed with ``next_status``, but not by ``advance``."""
        self.status = self.next_status or self.status

    def ride(self, row: HistoryRow) -> None:
        """Have a row committed with the next ones; nobody waits for it."""
        self._riders.append(row)

    @property
    def rider_count(self) -> int:
        """How many rows wait for the next commit."""
        return len(self._riders)

    def advance(self, callback: Callback, **fields: Any) -> None:
        """Submit an ``Advance``. A row for a suspended run makes it running in the same transaction."""
        if self._riders:
            riders, self._riders = self._riders, []
            fields["rows"] = (*riders, *fields.get("rows", ()))
            callback = partial(self._carried, riders, callback)
        status = fields.get("status")
        if status is None and fields.get("rows") and (after := RECORD[self.status]) is not self.status:
            status = fields["status"] = after
        if status is not None:
            self.status = status
        if not self.is_cut:
            self.in_flight += 1
            self._outlet.submit(Advance(fence=self.fence, **fields), _in_flight((self, callback)))

    def submit(self, operation: Advance | Release | Finish | ContinueAsNew, callback: Callback) -> None:
        """Submit an operation of this run; once the port is cut nothing happens and nothing is called back."""
        if self.is_cut:
            return
        self.in_flight += 1
        self._outlet.submit(operation, _in_flight((self, callback)))

    def transaction(self, fn: Callable[[Any], Advance], callback: Callback, *, seconds_max: float) -> None:
        """Submit a transaction of the user's."""
        if self.is_cut:
            return
        if self._riders:
            self.advance(_ignore)
        self.in_flight += 1
        self._outlet.submit_transaction(self.fence, fn, seconds_max=seconds_max, callback=_in_flight((self, callback)))

    def cut(self) -> None:
        """Write nothing any more and call nothing back."""
        self.is_cut = True

    def _carried(self, riders: list[HistoryRow], callback: Callback, outcome: Outcome) -> None:
        if outcome is not True:  # nothing was written: they go with the next one
            self._riders[:0] = riders
        callback(outcome)


class _InFlight(tuple[Port, Callback]):
    """The way back of one operation; there are many, and a tuple is made without a call."""

    __slots__ = ()

    def __call__(self, outcome: Outcome) -> None:
        port, callback = self
        port.in_flight -= 1
        if not port.is_cut:
            callback(outcome)

    def failed(self, error: BaseException) -> None:
        """Taking the outcome has failed: that is the run's affair, and nobody else's of its batch."""
        tell(self[0].owner, error)


# The type checker does not see that a tuple can be called.
_in_flight: Final[Callable[[tuple[Port, Callback]], Callback]] = _InFlight  # type: ignore[assignment]


def _ignore(outcome: Outcome) -> None:
    """A refusal shows at the next write."""
