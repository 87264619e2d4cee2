"""A file whose runs are copied to another database: read from its beginning to its end, at one instant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from durable_trio.rules.refused import codes_in
from durable_trio.stores.copying import OF_RUN, RUN_COLUMNS, Row, RowsOfRun, SourceRun, UnfitError
from durable_trio.stores.sqlite.connection import open_connection, set_up_reader
from durable_trio.stores.sqlite.layout import NotText, decode
from durable_trio.stores.sqlite.library import sqlite3, translate

__all__ = ["FileSource"]

_PAGE: Final = 500

_SEEN: Final = "hidden_at IS NULL"
COUNT: Final = f"SELECT count(*) FROM runs WHERE {_SEEN}"
RUNS: Final = f"""
    SELECT run, parent, is_due, refused, {", ".join(RUN_COLUMNS)} FROM runs
    WHERE {_SEEN} AND run > ? ORDER BY run LIMIT ? + 0
"""
CODES: Final = "SELECT code, workflow, version, fingerprint, first_seen_at FROM codes"
_FROM: Final = {"refusals": "refusals JOIN codes USING (code)"}
ROWS: Final = {
    table: f"SELECT {', '.join(columns)} FROM {_FROM.get(table, table)} WHERE run = ? ORDER BY {order}"
    for table, (columns, order) in OF_RUN.items()
}


class FileSource:
    """Runs of a file that is sealed, or of a copy: nobody changes it.

    Raises:
        StoreError: a subclass that says why it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._connection = open_connection(path, sqlite3.Connection)
            set_up_reader(self._connection)
            self._connection.text_factory = decode
            self._connection.execute("BEGIN")
            self._codes = {code: of for code, *of in self._connection.execute(CODES).fetchall()}
        except sqlite3.Error as error:
            raise translate(error, path) from error

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()

    def count(self) -> int:
        """Return how many runs there are."""
        (count,) = self._all(COUNT)[0]
        return int(count)

    def runs(self) -> Iterator[SourceRun]:
        """Yield them (see ``CopySource``)."""
        after = -(2**63)
        while page := self._all(RUNS, after, _PAGE):
            for number, parent, is_due, refused, *values in page:
                row = dict(zip(RUN_COLUMNS, values, strict=True))
                row["waits_for"] = _names(row["waits_for"])
                codes = (self._codes.get(code) for code in sorted(codes_in(refused)))
                of = tuple((code[0], code[1], code[2], code[3]) for code in codes if code is not None)
                yield SourceRun(number, parent, bool(is_due), of, row)
            after = page[-1][0]

    def rows(self, run: SourceRun) -> RowsOfRun:
        """Yield what belongs to a run (see ``CopySource``)."""
        _check(run.values, "runs")
        if isinstance(run.values["waits_for"], str):
            raise UnfitError("it is damaged: what it waits for cannot be read")
        for table, (columns, _) in OF_RUN.items():
            try:
                for values in self._connection.execute(ROWS[table], (run.number,)):
                    row = dict(zip(columns, values, strict=True))
                    _check(row, table)
                    if "compensates" in row:
                        row["compensates"] = bool(row["compensates"])
                    yield table, row
            except sqlite3.Error as error:
                raise translate(error, self._path) from error

    def _all(self, text: str, *values: Any) -> list[Any]:
        try:
            return self._connection.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise translate(error, self._path) from error


def _names(text: Any) -> Any:
    """Return the names that a run waits for, as a tuple; what is none as it stands there."""
    if text is None:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        return text
    is_sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_sound else text


def _check(row: Row, table: str) -> None:
    for column, value in row.items():
        if type(value) is NotText:
            raise UnfitError(f"it is damaged: in table {table}, {column} is not UTF-8")
