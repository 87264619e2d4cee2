"""What others have tied to a run: tables of the user's in the same file may refer to it, and forbid its removal."""

from __future__ import annotations

from itertools import groupby
from typing import Final

import attrs

from durable_trio.stores.sqlite.library import is_of_the_schema, sqlite3
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["References", "find_references", "is_known_by_id", "what_keeps"]

#: Our tables whose rows go with a run, and how rows of others refer to theirs if they name no columns.
_KEYS: Final = {
    "runs": ("run",),
    "history": ("id",),
    "mailbox": ("id",),
    "waits": ("run", "branch", "name", "n"),
    "published": ("run", "key"),
    "unread_counts": ("run",),
    "earlier_generations": ("run", "generation"),
    "earlier_history": ("id",),
}
_NAMES: Final = ", ".join(f"'{name}'" for name in _KEYS)
FIND: Final = f"""
    SELECT tables.name, keys.id, lower(keys."table"), keys.on_delete IN ('NO ACTION', 'RESTRICT'), keys."from",
        keys."to", keys.seq
    FROM sqlite_schema AS tables JOIN pragma_foreign_key_list(tables.name) AS keys
    WHERE tables.type = 'table' AND lower(keys."table") IN ({_NAMES}) AND lower(tables.name) NOT IN ({_NAMES})
    ORDER BY tables.name, keys.id, keys.seq
"""


@attrs.frozen
class Reference:
    """A foreign key of a table of the user's to what goes with a run."""

    table: str
    columns: tuple[str, ...]
    #: Of ours: to what it refers.
    parent: str
    #: It keeps what it refers to.
    is_firm: bool
    #: It refers to something of the run itself that is not its number, such as its id.
    is_by_id: bool
    #: Finds a row that refers to a run, or to a row of it.
    sql: str


References = tuple[Reference, ...]


def find_references(transaction: Transaction) -> References:
    """Return the foreign keys that may be in the way of a removal. Costs some microseconds per table of the file."""
    found = transaction.execute(FIND).fetchall()
    return tuple(
        _reference(table, parent, bool(is_firm), tuple((own, to or _KEYS[parent][seq]) for *_, own, to, seq in rows))
        for (table, _, parent, is_firm), rows in groupby(found, key=lambda row: row[:4])
    )


def _reference(table: str, parent: str, is_firm: bool, pairs: tuple[tuple[str, str], ...]) -> Reference:
    # The column of the parent first: its collation is that of the comparison, as it is for the foreign key.
    terms = " AND ".join(f"{parent}.{_quoted(to)} = child.{_quoted(own)}" for own, to in pairs)
    sql = f"SELECT 1 FROM {parent} JOIN {_quoted(table)} AS child ON {terms} WHERE {parent}.run = ? LIMIT 1"
    is_by_id = parent == "runs" and any(to.lower() != "run" for _, to in pairs)
    return Reference(table, tuple(own for own, _ in pairs), parent, is_firm, is_by_id, sql)


def what_keeps(transaction: Transaction, references: References, run: int) -> str | None:
    """Return words for a row that forbids the removal of a run, if there is one."""
    for reference in references:
        if reference.is_firm and _is_there(transaction, reference, run):
            what = "it" if reference.parent == "runs" else f"its rows in {reference.parent!r}"
            columns = ", ".join(reference.columns)
            return f"a row of table {reference.table!r} refers to {what} ({columns}); remove that first"
    return None


def is_known_by_id(transaction: Transaction, references: References, run: int) -> bool:
    """Return whether a row refers to a run by its id, so that it cannot have another one before it goes."""
    return any(reference.is_by_id and _is_there(transaction, reference, run) for reference in references)


def _is_there(transaction: Transaction, reference: Reference, run: int) -> bool:
    try:
        return transaction.execute(reference.sql, (run,)).fetchone() is not None
    except sqlite3.Error as error:  # it refers to a column that is not there: the removal itself will tell
        if not is_of_the_schema(error):
            raise
        return False


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
