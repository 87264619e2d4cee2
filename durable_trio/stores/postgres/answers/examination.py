"""Which runs do not go on as they should, and whether rows are there without their run.

Whether the server's files are whole is told by its own tools (``amcheck``, checksums), which ask for more rights.
"""

from __future__ import annotations

import json
from typing import Final

from durable_trio.errors import DurableError
from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.examination_questions import Examination, Examine
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.parked import IS_PARKED
from durable_trio.stores.statuses import is_none_of, is_one_of

__all__ = ["examine"]

_OF_RUNS: Final = (
    "history",
    "waits",
    "mailbox",
    "published",
    "tags",
    "refusals",
    "earlier_generations",
    "earlier_history",
)
# Of a copy that is under way there are rows of runs that nobody sees yet.
DANGLING: Final = " UNION ALL ".join(
    f"""
    SELECT count(*) FROM {table} WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.run = {table}.run)
        AND NOT EXISTS (SELECT 1 FROM copied_runs WHERE copied_runs.run = {table}.run)
    """
    for table in _OF_RUNS
)
OWNED: Final = "SELECT owner, count(*) FROM runs WHERE owner IS NOT NULL GROUP BY owner ORDER BY owner"
OVERDUE: Final = f"""
    SELECT workflow, version, count(*) FROM runs
    WHERE owner IS NULL AND wake_at <= $1::bigint AND hidden_at IS NULL AND NOT {IS_PARKED}
    GROUP BY workflow, version ORDER BY workflow, version
"""
NOT_UNDONE: Final = """
    SELECT id FROM runs WHERE compensation_errors <> '[]' AND hidden_at IS NULL
    ORDER BY coalesce(finished_at, created_at) DESC, run DESC
"""
# Of these, few: that it is the type and the message that say so is looked at here.
FAILED: Final = f"""
    SELECT id, error FROM runs
    WHERE {is_one_of([RunStatus.FAILED])} AND position($1::text IN error) > 0 AND hidden_at IS NULL
    ORDER BY finished_at DESC, run DESC
"""
EXPIRED: Final = f"""
    SELECT id FROM runs WHERE ttl_at <= $1::bigint AND {is_none_of(FINAL)} AND hidden_at IS NULL ORDER BY ttl_at, run
"""


def examine(asking: Asking, question: Examine) -> Examination:
    """Return what there is to be said."""
    due, text = (question.due_before,), question.set_aside
    dangling, owned, overdue, not_undone, failed, expired = asking.only(
        (DANGLING, ()), (OWNED, ()), (OVERDUE, due), (NOT_UNDONE, ()), (FAILED, (text,)), (EXPIRED, due)
    )
    return Examination(
        damage=None,
        dangling_count=sum(count for (count,) in dangling.rows),
        owned_counts=dict(owned.rows),
        overdue_counts={(workflow, version): count for workflow, version, count in overdue.rows},
        not_undone=tuple(run_id for (run_id,) in not_undone.rows),
        set_aside=tuple(run_id for run_id, error in failed.rows if _is_of_ours(error, text)),
        expired=tuple(run_id for (run_id,) in expired.rows),
    )


def _is_of_ours(error: str, text: str) -> bool:
    try:
        found = json.loads(error)
        kind, message = found["type"], found["message"]
    except (ValueError, TypeError, KeyError):
        return False
    return kind == f"{DurableError.__module__}.{DurableError.__name__}" and text in str(message)
