"""Plain SQL on the engine's own tables, whichever kind of store they stand in. It asks the engine nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from durable_trio import sqlite3

_SCHEMA: Final = "durable_trio"


class LedgerAway(Exception):
    """The database cannot be asked now."""


class Ledger:
    """Asks one database, and only reads. Where it has to, it connects anew.

    Args:
        place: the path of a file, or a ``postgresql://`` URL.
        connect: what opens the file, instead of this.
    """

    def __init__(self, place: str | Path, connect: Callable[[], Any] | None = None) -> None:
        self.is_postgres = str(place).startswith("postgresql://")
        self._place = str(place)
        self._connect = connect or self._connect_anew
        self._connection: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows that a query has, with ``?`` for each value.

        Raises:
            LedgerAway: the server cannot be reached.
        """
        if not self.is_postgres:
            return self._execute(query, values)
        import psycopg  # only there

        text = query.replace("?", "%s")
        is_old = self._connection is not None
        try:
            return self._execute(text, values)
        except psycopg.OperationalError as error:
            self._connection = None
            if is_old:  # lost, perhaps long ago
                return self.ask(query, *values)
            raise LedgerAway(str(error)) from error

    def _execute(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = self._connect()
        return list(self._connection.execute(query, values).fetchall())

    def _connect_anew(self) -> Any:
        if not self.is_postgres:
            return sqlite3.connect(f"file:{self._place}?mode=ro", uri=True)
        import psycopg  # only there

        options = f"-c search_path={_SCHEMA} -c default_transaction_read_only=on"
        return psycopg.connect(self._place, autocommit=True, connect_timeout=2, options=options)
