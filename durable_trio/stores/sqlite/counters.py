"""The numbers that a file counts with, looked at when it is opened: all that is stored later depends on them.

Elsewhere damage is the problem of one run. A number from which no further one can be made is that of the whole file.
"""

from __future__ import annotations

from typing import Any, Final

from durable_trio.clock import INSTANT_MAX
from durable_trio.errors import StoreCorrupt
from durable_trio.stores.sqlite.layout import COUNT_MAX
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.operations.removals import IS_HIDDEN

__all__ = ["check_counters"]

# Tables whose rows are numbered one by one.
_NUMBERED: Final = ("runs", "mailbox", "executors", "codes")
_NUMBERED_BYTES: Final = frozenset(table.encode() for table in _NUMBERED)
NEWEST: Final = "SELECT max(rowid) FROM {table}"
SEQUENCES: Final = "SELECT name, seq FROM sqlite_sequence"
COUNTER: Final = "SELECT id, changed FROM change_counter"
# Runs whose last change comes after all others, so that watchers would wait beyond it, or before the first one.
# Two seeks; with OR it would be a walk through all runs, at each opening. NULL stands before all numbers in the index,
# and is found with them; asked for by IS NULL, SQLite would take the word of the table that there is none.
STRAYED: Final = f"""
    SELECT run FROM runs INDEXED BY runs_changed WHERE changed < 0
    UNION ALL SELECT run FROM runs INDEXED BY runs_changed WHERE changed > {COUNT_MAX}
"""
IDENTITY: Final = "SELECT 1 FROM store_identity"
IDENTIFY: Final = "INSERT INTO store_identity (id, nonce) VALUES (1, lower(hex(randomblob(16))))"
LAST_CHANGE: Final = f"SELECT max(changed) FROM runs WHERE changed <= {COUNT_MAX}"
# Runs that nobody has hidden, or since no time that can be: nobody would ever see them, or find them to remove them.
LOST: Final = f"""
    SELECT run FROM runs INDEXED BY runs_hidden
    WHERE hidden_at IS NOT NULL
        AND (typeof(hidden_at) <> 'integer' OR abs(hidden_at / 2) > {INSTANT_MAX} OR NOT ({IS_HIDDEN}))
"""
SHOW: Final = "UPDATE runs SET hidden_at = NULL WHERE run = ?"
CATCH_UP: Final = "UPDATE change_counter SET changed = ?"
CHANGE: Final = "UPDATE runs SET changed = ? WHERE run = ?"


def check_counters(connection: sqlite3.Connection, path: str) -> None:
    """Look at the counters of a file, in the write turn.

    A change number of a run that makes no sense is replaced by a new one, and a counter that is behind is set forward:
    both only tell watchers what is new. A run that nobody has hidden is shown again. A store that has lost the row
    by which it is known gets a new one.

    Raises:
        StoreCorrupt: a counter holds what nobody can go on from.
    """
    connection.text_factory = bytes  # what is no number may be no text either
    try:
        _check_counters(connection, path)
    finally:
        connection.text_factory = str


def _check_counters(connection: sqlite3.Connection, path: str) -> None:
    for table in _NUMBERED:
        _check(path, f"{table}.rowid", max(0, connection.execute(NEWEST.format(table=table)).fetchone()[0] or 0))
    for name, seq in connection.execute(SEQUENCES).fetchall():
        if name in _NUMBERED_BYTES:
            _check(path, f"sqlite_sequence.seq of {name.decode()}", seq)
    rows = connection.execute(COUNTER).fetchall()
    if len(rows) != 1:
        raise _damaged(path, f"change_counter has {len(rows)} rows instead of one")
    counted = rows[0][1]
    _check(path, "change_counter.changed", counted)
    lost = connection.execute(LOST).fetchall()
    last = connection.execute(LAST_CHANGE).fetchone()[0] or 0
    strayed = [run for (run,) in connection.execute(STRAYED).fetchall()]
    is_anonymous = connection.execute(IDENTITY).fetchone() is None
    if is_anonymous:
        _mend(connection, [(IDENTIFY, ())])
    if last > counted or strayed or lost:
        statements: list[tuple[str, tuple[int, ...]]] = [(CATCH_UP, (max(last, counted) + 1,))]
        statements += ((CHANGE, (max(last, counted) + 1, run)) for run in strayed)
        statements += ((SHOW, row) for row in lost)
        _mend(connection, statements)


def _mend(connection: sqlite3.Connection, statements: list[tuple[str, tuple[int, ...]]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for sql, parameters in statements:
            try:
                connection.execute(sql, parameters)
            except sqlite3.IntegrityError:  # other columns are damaged, too: whoever claims it parks it
                continue
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check(path: str, what: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise _damaged(path, f"{what} holds {str(value)[:60]!r}, from which nothing can be counted on")


def _damaged(path: str, what: str) -> StoreCorrupt:
    return StoreCorrupt(f"{path!r} is damaged, or was changed by another program: {what}; restore a copy of the file")
