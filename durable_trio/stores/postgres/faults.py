"""What the server or the network has to say, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from psycopg import pq

from durable_trio.errors import DurableError, StoreAway, StoreCorrupt, StoreError, StoreFull
from durable_trio.stores.postgres.sqlstates import (
    CLASS_OF_CONNECTION,
    CLASS_OF_RESOURCES,
    CLASSES_OF_VALUES,
    CONFLICTS,
    CORRUPT,
    DEADLOCK,
    DISK_FULL,
    GOING_DOWN,
    NO_PERMISSION,
    READ_ONLY,
    SERIALIZATION_FAILURE,
    STATEMENT_CANCELLED,
    TOO_LARGE,
    TOO_MANY_CONNECTIONS,
)

__all__ = ["ConnectionLost", "ServerError", "of_connection", "translate", "translating"]


class ConnectionLost(Exception):
    """The connection stands no more: it is not known what became of what was sent.

    ``sqlstate``: if the server has said why before it went; empty otherwise. ``is_late``: it was given up, because no
    answer had come for so long. ``is_at_work``: while a user's function had it.
    """

    def __init__(self, text: str, *, sqlstate: str = "", is_late: bool = False, is_at_work: bool = False) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.is_late = is_late
        self.is_at_work = is_at_work


class ServerError(Exception):
    """The server has refused a statement. What it says of the place is empty where it says nothing."""

    def __init__(self, sqlstate: str, text: str, *, severity: str = "ERROR", constraint: str = "", table: str = ""):
        super().__init__(f"{text} ({sqlstate})")
        self.sqlstate = sqlstate
        self.text = text
        self.severity = severity
        self.constraint = constraint
        self.table = table

    @classmethod
    def of(cls, result: pq.abc.PGresult) -> Self:
        """Return what a result says."""

        def field(which: pq.DiagnosticField) -> str:
            return (result.error_field(which) or b"").decode(errors="replace")

        return cls(
            field(pq.DiagnosticField.SQLSTATE),
            field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.get_error_message(),
            severity=field(pq.DiagnosticField.SEVERITY_NONLOCALIZED),
            constraint=field(pq.DiagnosticField.CONSTRAINT_NAME),
            table=field(pq.DiagnosticField.TABLE_NAME),
        )

    @classmethod
    def of_conflict(cls, text: str) -> Self:
        """Return what the server would say if it had noticed that two came together."""
        return cls(SERIALIZATION_FAILURE, text)

    @property
    def ends_connection(self) -> bool:
        """Whether the server has let go of the connection with it, or cannot be written to on it."""
        return self.severity in _FATAL or self.sqlstate == READ_ONLY

    @property
    def is_away(self) -> bool:
        """Whether it says that there is no server to write to."""
        return self.ends_connection or self.sqlstate[:2] == CLASS_OF_CONNECTION or self.sqlstate in GOING_DOWN

    @property
    def is_full(self) -> bool:
        """Whether the server's disk has no room."""
        return self.sqlstate == DISK_FULL

    @property
    def is_of_operation(self) -> bool:
        """Whether what an operation contains has brought it about: a constraint, or a value that cannot be stored."""
        return self.sqlstate[:2] in CLASSES_OF_VALUES or self.sqlstate == TOO_LARGE

    @property
    def may_be_tried_again(self) -> bool:
        """Whether the same transaction may succeed at once: a deadlock, a conflict of two that came together, or
        somebody has cancelled a statement.
        """
        return self.sqlstate in (*CONFLICTS, STATEMENT_CANCELLED)

    @property
    def is_deadlock(self) -> bool:
        """Whether two have waited for each other, and this one was to let go."""
        return self.sqlstate == DEADLOCK


_FATAL: Final = ("FATAL", "PANIC")
_SAID_OF_TOO_MANY: Final = ("too many clients", "too many connections", "remaining connection slots")
_SAID_OF_OWN_LIMIT: Final = ("too many connections for role", "too many connections for database")


def translate(error: ServerError | ConnectionLost, name: str) -> DurableError:
    """Return what an error means for a store that is called so in messages."""
    if isinstance(error, ConnectionLost):
        return StoreAway(f"{name} cannot be reached: {error}")
    if error.is_away:
        return StoreAway(f"{name} cannot be reached: {error}")
    if error.sqlstate == TOO_MANY_CONNECTIONS:
        return StoreAway(f"{name} has too many connections ({_limit(None)}): {error}")
    if error.is_full:
        return StoreFull(f"the disk of {name} is full: {error}")
    if error.may_be_tried_again or error.sqlstate[:2] == CLASS_OF_RESOURCES:  # again and again: others keep it from us
        return StoreAway(f"{name} cannot do it now: {error}")
    if error.sqlstate in CORRUPT:
        return StoreCorrupt(f"{name} is damaged: {error}; restore a copy of the database")
    if error.sqlstate == NO_PERMISSION:
        return StoreError(f"{name}: {error}; see `durable-trio migrate --grants ROLE`")
    return StoreError(f"{name}: {error}")


@contextmanager
def translating(name: str) -> Iterator[None]:
    """Around what talks to the server."""
    try:
        yield
    except (ConnectionLost, ServerError) as error:
        raise translate(error, name) from error


def of_connection(error: Exception, name: str, *, max_connections: str | None = None) -> DurableError:
    """Return what it means that no connection could be made. ``max_connections``: of the server, if it is known."""
    text = " ".join(str(error).split())
    if any(each in text for each in _SAID_OF_TOO_MANY):  # libpq does not pass on the number of the error
        own = "its CONNECTION LIMIT" if any(each in text for each in _SAID_OF_OWN_LIMIT) else ""
        return StoreAway(f"{name} has too many connections ({_limit(max_connections, own=own)}): {text}")
    return StoreAway(f"{name} cannot be reached: {text}")


def _limit(max_connections: str | None, *, own: str = "") -> str:
    limit = own or ("max_connections of the server" if max_connections is None else f"of {max_connections}")
    return f"{limit}; each process takes 3 to 8"
