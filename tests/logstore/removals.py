"""Removing runs: each at once, with all that belongs to it."""

from __future__ import annotations

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import DeleteRun, Prune, Pruned, Sweep
from tests.logstore.messages import tell_parent
from tests.logstore.state import Run, State, conflict, not_found

__all__ = ["delete_run", "prune", "sweep"]

# Ended runs that one operation looks at; children that are spared cost a look too.
_LOOKED_AT_MAX = 200


def delete_run(state: State, operation: DeleteRun) -> bool | RunNotFound | RunConflict:
    """Remove a run that has ended, or that is damaged."""
    run = state.by_id.get(operation.run_id)
    if run is None:
        return not_found(operation.run_id)
    is_over = run.row.status in LIFE[RunEvent.REMOVE]
    if not is_over and (run.row.owner is not None or run.row.problem is None):
        return conflict(run, f"is {run.row.status}; only runs that have ended can be deleted: cancel it first")
    if not is_over:
        tell_parent(state, run, 0)  # it would wait for ever
    state.remove(run)
    return True


def prune(state: State, operation: Prune) -> Pruned:
    """Remove some runs that ended long ago, the oldest first."""
    candidates = _oldest(state, operation)
    position, count, row_count = operation.after, 0, 0
    for candidate in candidates:
        run = state.runs[candidate[1]]
        if count == operation.limit:
            return Pruned(count, 0, position)
        if not _is_spared(state, run):
            rows = 1 + len(run.history) + len(run.mail) + len(run.values) + len(state.children_of(run.row.run))
            if row_count and row_count + rows > UPKEEP_ROWS_MAX:
                return Pruned(count, 0, position)
            state.remove(run)
            row_count += rows
            count += 1
        position = candidate
    return Pruned(count, 0, position if len(candidates) == _LOOKED_AT_MAX else None)


def _oldest(state: State, operation: Prune) -> list[tuple[int, int]]:
    found = sorted(
        (run.row.finished_at, number)
        for number, run in state.runs.items()
        if run.row.finished_at is not None
        and run.row.finished_at < operation.before
        and run.row.status in operation.statuses
    )
    after = operation.after
    return [place for place in found if after is None or place > after][: _LOOKED_AT_MAX if operation.limit > 0 else 0]


def _is_spared(state: State, run: Run) -> bool:
    """Return whether the parent of a run goes on, and may still ask for its result."""
    parent = state.runs.get(run.row.parent or 0)
    return parent is not None and not parent.is_final and run.row.id in parent.children()


def sweep(state: State, operation: Sweep) -> int:
    """Nothing is left of what was removed."""
    return 0
