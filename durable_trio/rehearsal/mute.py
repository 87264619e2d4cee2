"""The port of a rehearsed run: nothing gets out. What a turn waits for is answered as if it had been written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol, cast

from durable_trio.stores.contract import Advance, Finish, Operation
from durable_trio.turns.port import Callback, Port

__all__ = ["MutePort"]


class Ends(Protocol):
    """The run whose port it is."""

    def ends(self, finish: Finish) -> None:
        """The run would end now."""


class MutePort(Port):
    """Answers what is written before all rows are delivered: a publish, that the run compensates, and its end.

    Nothing is recorded before that, for no call has begun; a row would be a fault of ours.
    """

    def advance(self, callback: Callback, **fields: Any) -> None:
        """Answer that it is done."""
        if fields.get("rows"):
            raise RuntimeError("a rehearsal was about to record something")
        self._riders = []  # answers about changed code, which are written with what comes next
        self.status = fields.get("status") or self.status
        if not self.is_cut:
            callback(True)

    def submit(self, operation: Operation, callback: Callback) -> None:
        """Take note that the run would end; nobody is answered, for it leaves."""
        if self.is_cut:
            return
        if isinstance(operation, Finish):
            cast(Ends, self.owner).ends(operation)
        else:
            what = type(operation).__name__
            raise RuntimeError(f"a rehearsal was about to write {what}")  # noqa: TRY004  # a fault of ours

    def transaction(self, fn: Callable[[Any], Advance], callback: Callback, *, seconds_max: float) -> NoReturn:
        """Refuse: no call begins in a rehearsal."""
        raise RuntimeError("a rehearsal was about to run a transaction")
