"""What others have tied to a run: tables of the user's in the same file may refer to it, and forbid its removal."""

from __future__ import annotations

from itertools import groupby
from typing import Final

import attrs

from durable_trio.stores.sqlite.library import is_of_the_schema, sqlite3
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["Reference", "find_references", "what_keeps"]

FIND: Final = """
    SELECT tables.name, keys.id, keys."from", coalesce(keys."to", 'run')
    FROM sqlite_schema AS tables JOIN pragma_foreign_key_list(tables.name) AS keys
    WHERE tables.type = 'table' AND lower(keys."table") = 'runs' AND keys.on_delete IN ('NO ACTION', 'RESTRICT')
    ORDER BY tables.name, keys.id, keys.seq
"""


@attrs.frozen
class Reference:
    """A foreign key of a table of the user's that keeps the runs to which it refers."""

    table: str
    columns: tuple[str, ...]
    #: Finds a row that refers to a run.
    sql: str


def find_references(transaction: Transaction) -> tuple[Reference, ...]:
    """Return the foreign keys that forbid the removal of a run. Costs some microseconds per table of the file."""
    found = transaction.execute(FIND).fetchall()
    return tuple(
        _reference(table, tuple(row[2:] for row in rows))
        for (table, _), rows in groupby(found, key=lambda row: row[:2])
    )


def _reference(table: str, pairs: tuple[tuple[str, str], ...]) -> Reference:
    # The column of the parent first: its collation is that of the comparison, as it is for the foreign key.
    terms = " AND ".join(f"runs.{_quoted(parent)} = child.{_quoted(own)}" for own, parent in pairs)
    sql = f"SELECT 1 FROM runs JOIN {_quoted(table)} AS child ON {terms} WHERE runs.run = ? LIMIT 1"
    return Reference(table, tuple(own for own, _ in pairs), sql)


def what_keeps(transaction: Transaction, references: tuple[Reference, ...], run: int) -> str | None:
    """Return words for a row that forbids the removal of a run, if there is one."""
    for reference in references:
        try:
            is_kept = transaction.execute(reference.sql, (run,)).fetchone() is not None
        except sqlite3.Error as error:  # it refers to a column that is not there: the removal itself will tell
            if not is_of_the_schema(error):
                raise
            continue
        if is_kept:
            return (
                f"a row of table {reference.table!r} refers to it ({', '.join(reference.columns)}); remove that first"
            )
    return None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
