"""Copies of runs, and runs that begin anew: histories that are not the present one of their run."""

from __future__ import annotations

import attrs

from durable_trio.errors import OwnershipLost, RunConflict, RunNotFound
from durable_trio.limits import GENERATION_ROWS_MAX
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import OWN_KEYS, GenerationRow, HistoryRow, RunRow
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import NO_POSITION, ContinueAsNew, CopyHistory, ForkRun
from tests.logstore.state import Run, State, cannot_be, conflict, not_found

__all__ = ["continue_as_new", "copy_history", "fork_run"]

_NOT_COPIED = frozenset({StepKind.COMPENSATION, StepKind.CANCEL, StepKind.TTL})


def fork_run(state: State, operation: ForkRun) -> RunRow | RunNotFound | RunConflict | ValueError:
    """Store a copy of a run with its history before one row; at once, however long that is."""
    source = state.by_id.get(operation.run_id)
    if source is None:
        return not_found(operation.run_id)
    before = source.history.get(operation.before)
    if before is None:
        return ValueError(f"run {operation.run_id!r} has no history row {str(operation.before)!r}")
    if operation.id in state.by_id:
        return conflict(state.by_id[operation.id], "is stored already; give the copy another id")
    status = LIFE[RunEvent.FORK][None]
    assert status is not None
    row = attrs.evolve(
        source.row,
        run=state.last_run + 1,
        id=operation.id,
        status=status,
        result=None,
        error=None,
        problem=None,
        parent=None,
        parent_id=None,
        created_at=operation.now,
        finished_at=None,
        wake_at=operation.now,
        ttl_at=None,
        recoveries=0,
        compensation_errors="[]",
        owner=None,
        token=0,
        changed=0,
        forked_from=source.row.id,
        forked_before=str(operation.before),
    )
    copy = Run(row, source.args_digest)
    state.add(copy)
    state.record(copy, (_copied(each) for each in source.history.values() if _is_copied(each, before.seq)))
    if operation.signals:
        _copy_signals(state, source, copy, before.seq)
    return state.row(copy)


def _is_copied(row: HistoryRow, before: int) -> bool:
    return row.seq < before and row.kind not in _NOT_COPIED


def _copied(row: HistoryRow) -> HistoryRow:
    """Return a row of the copy: its children stay those of the original, and nothing of it is undone."""
    attempt = 0 if row.kind is StepKind.CHILD else row.attempt
    return attrs.evolve(row, attempt=attempt, compensates=False)


def _copy_signals(state: State, source: Run, copy: Run, before: int) -> None:
    """Copy what the copy has not taken; and of the rest what has an id, so that the same again is known."""
    for letter in source.mail.values():
        entry, seq = letter.entry, letter.seq
        is_taken = seq is not None and seq < before
        if entry.kind == "signal" and (not is_taken or letter.signal_id is not None):
            new = state.post(copy, entry.kind, entry.name, entry.payload, entry.created_at, letter.signal_id)
            copy.mail[new.id].seq = seq if is_taken else None


def copy_history(state: State, operation: CopyHistory) -> RunConflict:
    """Refuse: no copy is made piece by piece."""
    return RunConflict(f"run {operation.run_id!r} is not being copied", run_id=operation.run_id)


def continue_as_new(state: State, operation: ContinueAsNew) -> bool | OwnershipLost | RunConflict:
    """Let a run begin anew with other arguments, and keep its last histories."""
    run = state.owned(operation.fence)
    if run is None:
        return state.ownership_lost(operation.fence)
    row = run.row
    status = LIFE[RunEvent.CONTINUE_AS_NEW].get(row.status)
    if status is None:
        return cannot_be(run, RunStatus.PENDING)
    if operation.generations_kept != 0:
        _keep(run, operation.now)
    row.generation += 1
    _drop_generations(run, operation.generations_kept)
    row.status, row.args, row.wake_at, row.recoveries, row.keys = status, operation.args, operation.now, 0, OWN_KEYS
    row.owner = row.started_at = row.error = None
    if operation.version is not None:
        row.version = operation.version
    run.history.clear()
    run.waits.clear()
    run.refused.clear()
    run.waits_for = ()
    run.claimed_seq = -1
    # Sequence numbers begin anew: of what was taken only what has an id is kept, to know it again.
    run.mail = {n: letter for n, letter in run.mail.items() if letter.is_unread or letter.signal_id is not None}
    for letter in run.mail.values():
        letter.seq = None if letter.is_unread else -1
    run.values = {key: (text, (NO_POSITION[0], position[1])) for key, (text, position) in run.values.items()}
    state.touch(run)
    return True


def _keep(run: Run, now: int) -> None:
    rows = tuple(run.history.values())
    kept = rows[-GENERATION_ROWS_MAX:]
    generation = GenerationRow(
        generation=run.row.generation,
        started_at=run.row.started_at,
        finished_at=now,
        left_out=len(rows) - len(kept),
        version=run.row.version,
        args=run.row.args,
    )
    run.generations[run.row.generation] = (generation, tuple(sorted(kept, key=lambda row: row.seq)))


def _drop_generations(run: Run, kept: int | None) -> None:
    """Forget the oldest that are not to be kept any more; one comes each time, so with two at most they get fewer."""
    for number in sorted(run.generations)[: 0 if kept is None else 2]:
        if number < run.row.generation - (kept or 0):
            del run.generations[number]
