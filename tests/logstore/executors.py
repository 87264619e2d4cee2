"""Who executes runs: that they come, live, and have ended."""

from __future__ import annotations

import attrs

from durable_trio.rows import CodeRow, ExecutorRow, ReportRow
from durable_trio.rules.run_life import ACTIVE, WAITING
from durable_trio.stores.contract import PutOpenSteps, PutReport, ReapExecutor, RegisterExecutor, RenewLease, TellDeath
from durable_trio.stores.questions import OpenSteps
from tests.logstore.state import Run, State

__all__ = ["put_open_steps", "put_report", "reap_executor", "register_executor", "renew_lease", "tell_death"]


# Executors that have died of which it is kept what they were at.
_DEAD_KEPT = 8


def register_executor(state: State, operation: RegisterExecutor) -> int:
    """Store a new executor. Its lock is held before anybody can see it."""
    state.last_executor += 1
    executor = state.last_executor
    state.executors[executor] = ExecutorRow(
        id=executor,
        pid=operation.pid,
        host=operation.host,
        started_at=operation.now,
        renewals=0,
        is_locked=None,
        lease=operation.lease,
        silent=None,
        ended_at=None,
    )
    state.served[executor] = {_number_of(state, *code, operation.now) for code in operation.codes}
    return executor


def _number_of(state: State, workflow: str, version: int, fingerprint: str, now: int) -> int:
    """Return the number of a code, which it has for ever."""
    for row in state.codes.values():
        if (row.workflow, row.version, row.fingerprint) == (workflow, version, fingerprint):
            return row.code
    number = len(state.codes) + 1
    state.codes[number] = CodeRow(number, workflow, version, fingerprint, now)
    return number


def renew_lease(state: State, operation: RenewLease) -> bool:
    """Count a renewal."""
    row = state.executors.get(operation.executor)
    if row is None:
        return False
    state.executors[operation.executor] = attrs.evolve(row, renewals=row.renewals + 1)
    return True


def reap_executor(state: State, operation: ReapExecutor) -> int | None:
    """Declare an executor dead and set its runs free."""
    row = state.executors.get(operation.executor)
    if row is None:
        return None
    if operation.renewals not in (None, row.renewals):
        return None
    del state.executors[operation.executor]
    del state.served[operation.executor]
    if operation.death is None:
        state.open_steps.pop(operation.executor, None)
    else:
        dead = sorted(executor for executor in state.open_steps if executor not in state.executors)
        for forgotten in dead[:-_DEAD_KEPT]:
            del state.open_steps[forgotten]
    runs = [run for run in state.unfinished.values() if run.row.owner == operation.executor]
    for run in runs:
        _set_free(run, operation)
    if operation.death is not None:
        state.deaths[operation.executor] = attrs.evolve(operation.death, runs=len(runs))
    return len(runs)


def _set_free(run: Run, operation: ReapExecutor) -> None:
    row = run.row
    row.owner = None
    is_counted = operation.crashed or row.run in operation.crashed_runs
    if is_counted and row.status in ACTIVE:
        row.recoveries = 1 if run.last_seq > run.claimed_seq else row.recoveries + 1
    if row.status not in WAITING or any(run.unread()):
        row.wake_at = operation.now


def tell_death(state: State, operation: TellDeath) -> bool:
    """Change who is to tell of a death, and what."""
    death = state.deaths.get(operation.executor)
    if death is None or death.teller != operation.teller:
        return False
    if operation.becomes is None:
        del state.deaths[operation.executor]
    else:
        becomes = operation.becomes
        state.deaths[operation.executor] = attrs.evolve(death, teller=becomes.teller, stage=becomes.stage)
    return True


def put_report(state: State, operation: PutReport) -> None:
    """Store what a process says of itself."""
    if operation.report is None:
        state.reports.pop(operation.process, None)
    else:
        state.reports[operation.process] = ReportRow(operation.process, operation.now, operation.report, None)


def put_open_steps(state: State, operation: PutOpenSteps) -> None:
    """Store which steps an executor says that it is executing."""
    row = state.executors.get(operation.executor)
    if row is not None:
        steps = (attrs.evolve(step, executor=row.id, pid=row.pid, is_reported=True) for step in operation.steps)
        state.open_steps[row.id] = OpenSteps(tuple(steps), operation.unlisted_count)
