"""What becomes of a run whose row is damaged: it is parked, so that it is not claimed and failed again and again.

An UPDATE of a STRICT table checks the types of a whole row. So every statement that changes a run may be refused for a
column that it does not even name; whoever meets that parks the run, and goes on with the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import attrs

from durable_trio.rows import RunRow
from durable_trio.rules.damage import DAMAGED, damaged
from durable_trio.rules.run_life import UNFINISHED, RunEvent
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from, text_from
from durable_trio.stores.sqlite.layout import LAYOUTS, NO_INTEGER, Column
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.statuses import word_after

__all__ = ["FORGET_REFUSALS", "park_damaged", "update_each", "update_run"]

_LAYOUT: Final = LAYOUTS["runs"]
FIND_WHOLE: Final = f"SELECT {_LAYOUT.names} FROM runs WHERE run = ?"
FIND: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE run = ?"
CLEAR_DUE: Final = "owner = NULL, wake_at = NULL, is_due = 0, waits_for = NULL, refused = '', changed = :changed"
PARK: Final = f"UPDATE runs SET {{mended}}{CLEAR_DUE}, {{end}} WHERE run = :run"
WITH_PROBLEM: Final = f"""
    status = {word_after(RunEvent.PARK)}, finished_at = NULL, problem = :problem, fingerprint = :fingerprint
"""
FORGET_REFUSALS: Final = "DELETE FROM refusals WHERE run = ?"
# Whatever it was, it is nobody else's id.
_NEW_ID: Final = "'(damaged ' || run || ')'"
# What is text or bytes keeps its bytes, what is a number becomes one that no column can mean.
_REPLACED: Final[dict[type, str]] = {
    str: "{name} = coalesce(CAST({name} AS TEXT), '')",
    bytes: "{name} = coalesce(CAST({name} AS BLOB), x'')",
    int: f"{{name}} = {NO_INTEGER}",
}
# It refers to another row.
_EMPTIED: Final = frozenset({"parent"})
_UNFINISHED: Final = frozenset(status.value for status in UNFINISHED)
_SET_ANYHOW: Final = frozenset(
    {"owner", "wake_at", "is_due", "waits_for", "refused", "changed", "status", "finished_at"}
)


def park_damaged(transaction: Transaction, run: int, *, why: str = "") -> RunRow:
    """Park a run whose row is damaged: unowned, due at no time. Return it as it is then, with its damage.

    Values of a wrong type are replaced, because SQLite would not store the row otherwise; the problem says what they
    were. A run that has ended only loses what it must not have, an owner or a time when it is due.

    Args:
        why: what was refused, for when nothing else is found.
    """
    row = transaction.execute(FIND_WHOLE, (run,)).fetchone()
    values = {column.name: value for column, value in zip(_LAYOUT.columns, row, strict=True)}
    found = run_from(transaction.execute(FIND, (run,)).fetchone()).damage
    if not _LAYOUT.is_sound(row):
        _, found = _LAYOUT.mended(row)
    # One that has ended, though nobody can read how, must not go on.
    is_over = type(values["finished_at"]) is int and values["status"] not in _UNFINISHED
    what = found or why or _LAYOUT.place(row, "it has ended, but is due or owned")
    wrong = [
        column
        for column, value in zip(_LAYOUT.columns, row, strict=True)
        if column.name not in _SET_ANYHOW and _is_refused(column, value)
    ]
    problem = damaged(text_from(values["id"]), what)
    parameters = {
        "run": run,
        "changed": transaction.change(),
        "problem": json.dumps(attrs.asdict(problem), ensure_ascii=False),
        "fingerprint": DAMAGED,
    }
    end = "finished_at = finished_at" if is_over else WITH_PROBLEM
    if is_over:
        del parameters["problem"], parameters["fingerprint"]
    try:
        transaction.execute(PARK.format(mended=_mended(wrong), end=end), parameters)
    except sqlite3.IntegrityError:  # the text of its id is that of another run
        transaction.execute(PARK.format(mended=_mended(wrong, f"id = {_NEW_ID}, "), end=end), parameters)
    transaction.execute(FORGET_REFUSALS, (run,))
    return attrs.evolve(run_from(transaction.execute(FIND, (run,)).fetchone()), damage=what)


def _is_refused(column: Column, value: object) -> bool:
    """Return whether SQLite would not store the value."""
    if value is None:
        return not column.is_optional
    return not isinstance(value, column.type)


def _mended(wrong: Iterable[Column], new_id: str = "") -> str:
    terms = ""
    for column in wrong:
        if column.name == "id":
            terms += new_id or f"id = coalesce(CAST(id AS TEXT), {_NEW_ID}), "
        elif column.name in _EMPTIED:
            terms += f"{column.name} = NULL, "
        else:
            terms += _REPLACED[column.type].format(name=column.name) + ", "
    return terms


def update_run(transaction: Transaction, statement: str, parameters: Any, *, run: int) -> bool:
    """Execute a statement that changes one run; if its row is damaged, park it instead and return False."""
    try:
        transaction.execute(statement, parameters)
    except sqlite3.IntegrityError as error:
        park_damaged(transaction, run, why=str(error))
        return False
    return True


def update_each(transaction: Transaction, statement: str, parameters: dict[str, Any], *, which: str) -> int:
    """Execute a statement that changes many runs; those whose row is damaged are parked. Return how many changed.

    Args:
        statement: it ends with its WHERE clause.
        which: finds the runs that it changes, as ``SELECT run …``, with the same parameters.
    """
    try:
        transaction.execute(statement, parameters)
        return transaction.cursor.rowcount
    except sqlite3.IntegrityError:  # nothing of it was done
        pass
    count = 0
    for (run,) in transaction.execute(which, parameters).fetchall():
        count += update_run(transaction, f"{statement} AND run = :run", {**parameters, "run": run}, run=run)
    return count
