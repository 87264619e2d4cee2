"""What becomes of a run that cannot be read: it is parked, so that it is not claimed and failed again and again.

The server keeps types. What can be wrong is a word that this version does not know, and what does not go together.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from durable_trio.rows import RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.run_life import UNFINISHED, RunEvent
from durable_trio.stores.postgres.rows import RUN_COLUMNS, run_from
from durable_trio.stores.postgres.transaction import TOUCH, Transaction
from durable_trio.stores.statuses import word_after

__all__ = ["FORGET_REFUSALS", "park_damaged"]

FIND: Final = f"SELECT runs.status, {RUN_COLUMNS} FROM runs WHERE run = $1::bigint FOR NO KEY UPDATE"
_CLEAR_DUE: Final = f"owner = NULL, wake_at = NULL, is_due = false, waits_for = NULL, refused = '', {TOUCH}"
PARK: Final = f"""
    UPDATE runs SET {_CLEAR_DUE}, status = {word_after(RunEvent.PARK)}, finished_at = NULL, problem = $2::text
    WHERE run = $1::bigint RETURNING {RUN_COLUMNS}
"""
PARK_ENDED: Final = f"UPDATE runs SET {_CLEAR_DUE} WHERE run = $1::bigint RETURNING {RUN_COLUMNS}"
#: A run is to be tried anew by all codes: what they said of it before is of no use.
FORGET_REFUSALS: Final = "DELETE FROM refusals WHERE run = $1::bigint"
_UNFINISHED: Final = frozenset(status.value for status in UNFINISHED)


def park_damaged(transaction: Transaction, run: int, *, why: str = "") -> RunRow:
    """Park a run whose row is damaged: unowned, due at no time. Return it as it is then, with its damage.

    A run that has ended, though nobody can read how, only loses what it must not have: an owner, or a time when it is
    due.

    Args:
        why: what was refused, for when nothing else is found.
    """
    ((word, *values),) = transaction.execute(FIND, run).rows
    row = run_from(tuple(values))
    what = row.damage or why or f"in table runs, the row with run {run}: it has ended, but is due or owned"
    if row.finished_at is not None and word not in _UNFINISHED:
        park: tuple[str, tuple[Any, ...]] = (PARK_ENDED, (run,))
    else:
        problem = json.dumps(attrs.asdict(damaged(row.id, what)), ensure_ascii=False)
        park = (PARK, (run, problem))
    parked, _ = transaction.exchange(park, (FORGET_REFUSALS, (run,)))
    return attrs.evolve(run_from(parked.rows[0]), damage=what)
