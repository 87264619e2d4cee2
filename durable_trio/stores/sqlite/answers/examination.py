"""Whether a database is whole, and which runs in it do not go on as they should.

It has a connection of its own, such as ``Store.connect`` gives: it takes its time, waits for whoever writes, and reads
names that are no text as well.
"""

from __future__ import annotations

import os
from typing import Final

from durable_trio.errors import DurableError, StoreCorrupt
from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.examination_questions import Examination, Examine
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.parked import IS_PARKED, IS_UNGROUPED
from durable_trio.stores.sqlite.writable import why_not_writable
from durable_trio.stores.statuses import is_none_of, is_one_of

__all__ = ["examine"]

_INTEGRITY: Final = "PRAGMA integrity_check(5)"
_REFERENCES: Final = "PRAGMA foreign_key_check"
_OWNED: Final = "SELECT owner, count(*) FROM runs WHERE owner IS NOT NULL GROUP BY owner ORDER BY owner"
_OVERDUE: Final = f"""
    SELECT workflow, version, count(*) FROM runs WHERE owner IS NULL AND wake_at <= ? AND NOT ({IS_PARKED})
    GROUP BY workflow, version ORDER BY workflow, version
"""
_NOT_UNDONE: Final = """
    SELECT id FROM runs WHERE compensation_errors <> '[]' ORDER BY coalesce(finished_at, created_at) DESC
"""
_SET_ASIDE: Final = f"""
    SELECT id FROM runs WHERE {is_one_of([RunStatus.FAILED])} AND instr(error, :text) AND CASE
        WHEN json_valid(error) THEN json_extract(error, '$.type') = '{DurableError.__module__}.{DurableError.__name__}'
            AND instr(json_extract(error, '$.message'), :text)
        ELSE 0 END
    ORDER BY finished_at DESC
"""
_EXPIRED: Final = f"SELECT id FROM runs WHERE ttl_at <= ? AND {is_none_of(FINAL)} ORDER BY ttl_at"
_UNGROUPED: Final = f"SELECT id FROM runs WHERE finished_at IS NULL AND {IS_UNGROUPED} ORDER BY run"


def examine(connection: sqlite3.Connection, question: Examine, path: str) -> Examination:
    """Return what is found, and close the connection.

    Args:
        path: of the file; empty if there is none.

    Raises:
        StoreCorrupt: the database cannot be read to its end.
    """
    connection.text_factory = _text  # one name that is not UTF-8 must not keep it from the rest
    due = (question.due_before,)
    try:
        answers = [str(row[0]) for row in connection.execute(_INTEGRITY).fetchall()]
        return Examination(
            damage=() if answers == ["ok"] else tuple(answers),
            dangling_count=len(connection.execute(_REFERENCES).fetchall()),
            owned_counts=dict(connection.execute(_OWNED).fetchall()),
            overdue_counts={(name, version): count for name, version, count in connection.execute(_OVERDUE, due)},
            not_undone=tuple(str(row[0]) for row in connection.execute(_NOT_UNDONE)),
            set_aside=tuple(str(row[0]) for row in connection.execute(_SET_ASIDE, {"text": question.set_aside})),
            ungrouped=tuple(str(row[0]) for row in connection.execute(_UNGROUPED)),
            expired=tuple(str(row[0]) for row in connection.execute(_EXPIRED, due)),
            why_not_writable=why_not_writable(connection, os.path.abspath(path)) if path else None,
        )
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"the database cannot be read to its end ({error})") from error
    finally:
        connection.close()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
