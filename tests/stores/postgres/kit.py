"""Ways to look into the tables, to put rows there, and to see who waits for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from durable_trio.stores.postgres.hot import apply_together
from durable_trio.stores.postgres.operations.table import HANDLERS
from durable_trio.stores.postgres.transaction import Transaction
from durable_trio.stores.postgres.url import ENGINE, parse_url
from durable_trio.stores.postgres.wire import Wire

_SECONDS_MAX = 30.0


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a connection at the schema of a URL."""
    place = parse_url(url)
    connection = place.connect_for_user(autocommit=True)
    connection.execute(f'SET search_path = "{place.schema}"')
    connection.autocommit = autocommit
    return connection


class Rows:
    """The tables of a store."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return rows."""
        return self._connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: Any) -> Any:
        """Return the only value of the only row."""
        ((value,),) = self.all(sql, *values)
        return value

    def execute(self, sql: str, *values: Any) -> None:
        """Change something."""
        self._connection.execute(sql, values)

    def add_runs(self, count: int, **columns: Any) -> None:
        """Add runs that are due, called run-0, run-1, …, and so on after those that are there."""
        given = {
            "workflow": "work",
            "status": "pending",
            "changed": 1,
            "created_at": 10,
            "wake_at": 10,
            "is_due": True,
            "version": 0,
            "seed": b"",
            "args_digest": b"",
            "args": "[]",
        } | columns
        names, places = ", ".join(given), ", ".join(["%s"] * len(given))
        self._connection.execute(
            f"INSERT INTO runs (id, {names}) SELECT 'run-' || n, {places} FROM generate_series("
            "(SELECT count(*) FROM runs), (SELECT count(*) FROM runs) + %s - 1) AS n",
            [*given.values(), count],
        )

    def wait_until_blocked(self, count: int = 1) -> None:
        """Return once so many backends wait for a lock."""
        wait_until(lambda: self.one(_BLOCKED) >= count)

    @property
    def deadlock_count(self) -> int:
        """How many deadlocks the server has ever ended."""
        return int(self.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))


_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return once something is so."""
    until = time.monotonic() + _SECONDS_MAX
    while not is_so():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.002)


class Doing:
    """Something that is done in a thread. Its result is waited for."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self._fn = fn
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Wait for what it returns."""
        self._thread.join(_SECONDS_MAX)
        assert self.is_done, "it does not end"
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._fn()
        except BaseException as error:
            self._error = error


@contextmanager
def batch_under_way(url: str, *operations: Any) -> Iterator[tuple[list[Any], Wire]]:
    """A block in which a batch of another store is done but for its commit, which is the block's to ask for.

    Gives the outcomes, and the connection.
    """
    wire = parse_url(url).connect(settings=ENGINE)
    try:
        wire.execute("BEGIN")
        transaction = Transaction(wire, 0)
        yield [_apply(transaction, operation) for operation in operations], wire
    finally:
        wire.close()


def _apply(transaction: Transaction, operation: Any) -> Any:
    handler = HANDLERS.get(type(operation))
    return apply_together(transaction, [operation])[0] if handler is None else handler(transaction, operation)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Do some things in a thread each, begun together, and return what they return."""
    barrier = threading.Barrier(len(works))

    def begun_together(work: Callable[[], Any]) -> Any:
        barrier.wait(_SECONDS_MAX)
        return work()

    doing = [Doing(lambda work=work: begun_together(work)) for work in works]  # type: ignore[misc]
    return [each.result() for each in doing]
