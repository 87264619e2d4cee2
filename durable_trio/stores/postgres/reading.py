"""A database that is only read: without a lock, without a place among those who write, and from a standby as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from durable_trio.errors import StoreError
from durable_trio.stores.postgres.answers.table import ANSWERS, Asking
from durable_trio.stores.postgres.faults import translating
from durable_trio.stores.postgres.link import Link
from durable_trio.stores.postgres.locks import FIND_LOCK_CLASS
from durable_trio.stores.postgres.schema import must_be_there
from durable_trio.stores.postgres.tables import SCHEMA_VERSION
from durable_trio.stores.postgres.url import PEOPLE, parse_url
from durable_trio.stores.postgres.wire import Wire
from durable_trio.stores.questions import Question
from durable_trio.stores.read_only import ReadOnlyStore

__all__ = ["PostgresReader", "reading"]

T = TypeVar("T")


@contextmanager
def reading(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection within one transaction that sees one instant and cannot write, for those who judge a store.

    Names without a schema are those of the store, then those of the user.
    """
    place = parse_url(url)
    with closing(place.connect_for_user()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute(sql.SQL("SET LOCAL search_path = {}, public").format(sql.Identifier(place.schema)))
        yield connection


class PostgresReader(ReadOnlyStore):
    """Answers questions about a database; it writes nothing, and nobody learns that it is there."""

    def __init__(self, url: str) -> None:
        self.address = url
        self._place = parse_url(url, session="any")
        self._link: Link | None = None

    @property
    def name(self) -> str:
        """The URL without a password."""
        return self._place.name

    def open(self) -> None:
        """Connect.

        Raises:
            StoreError: there are no tables, or those of another version; or it cannot be reached.
        """
        if self._link is not None:
            return
        link = Link(self._connect)
        try:
            with translating(self._place.name), link.used() as wire:
                self._check(wire)
                ((self._lock_class,),) = wire.execute(FIND_LOCK_CLASS).rows
        except BaseException:
            link.close()
            raise
        self._link = link

    def _check(self, wire: Wire) -> None:
        place = self._place
        version = must_be_there(wire, place.schema, place.name)
        if version < SCHEMA_VERSION:
            raise StoreError(
                f"{place.name} has schema version {version} of {SCHEMA_VERSION}, and is only read here: "
                "`durable-trio migrate` brings it up to date"
            )

    def _connect(self) -> Wire:
        wire = self._place.connect(settings=PEOPLE)
        wire.execute("SET default_transaction_read_only = on")
        return wire

    def close(self) -> None:
        """Disconnect."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def ask(self, question: Question[T]) -> T:
        """Answer a question (see ``Store.ask``)."""
        function, link = ANSWERS.get(type(question)), self._link
        if function is None:
            raise TypeError(f"{type(question).__name__} is no question of a store")
        if link is None:
            raise StoreError(f"the store {self._place.name} is not open; call open() first")
        with translating(self._place.name), link.used() as wire:
            answer: T = function(Asking(wire, self._lock_class), question)
        return answer

    def connect(self) -> psycopg.Connection[Any]:
        """Return a new connection, which cannot write either."""
        connection = self._place.connect_for_user()
        connection.read_only = True
        return connection
