"""A user's function and the checkpoint that records it, in one transaction on the connection for users.

Whose error is it? What SQLite says of the file, the disk or another program is the store's, wherever it surfaces and
whatever the function makes of it: the function is called again, or the store has failed. All else that comes of the
function, also what it has done to its transaction, is its own failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from durable_trio.errors import OwnershipLost, StepFailed, StepTimeout
from durable_trio.looks import qualified_name
from durable_trio.stores.contract import Advance, Fence
from durable_trio.stores.sqlite.executor_locks import ExecutorLocks
from durable_trio.stores.sqlite.library import is_of_the_store, note_errno, sqlite3
from durable_trio.stores.sqlite.operations.progress import advance
from durable_trio.stores.sqlite.transaction import Transaction, is_owned, ownership_lost
from durable_trio.stores.sqlite.user_connection import Use, UserConnection

__all__ = ["StoreFault", "run_user_step", "stores_own"]


class StoreFault(Exception):
    """An error of SQLite that is the store's; ``committing`` if it came out of COMMIT."""

    def __init__(self, error: sqlite3.Error, *, committing: bool = False) -> None:
        note_errno(error)
        super().__init__(str(error))
        self.error = error
        self.committing = committing


def run_user_step(
    connection: UserConnection,
    locks: ExecutorLocks,
    fence: Fence,
    fn: Callable[[Any], Advance],
    *,
    seconds_max: float,
    begun: Callable[[Transaction], None],
) -> tuple[Any, Advance]:
    """Commit what ``fn`` writes together with the ``Advance`` it returns, or neither (see ``Store.transact``).

    Call it in the write turn. ``begun`` is called once the transaction has begun. Returns the outcome, too.

    Raises:
        StoreFault: nothing is wrong with the function.
        StepFailed, StepTimeout: the function has spoilt its transaction, or took too long.
    """
    connection.allow_all()
    cursor = connection.cursor()
    transaction = Transaction(cursor, cursor.execute, locks, begun)
    try:
        with stores_own():
            transaction.begin()
            if not is_owned(transaction, fence):
                raise ownership_lost(transaction, fence)
        result = _call(connection, fn, seconds_max)
        if result.fence != fence:
            raise ValueError(f"the function returned an Advance of {result.fence}, not of {fence}")
        with _after_function():
            outcome = transaction.attempt(advance, result)
        if isinstance(outcome, OwnershipLost):
            raise outcome
        if outcome is True:
            with _after_function(committing=True):
                transaction.commit()
        else:
            transaction.roll_back()
    except BaseException:
        with suppress(sqlite3.Error):  # it may have been taken away from us, or is to be closed anyhow
            transaction.roll_back()
        raise
    finally:
        with suppress(sqlite3.Error):
            transaction.cursor.close()  # else an error's traceback would keep the connection open after close()
            connection.deny_all()
    return outcome, result


def _call(connection: UserConnection, fn: Callable[[Any], Advance], seconds_max: float) -> Advance:
    use = Use(seconds_max)
    failure: Exception | None = None
    try:
        result: Advance = connection.lend(fn, use)
    except Exception as error:
        failure = error
    if use.fault is not None:
        raise StoreFault(use.fault) from failure
    if use.is_late:
        raise StepTimeout(
            f"the transaction took longer than {seconds_max:g} s; nothing of it was committed"
        ) from failure
    if failure is not None:
        raise failure
    if not _is_in_transaction(connection):
        raise StepFailed(
            "SQLite has rolled the transaction back inside the function (OR ROLLBACK, ON CONFLICT ROLLBACK or "
            "RAISE(ROLLBACK)); nothing of it was committed"
        )
    return result


def _is_in_transaction(connection: UserConnection) -> bool:
    try:
        return connection.in_transaction
    except sqlite3.Error:  # it was closed
        return False


@contextmanager
def stores_own() -> Iterator[None]:
    """Around statements of the store, before the function can have spoilt anything."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreFault(error) from error


@contextmanager
def _after_function(*, committing: bool = False) -> Iterator[None]:
    """Around statements of the store after the function: it may have left a constraint violated, or a query open."""
    try:
        yield
    except sqlite3.Error as error:
        if is_of_the_store(error):
            raise StoreFault(error, committing=committing) from error
        raise StepFailed(
            f"what the function has done cannot be committed: {error}",
            type=qualified_name(type(error)),
        ) from error
