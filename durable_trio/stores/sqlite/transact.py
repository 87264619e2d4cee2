"""A user's function and the checkpoint that records it, in one transaction on the guarded connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durable_trio.errors import OwnershipLost, StepTimeout, StoreError
from durable_trio.stores.base import Advance, Fence
from durable_trio.stores.sqlite.guarded import GuardedConnection
from durable_trio.stores.sqlite.library import AUTH, code_of, sqlite3
from durable_trio.stores.sqlite.owners import Owners
from durable_trio.stores.sqlite.run_operations import advance
from durable_trio.stores.sqlite.transaction import Transaction, is_owned, ownership_lost

__all__ = ["run_guarded"]


def run_guarded(
    connection: GuardedConnection,
    owners: Owners,
    fence: Fence,
    fn: Callable[[Any], Advance],
    *,
    seconds_max: float,
) -> Any:
    """Commit what ``fn`` writes together with the ``Advance`` it returns, or neither (see ``Store.transact``).

    SQLite's own errors come out untranslated; call it in the write turn.
    """
    connection.allow_all()
    transaction = Transaction(connection, owners)
    try:
        transaction.begin()
        if not is_owned(transaction, fence):
            raise ownership_lost(transaction, fence)
        result = _call(connection, fn, seconds_max)
        if result.fence != fence:
            raise ValueError(f"the function returned an Advance of {result.fence}, not of {fence}")
        if not connection.in_transaction:
            raise StoreError(
                "SQLite has rolled the transaction back inside the function (OR ROLLBACK, or a full disk); "
                "nothing was committed"
            )
        outcome = transaction.attempt(advance, result)
        if isinstance(outcome, OwnershipLost):
            raise outcome
        if outcome is True:
            transaction.commit()
        else:
            transaction.roll_back()
    except BaseException:
        transaction.roll_back()
        raise
    finally:
        transaction.cursor.close()  # else an error's traceback would keep the connection open after close()
        connection.deny_all()
    return outcome


def _call(connection: GuardedConnection, fn: Callable[[Any], Advance], seconds_max: float) -> Advance:
    connection.guard(seconds_max)
    try:
        result = fn(connection)
    except Exception as error:
        if connection.is_late:
            raise _too_late(seconds_max) from error
        cause = error if isinstance(error, sqlite3.Error) else error.__cause__  # the caller may have wrapped it
        if isinstance(cause, sqlite3.Error) and code_of(cause) == AUTH:
            cause.add_note(
                "Inside a transaction step there is no commit, rollback, attach or pragma, and the tables of the "
                "engine cannot be written."
            )
        raise
    finally:
        connection.allow_all()
    if connection.is_late:
        raise _too_late(seconds_max)
    return result


def _too_late(seconds_max: float) -> StepTimeout:
    return StepTimeout(f"the transaction took longer than {seconds_max:g} s; nothing of it was committed")
