"""Claims, by looking at all that waits."""

from __future__ import annotations

from durable_trio.errors import OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.limits import SUSPECT_RECOVERIES
from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
from durable_trio.rules.fitting import Fitting
from durable_trio.rules.run_life import CLAIMABLE, LIFE, RunEvent
from durable_trio.stores.contract import ClaimDue, ClaimRun
from tests.logstore.state import Run, State, conflict, not_found

__all__ = ["claim_due", "claim_run", "due_runs"]


def due_runs(state: State, fitting: Fitting, now: int) -> list[Run]:
    """Return the runs that an executor may claim."""
    return [
        run
        for run in state.unfinished.values()
        if run.row.owner is None
        and run.row.wake_at is not None
        and run.row.wake_at <= now
        and fitting.fits(run.row.workflow, run.row.version, run.refused.keys())
    ]


def claim_due(state: State, operation: ClaimDue) -> tuple[RunRow, ...] | OwnershipLost:
    """Claim runs that are due."""
    if operation.owner not in state.executors:
        return _no_executor(operation.owner)
    fitting, limit = Fitting(operation.codes), max(0, operation.limit)
    due = sorted(due_runs(state, fitting, operation.now), key=_place)
    suspects = [run for run in due if run.row.recoveries >= SUSPECT_RECOVERIES]
    left_out = set() if operation.suspects_max is None else {id(run) for run in suspects[operation.suspects_max :]}
    fresh = [run for run in due if not run.refused and id(run) not in left_out]
    again = [run for run in due if run.refused and id(run) not in left_out]
    return tuple(_claim(state, run, operation.owner, operation.now, fitting) for run in _shared(fresh, again, limit))


def _place(run: Run) -> tuple[bool, int, int, int]:
    """What has begun goes before all first claims; then higher priority, earlier due time, order of start."""
    row = run.row
    assert row.wake_at is not None
    return row.token == 0, -row.priority, row.wake_at, row.run


def _shared(fresh: list[Run], again: list[Run], limit: int) -> list[Run]:
    """Share the places of a claim: what was refused by other code gets half, where others are due as well."""
    again_max = max(limit // 2, limit - len(fresh))
    if limit == 1 and fresh and again:  # the one that is due first
        again_max = int((again[0].row.wake_at or 0) < (fresh[0].row.wake_at or 0))
    taken = again[: max(0, again_max)]
    return taken + fresh[: limit - len(taken)]


def claim_run(state: State, operation: ClaimRun) -> RunRow | RunNotFound | RunFinished | RunConflict | OwnershipLost:
    """Claim one run by its id, due or not."""
    if operation.owner not in state.executors:
        return _no_executor(operation.owner)
    run = state.by_id.get(operation.run_id)
    if run is None:
        return not_found(operation.run_id)
    fitting = Fitting(operation.codes)
    if run.row.workflow not in fitting.workflows:
        return conflict(run, f"is of workflow {run.row.workflow!r}")
    if run.row.status not in CLAIMABLE:
        return RunFinished(f"run {run.row.id!r} is {run.row.status}", run_id=run.row.id)
    if run.row.owner is not None:
        return conflict(run, f"is held by executor {run.row.owner}")
    if operation.is_asked_for:  # a person's word: one more try, whatever was said of it
        run.row.problem = None
        run.refused.clear()
    elif run.row.problem is not None:
        return conflict(run, "is parked as damaged; only somebody's word lets it go on")
    if not fitting.fits(run.row.workflow, run.row.version, run.refused.keys()):
        return conflict(run, f"is of another version of {run.row.workflow!r}, or was refused")
    return _claim(state, run, operation.owner, operation.now, fitting)


def _claim(state: State, run: Run, owner: int, now: int, fitting: Fitting) -> RunRow:
    row = run.row
    living = state.living(row.workflow)
    run.refused = {code: said for code, said in run.refused.items() if code in living}
    event = RunEvent.CLAIM if row.error is None else RunEvent.CLAIM_UNDOING
    status = LIFE[event][row.status]
    assert status is not None
    if row.status is RunStatus.PENDING and row.started_at is None:
        row.started_at = now
    row.owner = owner
    row.token += 1
    row.wake_at = None
    row.version = fitting.version(row.workflow, row.version)
    run.waits_for = ()
    run.claimed_seq = run.last_seq
    if row.status is not status:
        row.status = status
        state.touch(run)
    return state.row(run)


def _no_executor(executor: int) -> OwnershipLost:
    return OwnershipLost(f"executor {executor} is not registered, or was declared dead; it claimed nothing")
