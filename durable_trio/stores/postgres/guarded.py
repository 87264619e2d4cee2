"""The connection that a transaction step gets: psycopg's, but its transaction begins and ends with the step.

What goes through Python is refused here. What goes through SQL, such as a ``COMMIT`` as text, the server refuses: a row
in ``guards`` lets no commit pass while it is there (``tables``). After a ``ROLLBACK`` the row is gone, so nothing more
is done on the connection then. Who has more done in the same text, or rolls back ``AND CHAIN``, is told afterwards.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final, NoReturn, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen

from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.sqlstates import CONFLICTS

__all__ = ["GuardedConnection", "server_error"]

RV = TypeVar("RV")


# The server ends a statement that takes too long. After so many seconds more it is given up.
_GRACE_SECONDS: Final = 5.0


def server_error(error: psycopg.Error) -> ServerError:
    """Return what psycopg has made of what the server says."""
    return ServerError(error.sqlstate or "", str(error), severity=error.diag.severity_nonlocalized or "")


class GuardedConnection(psycopg.Connection[Any]):
    """A connection for one call of a user's function; afterwards it does nothing any more.

    ``fault``: an error that is the store's, whatever the function has made of it. ``conflict``: one of two transactions
    that have come together; if the transaction is broken by it, or the function fails by it, that may be called again.

    Args:
        until: when the function has to be done, by ``time.monotonic``.
    """

    def __init__(self, pgconn: Any, until: float = math.inf) -> None:
        super().__init__(pgconn)
        self._pool = None  # else it would warn that it was not closed, which is not for it to do
        self._autocommit = True  # psycopg is not to begin a transaction: there is one
        self.prepare_threshold = None  # the names that it would give are given anew by the next one
        self.fault: psycopg.Error | None = None
        self.conflict: psycopg.Error | None = None
        self._give_up_at = until + _GRACE_SECONDS
        self._is_over = False

    def end(self) -> None:
        """Let nobody use it any more."""
        self._is_over = True

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for the server, as all that is done with the connection does."""
        if self._is_over:
            raise psycopg.InterfaceError("the transaction step is over; its connection does nothing any more")
        if self.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self._refuse("to go on after the end of its transaction")
        try:
            return super().wait(self._bounded(gen), *args, **kwargs)
        except psycopg.Error as error:
            # One about a connection, on a connection that stands, is of another server that the function has spoken to;
            # and what is damaged is a table of its own.
            if self.broken or server_error(error).is_full:
                self.fault = self.fault or error
            if error.sqlstate in CONFLICTS:
                self.conflict = error
            raise

    def _bounded(self, gen: PQGen[RV]) -> PQGen[RV]:
        """Give up if the server says nothing, which looks every now and then."""
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if time.monotonic() > self._give_up_at:
                    self.fault = psycopg.OperationalError("the server has not answered in time")
                    raise self.fault
                wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result

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
