"""Operations on reports: what the processes at this database say of themselves, for people to look at.

Which steps an executor is executing it says now and then. That is there for as long as it lives, and after its death
for whoever takes its runs over, and for people: of the last few that have died.
"""

from __future__ import annotations

import json
from typing import Final

from durable_trio.stores.contract import PutOpenSteps, PutReport
from durable_trio.stores.postgres.transaction import Transaction

__all__ = ["FORGET_OPEN_BEFORE", "forget_open_steps", "put_open_steps", "put_report"]

# Executors that have died of which it is kept what they were at: so many deaths in a row can be looked at.
_DEAD_KEPT: Final = 8


PUT: Final = """
    INSERT INTO reports (process, instance, updated_at, report) VALUES ($1::text, $2::bigint, $3::bigint, $4::text)
    ON CONFLICT (process) DO UPDATE SET instance = excluded.instance, updated_at = excluded.updated_at,
        report = excluded.report
"""
REMOVE: Final = "DELETE FROM reports WHERE process = $1::text"
PUT_OPEN: Final = """
    INSERT INTO open_steps (executor, steps, unlisted_count) VALUES ($1::bigint, $2::text, $3::bigint)
    ON CONFLICT (executor) DO UPDATE SET steps = excluded.steps, unlisted_count = excluded.unlisted_count
"""
REMOVE_OPEN: Final = "DELETE FROM open_steps WHERE executor = $1::bigint"
# Of an open store that has become another executor: what the former one was at, it is at no more.
FORGET_OPEN_BEFORE: Final = """
    DELETE FROM open_steps USING executors WHERE id = executor AND instance = $1::bigint AND id < $2::bigint
"""
# Those that another one is about to forget are left to it.
FORGET_DEAD: Final = f"""
    DELETE FROM open_steps WHERE executor IN (
        SELECT executor FROM open_steps
        WHERE NOT EXISTS (SELECT 1 FROM executors WHERE id = executor AND ended_at IS NULL)
        ORDER BY executor DESC OFFSET {_DEAD_KEPT} FOR UPDATE SKIP LOCKED
    )
"""


def put_report(transaction: Transaction, operation: PutReport) -> None:
    """Store or remove the report of a process (see ``PutReport``)."""
    if operation.report is None:
        transaction.execute(REMOVE, operation.process)
    else:
        transaction.execute(PUT, operation.process, transaction.instance, operation.now, operation.report)


def put_open_steps(transaction: Transaction, operation: PutOpenSteps) -> None:
    """Store which steps an executor is executing (see ``PutOpenSteps``)."""
    executor = operation.executor
    if not transaction.is_executor_alive(executor):
        return
    if not operation.steps:
        transaction.execute(REMOVE_OPEN, executor)
        return
    steps = [
        {
            "run": step.run,
            "token": step.token,
            "branch": step.key.branch,
            "name": step.key.name,
            "n": step.key.n,
            "kind": str(step.kind),
            "attempt": step.attempt,
            "started_at": step.started_at,
            "thread": step.thread,
        }
        for step in operation.steps
    ]
    transaction.execute(PUT_OPEN, executor, json.dumps(steps), operation.unlisted_count)


def forget_open_steps(transaction: Transaction, executor: int, *, has_died: bool) -> None:
    """Forget what an executor that has ended was executing, unless it has died; and what is told of too many dead."""
    if has_died:
        transaction.execute(FORGET_DEAD)
    else:
        transaction.execute(REMOVE_OPEN, executor)
