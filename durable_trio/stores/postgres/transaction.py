"""One write transaction: what its operations share.

A batch is one transaction. What most batches consist of goes through ``facts``, ``decide`` and ``write``, whatever
their number in two round trips (``batch``). The others are statements of their own in the same transaction, by the
functions in ``operations``: each gets the ``Transaction``, and returns its outcome.

Locks are taken in one order, so that nobody waits for each other: the ledger, the executor, runs in order of ``run``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final

import attrs

from durable_trio.errors import OwnershipLost
from durable_trio.stores.contract import Fence
from durable_trio.stores.outcomes import fence_lost
from durable_trio.stores.postgres.fronts import Fronts
from durable_trio.stores.postgres.wire import Answer, Request, Wire

__all__ = ["FIND_OWNER", "NOW", "TOUCH", "Handler", "Transaction", "is_owned", "ownership_lost"]

#: The server's clock, in microseconds since 1970 UTC.
NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
#: For an UPDATE of a run that watchers are to see: ``SET {TOUCH}, …``.
TOUCH: Final = f"changed = greatest(runs.changed + 1, {NOW}), stamp = pg_current_xact_id()"

# No executor ends while a transaction goes on that has looked: who reaps one takes its row FOR UPDATE.
IS_EXECUTOR_ALIVE: Final = "SELECT 1 FROM executors WHERE id = $1::bigint AND ended_at IS NULL FOR KEY SHARE"
IS_OWNED: Final = """
    SELECT 1 FROM runs WHERE run = $1::bigint AND owner = $2::bigint AND token = $3::bigint FOR NO KEY UPDATE
"""
FIND_OWNER: Final = "SELECT id, owner, token FROM runs WHERE run = $1::bigint"


def _forget(_: list[Any]) -> None: ...


@attrs.define(eq=False)
class Transaction:
    """A transaction under way on a connection. ``instance``: of the store that has begun it.

    Args:
        opening: what begins it, which goes out with the first statements.
        decided: is given the outcomes before the commit is asked for, whose answer may be lost.
        fronts: what is remembered of lines from one to the next.
        dead: executors that are taken for dead, whatever the database knows of their numbers.
    """

    wire: Wire
    instance: int
    opening: tuple[Request, ...] = (Request("BEGIN"),)
    decided: Callable[[list[Any]], None] = _forget
    dead: AbstractSet[int] = frozenset()
    fronts: Fronts = attrs.Factory(Fronts)
    #: Executors that were declared dead in it.
    ended: list[int] = attrs.Factory(list)
    _living: set[int] = attrs.Factory(set)

    def execute(self, text: str, *values: Any) -> Answer:
        """Have a statement done: a round trip."""
        return self.wire.execute(text, *values)

    def exchange(self, *requests: tuple[str, tuple[Any, ...]]) -> list[Answer]:
        """Have statements done in one round trip."""
        return self.wire.exchange([Request(*each) for each in requests])

    def is_executor_alive(self, executor: int) -> bool:
        """Return whether an executor is registered and has not ended; it does not until this transaction has."""
        if executor in self._living:
            return True
        if executor in self.dead or not self.execute(IS_EXECUTOR_ALIVE, executor).rows:
            return False
        self._living.add(executor)
        return True

    def note_living(self, executors: Iterable[int]) -> None:
        """Note of executors that they were looked at like that, and are alive."""
        self._living.update(executors)

    def roll_back(self) -> None:
        """Undo everything; the transaction may be begun anew."""
        self.wire.roll_back()
        self.forget_since(0)

    def forget_since(self, ended: int) -> None:
        """Forget what was learned in what was undone, up to when so many executors had been declared dead."""
        del self.ended[ended:]
        self._living.clear()

    def end_executor(self, executor: int) -> None:
        """Note that an executor was declared dead in this transaction."""
        self._living.discard(executor)
        self.ended.append(executor)


Handler = Callable[[Transaction, Any], Any]


def is_owned(transaction: Transaction, fence: Fence) -> bool:
    """Return whether a fence holds, and lock the run: it holds until the transaction ends."""
    return transaction.is_executor_alive(fence.owner) and bool(
        transaction.execute(IS_OWNED, fence.run, fence.owner, fence.token).rows
    )


def ownership_lost(transaction: Transaction, fence: Fence) -> OwnershipLost:
    """Return the error for a fence that does not hold."""
    found = transaction.execute(FIND_OWNER, fence.run).rows
    return fence_lost(fence, found[0] if found else None)
