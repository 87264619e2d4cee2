"""The connection that a transaction step gets: psycopg's, but its transaction begins and ends with the step.

What goes through Python is refused here. What goes through SQL, such as a ``COMMIT`` as text, the server refuses: a row
in ``guards`` lets no commit pass while it is there (``tables``).
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg.abc import PQGen

from durable_trio.stores.postgres.faults import ServerError

__all__ = ["GuardedConnection"]

RV = TypeVar("RV")


class GuardedConnection(psycopg.Connection[Any]):
    """A connection for one call of a user's function; afterwards it does nothing any more.

    ``fault``: an error that is the store's, whatever the function has made of it.
    """

    def __init__(self, pgconn: Any) -> None:
        super().__init__(pgconn)
        self._pool = None  # else it would warn that it was not closed, which is not for it to do
        self._autocommit = True  # psycopg is not to begin a transaction: there is one
        self.prepare_threshold = None  # the names that it would give are given anew by the next one
        self.fault: Exception | None = None
        self._is_over = False

    def end(self) -> None:
        """Let nobody use it any more."""
        self._is_over = True

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for the server, as all that is done with the connection does."""
        if self._is_over:
            raise psycopg.InterfaceError("the transaction step is over; its connection does nothing any more")
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.Error as error:
            if self.fault is None and _is_of_store(error, is_lost=self.broken):
                self.fault = error
            raise

    def commit(self) -> NoReturn:
        """Refuse."""
        self._refuse("commit()")

    def rollback(self) -> NoReturn:
        """Refuse."""
        self._refuse("rollback()")

    def close(self) -> NoReturn:
        """Refuse."""
        self._refuse("close()")

    def set_autocommit(self, value: bool) -> NoReturn:
        """Refuse."""
        self._refuse("autocommit")

    def __exit__(self, *_: object) -> None:
        """Leave the connection open: it is not this block's."""

    def _refuse(self, what: str) -> NoReturn:
        raise psycopg.ProgrammingError(
            f"{what} is not for a transaction step, which the engine commits with its result; "
            "`with connection.transaction():` makes a savepoint"
        )

    # psycopg would begin or end transactions, or leave the order of statements open.
    def pipeline(self) -> NoReturn:
        """Refuse."""
        self._refuse("pipeline()")

    def tpc_begin(self, xid: object) -> NoReturn:
        """Refuse."""
        self._refuse("tpc_begin()")


def _is_of_store(error: psycopg.Error, *, is_lost: bool) -> bool:
    """Return whether an error is about the server, and not about what the function has asked for."""
    state = error.sqlstate or ""
    return is_lost or state[:2] in ("08", "53", "58", "XX") or ServerError(state, "").ends_connection
