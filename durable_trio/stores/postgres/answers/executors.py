"""Who executes, and what processes have said of themselves; and who of them is there.

An open store holds the lock of its instance for as long as its connection stands (``session``). Whether somebody does
is seen by trying it, for all at once, and for as long as the statement takes. Where the server has been started since a
lock was taken, nobody can hold it: then it cannot be told.
"""

from __future__ import annotations

from typing import Final

from durable_trio.processes import ProcessIdentity
from durable_trio.records import StepKind
from durable_trio.rows import DeathRow, DeathStage, ExecutorRow, Key, OpenStepRow, ReportRow, UntoldRow
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.locks import POSTMASTER, is_free
from durable_trio.stores.postgres.transaction import NOW
from durable_trio.stores.questions import (
    ListDeaths,
    ListExecutors,
    ListOpenSteps,
    ListReports,
    ListUntold,
    OpenSteps,
)
from durable_trio.stores.untold import untold_in

__all__ = ["list_deaths", "list_executors", "list_open_steps", "list_reports", "list_untold"]

_IS_OF_NOW: Final = f"instances.postmaster = {POSTMASTER}"
_IS_LOCKED: Final = f"CASE WHEN {_IS_OF_NOW} THEN NOT {is_free('$1', 'instances.instance')} END"
EXECUTORS: Final = f"""
    SELECT id, pid, host, started_at, renewals, {_IS_LOCKED}, lease, greatest(0, {NOW} - renewed_at), ended_at
    FROM executors LEFT JOIN instances USING (instance) WHERE {{which}} ORDER BY id
"""
LIVING: Final = EXECUTORS.format(which="ended_at IS NULL")
OWNING: Final = EXECUTORS.format(
    which="ended_at IS NULL OR EXISTS (SELECT 1 FROM runs WHERE runs.owner = executors.id)"
)
# Whether a process has a store open here, as far as can be told.
_IS_THERE: Final = f"""
    EXISTS (
        SELECT 1 FROM instances
        WHERE instances.process = {{process}} AND coalesce({_IS_LOCKED}, true)
    )
"""
DEATHS: Final = f"""
    SELECT executor, deaths.pid, deaths.host, stage, runs, untold, teller, {_IS_LOCKED},
        {_IS_THERE.format(process="substr(teller, strpos(teller, '/') + 1)")}
    FROM deaths LEFT JOIN executors ON id = executor LEFT JOIN instances USING (instance) ORDER BY executor
"""
REPORTS: Final = f"""
    SELECT process, updated_at, report, {_IS_THERE.format(process="reports.process")} FROM reports ORDER BY process
"""
# One that has ended is alive as long as its process is, like any other; where that cannot be told, it has died.
_WITH_OPEN_STEPS: Final = f"""
    SELECT executor, pid, coalesce({_IS_LOCKED}, ended_at IS NULL) AS is_alive, steps, unlisted_count
    FROM open_steps JOIN executors ON id = executor LEFT JOIN instances USING (instance)
"""
OPEN_STEPS: Final = f"""
    SELECT executor, pid, is_alive, step.*
    FROM ({_WITH_OPEN_STEPS}) AS told, json_to_recordset(steps::json) AS step (
        run bigint, token bigint, branch text, name text, n bigint, kind text, attempt bigint, started_at bigint,
        thread bigint
    )
    WHERE $2::bigint IS NULL OR run = $2::bigint
    ORDER BY started_at, executor
"""
UNLISTED: Final = f"SELECT coalesce(sum(unlisted_count), 0)::bigint FROM ({_WITH_OPEN_STEPS}) AS told WHERE is_alive"
_KINDS: Final = frozenset(StepKind)
_STAGES: Final = frozenset(DeathStage)


def list_executors(asking: Asking, question: ListExecutors) -> tuple[ExecutorRow, ...]:
    """Return executors, and which of their processes are there."""
    found = asking.only((OWNING if question.ended else LIVING, (asking.lock_class,)))[0]
    return tuple(ExecutorRow(*row) for row in found.rows)


def list_deaths(asking: Asking, question: ListDeaths) -> tuple[DeathRow, ...]:
    """Return the deaths that are to be told of, and who is there. What this version does not know is not told."""
    return tuple(
        DeathRow(
            executor=executor,
            pid=pid,
            host=host,
            stage=DeathStage(stage),
            runs=runs,
            untold=tuple(untold_in(untold)),
            teller=teller,
            is_locked=is_locked,
            is_teller_alive=is_teller_alive,
        )
        for executor, pid, host, stage, runs, untold, teller, is_locked, is_teller_alive in asking.only(
            (DEATHS, (asking.lock_class,))
        )[0].rows
        if stage in _STAGES
    )


def list_reports(asking: Asking, question: ListReports) -> tuple[ReportRow, ...]:
    """Return what processes have said of themselves."""
    found = asking.only((REPORTS, (asking.lock_class,)))[0]
    return tuple(
        ReportRow(process, updated_at, report, is_there if _is_of_process(process) else None)
        for process, updated_at, report, is_there in found.rows
    )


def _is_of_process(name: str) -> bool:
    try:
        ProcessIdentity.parse(name)
    except ValueError:
        return False
    return True


def list_open_steps(asking: Asking, question: ListOpenSteps) -> OpenSteps:
    """Return which steps executors have said that they are executing, and who of them is there."""
    steps, counts = asking.only((OPEN_STEPS, (asking.lock_class, question.run)), (UNLISTED, (asking.lock_class,)))
    rows = (
        OpenStepRow(
            run=run,
            token=token,
            key=Key(branch, name, n),
            kind=StepKind(kind),
            attempt=attempt,
            started_at=started_at,
            executor=executor,
            pid=pid,
            thread=thread,
            is_alive=is_alive,
            is_reported=True,
        )
        for executor, pid, is_alive, run, token, branch, name, n, kind, attempt, started_at, thread in steps.rows
        if kind in _KINDS
    )
    return OpenSteps(tuple(rows), counts.rows[0][0])


def list_untold(asking: Asking, question: ListUntold) -> tuple[UntoldRow, ...]:
    """Return nothing: what an executor has yet to tell it knows alone, for a commit more is too much for that."""
    return ()
