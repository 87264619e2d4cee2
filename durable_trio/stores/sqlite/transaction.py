"""One write transaction: what its operations share, and how a batch of them becomes one commit.

A batch cannot fail for one of its operations, and savepoints would double the cost of each. So an operation's first
statement is its own precondition (the fence stands in its WHERE): if it is refused there, nothing has been written and
the refusal is simply its outcome. If it is refused later, which only faulty callers and damaged data bring about, the
whole transaction is rolled back and done again with a savepoint around every operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from durable_trio.errors import OwnershipLost, StoreCorrupt
from durable_trio.stores.contract import Fence, Operation
from durable_trio.stores.outcomes import RefusalError, fence_lost, left_out
from durable_trio.stores.sqlite.executor_locks import ExecutorLocks
from durable_trio.stores.sqlite.library import sqlite3

__all__ = [
    "BEGIN",
    "COMMIT",
    "IS_OWNED",
    "OPERATION_ERRORS",
    "Handler",
    "Transaction",
    "is_owned",
    "outcome_of",
    "ownership_lost",
]

BEGIN: Final = "BEGIN IMMEDIATE"
COMMIT: Final = "COMMIT"
TAKE_CHANGE: Final = "UPDATE change_counter SET changed = changed + 1 RETURNING changed"
IS_EXECUTOR_ALIVE: Final = "SELECT 1 FROM executors WHERE id = ? AND ended_at IS NULL"
IS_OWNED: Final = "SELECT 1 FROM runs WHERE run = ? AND owner = ? AND token = ?"
FIND_OWNER: Final = "SELECT id, owner, token FROM runs WHERE run = ?"


# What a single operation can bring about by what it contains: a constraint, a value too big, or one that is no text.
OPERATION_ERRORS: Final = (
    RefusalError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)


@attrs.define(eq=False)
class Transaction:
    """What the operations of one transaction share: the cursor, the change number, and locks taken on the way.

    All rows that a query finds must be fetched before the next statement: there is one cursor.

    Args:
        execute: the cursor's.
        begun: called by ``begin``.
    """

    cursor: sqlite3.Cursor
    execute: Callable[..., sqlite3.Cursor]
    locks: ExecutorLocks
    _begun: Callable[[Transaction], None] | None = None
    registered: list[int] = attrs.Factory(list)  # executors whose lock was taken; released if this is rolled back
    ended: list[int] = attrs.Factory(list)  # executors declared dead; their locks are released once this is committed
    removing: tuple[str, tuple[int, int]] = ("", (0, 0))  # the run that was removed last, and its place
    change_taken: int = 0  # 0: none
    change_committed: int = 0  # by ``commit``
    renewed: tuple[int, int] | None = None  # the executor that has renewed last, and how often it has in all
    _living: set[int] = attrs.Factory(set)

    def change(self) -> int:
        """Return this transaction's change number, for a run whose change watchers should see."""
        if not self.change_taken:
            found = self.execute(TAKE_CHANGE).fetchall()
            if not found:
                raise StoreCorrupt("change_counter has lost its row: the file is damaged; restore a copy of it")
            self.change_taken = found[0][0]
        return self.change_taken

    def is_executor_alive(self, executor: int) -> bool:
        """Return whether an executor is registered and has not ended."""
        if executor in self._living:
            return True
        if self.execute(IS_EXECUTOR_ALIVE, (executor,)).fetchone() is None:
            return False
        self._living.add(executor)
        return True

    def end_executor(self, executor: int) -> None:
        """Note that an executor was declared dead in this transaction."""
        self._living.discard(executor)
        self.ended.append(executor)

    def begin(self) -> None:
        """Begin the transaction. Nobody else commits from now on; what others have done before is looked at."""
        self.change_taken = 0
        self.execute(BEGIN)
        if self._begun is not None:
            self._begun(self)

    def commit(self) -> None:
        """Commit, and let go of the locks of executors that have ended."""
        self.execute(COMMIT)
        self.change_committed = self.change_taken or self.change_committed
        for executor in self.ended:
            self.locks.release(executor)
        # Another one may begin: what that rolls back is not this.
        self.registered.clear()
        self.ended.clear()

    def roll_back(self) -> None:
        """Undo everything. SQLite has done so itself after some errors, such as a full disk."""
        for executor in self.registered:
            self.locks.release(executor)
        self.registered.clear()
        self.ended.clear()
        self.change_taken = 0
        self.renewed = None
        self._living.clear()
        if self.is_there:
            self.execute("ROLLBACK")

    @property
    def is_there(self) -> bool:
        """Whether it goes on after an error: a trigger of somebody else's may have rolled it back."""
        return self.cursor.connection.in_transaction

    def attempt(self, handler: Handler, operation: Operation) -> Any:
        """Apply an operation within a savepoint; if it is refused it leaves nothing behind but its outcome."""
        registered = len(self.registered)
        ended = len(self.ended)
        change = self.change_taken
        self.execute("SAVEPOINT operation")
        try:
            outcome = handler(self, operation)
        except OPERATION_ERRORS as error:
            if not self.is_there:
                raise
            self.execute("ROLLBACK TO operation")
            for executor in self.registered[registered:]:
                self.locks.release(executor)
            del self.registered[registered:]
            del self.ended[ended:]
            self.change_taken = change
            self._living.clear()
            outcome = outcome_of(error)
        self.execute("RELEASE operation")
        return outcome

    def apply_anew(self, handlers: Mapping[type, Handler], batch: Sequence[Operation]) -> list[Any]:
        """Apply operations in order, each within a savepoint, after one of them was refused; do not commit."""
        self.roll_back()
        self.begin()
        return [self.attempt(handlers[type(operation)], operation) for operation in batch]


Handler = Callable[[Transaction, Any], Any]


def is_owned(transaction: Transaction, fence: Fence) -> bool:
    """Return whether a fence holds. An executor that has ended owns no runs: both happen in one transaction."""
    return transaction.execute(IS_OWNED, (fence.run, fence.owner, fence.token)).fetchone() is not None


def ownership_lost(transaction: Transaction, fence: Fence) -> OwnershipLost:
    """Return the error for a fence that does not hold."""
    found = transaction.execute(FIND_OWNER, (fence.run,)).fetchone()
    return fence_lost(fence, found)


def outcome_of(error: Exception) -> Exception:
    """Return the outcome of an operation that is refused after it may have written something."""
    if isinstance(error, RefusalError):
        return error.outcome
    hint = ""
    if isinstance(error, sqlite3.IntegrityError) and "cannot store" in str(error):  # a type: we bind none that is wrong
        hint = "; the row holds that already: the file is damaged or was changed by another program, restore a copy"
    return left_out(error, hint)
