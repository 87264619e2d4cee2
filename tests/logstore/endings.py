"""Ending runs that no code ends, and letting ended or parked ones go on."""

from __future__ import annotations

import json
from collections.abc import Iterable

from durable_trio.errors import RunConflict, RunFinished, RunNotFound
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.rules.compensation import compensation_key
from durable_trio.rules.resuming import COMPENSATED, Outcome, is_compensated, rows_to_cut
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import (
    NO_POSITION,
    Abandoned,
    AbandonRun,
    CutHistory,
    RequestCancel,
    ResumeRun,
    Sent,
)
from tests.logstore.messages import request_cancel, tell_parent
from tests.logstore.state import Run, State, conflict, not_found

__all__ = ["abandon_run", "cut_history", "resume_run"]


def abandon_run(state: State, operation: AbandonRun) -> Abandoned | RunNotFound | RunFinished:
    """End a run that no code ends, whoever owns it."""
    run = state.by_id.get(operation.run_id)
    if run is None:
        return not_found(operation.run_id)
    if run.is_final:
        return RunFinished(f"run {run.row.id!r} had already ended: {run.row.status}", run_id=run.row.id)
    before, row = state.row(run), run.row
    started = run.children(attempt_min=1)  # those that it let go of (attempt 0) live on by themselves
    children = [child.row.id for child in state.children_of(row.run) if child.row.id in started and not child.is_final]
    told = [_ask(state, row.id, operation)] if row.owner is not None else []
    not_undone = _not_undone(run, operation)
    state.record(run, not_undone)
    status = LIFE[RunEvent.ABANDON][row.status]
    assert status is not None
    row.status, row.finished_at, row.error = status, operation.now, operation.error
    row.owner = row.wake_at = row.problem = row.result = None
    row.token += 1
    row.compensation_errors = _compensation_errors(run)
    run.waits_for = ()
    run.waits.clear()
    run.refused.clear()
    state.touch(run)
    tell_parent(state, run, operation.now)
    told += [_ask(state, child, operation) for child in children]
    sent = tuple(outcome for outcome in told if isinstance(outcome, Sent))
    return Abandoned(row=before, not_undone_count=len(not_undone), sent=sent)


def _ask(state: State, run_id: str, operation: AbandonRun) -> object:
    request = RequestCancel(run_id=run_id, reason=operation.reason, error=operation.error_of_child, now=operation.now)
    return request_cancel(state, request)


def _not_undone(run: Run, operation: AbandonRun) -> list[HistoryRow]:
    """Return a row for each compensation that has not run and never will, the last completed step first."""
    keys = [compensation_key(row.key) for row in reversed(run.in_order()) if row.compensates]
    return [
        HistoryRow(
            seq=max(0, run.last_seq) + number,
            key=key,
            kind=StepKind.COMPENSATION,
            status=StepStatus.FAILED,
            attempt=0,
            error=operation.not_undone,
            started_at=operation.now,
            finished_at=operation.now,
        )
        for number, key in enumerate((key for key in keys if key not in run.history), start=1)
    ]


def _compensation_errors(run: Run) -> str:
    rows = (row for row in run.in_order() if row.kind is StepKind.COMPENSATION and row.error is not None)
    return json.dumps([json.loads(row.error or "null") for row in rows], ensure_ascii=False, separators=(",", ":"))


def resume_run(state: State, operation: ResumeRun) -> RunRow | RunNotFound | RunConflict:
    """Let a parked, failed or cancelled run go on."""
    run = state.by_id.get(operation.run_id)
    if run is None:
        return not_found(operation.run_id)
    row = run.row
    if not run.is_final and run.is_held_up:
        row.problem = None
        row.wake_at = operation.now
        run.refused.clear()
        state.touch(run)
    elif row.status in LIFE[RunEvent.REVIVE]:
        if operation.cut_at not in (None, row.changed):
            return conflict(run, "was changed while it was being resumed; look at it, and try again")
        if operation.cut_at is None:
            history = [_outcome(each) for each in run.in_order()]
            if is_compensated(history):
                return conflict(run, COMPENSATED)
            _cut(run, ((outcome.key, outcome.seq) for outcome in rows_to_cut(history)))
        _revive(state, run, operation.now)
    elif operation.version in (None, row.version) or run.is_final:
        return conflict(
            run, f"is {row.status} without a problem; only parked, failed and cancelled runs can be resumed"
        )
    elif row.owner is not None:
        return conflict(run, f"is executed as version {row.version}, and keeps it; cancel it, or wait until it rests")
    if operation.version is not None:
        row.version = operation.version
        state.touch(run)
    return state.row(run)


def _revive(state: State, run: Run, now: int) -> None:
    row = run.row
    status = LIFE[RunEvent.REVIVE][row.status]
    assert status is not None
    row.status, row.recoveries, row.wake_at = status, 0, now
    row.result = row.error = row.problem = row.finished_at = None
    if row.ttl_at is not None and row.ttl_at <= now:
        row.ttl_at = None
    run.mail = {number: letter for number, letter in run.mail.items() if letter.entry.kind != "cancel"}
    run.waits_for = ()
    run.refused.clear()
    state.touch(run)


def cut_history(state: State, operation: CutHistory) -> bool | RunNotFound | RunConflict:
    """Remove rows that a run is to go on without."""
    run = state.by_id.get(operation.run_id)
    if run is None:
        return not_found(operation.run_id)
    if run.row.changed != operation.changed or run.row.status not in LIFE[RunEvent.REVIVE]:
        return conflict(run, "was changed while it was being resumed; look at it, and try again")
    _cut(run, operation.rows)
    return True


def _outcome(row: HistoryRow) -> Outcome:
    return Outcome(row.seq, row.key, row.kind, row.status, row.started_at, row.finished_at)


def _cut(run: Run, rows: Iterable[tuple[Key, int]]) -> None:
    """Remove rows: what they have taken is unread again, what was published since has no position any more."""
    cut = dict(rows)
    for key in cut:
        run.history.pop(key, None)
    seqs = set(cut.values())
    for letter in run.mail.values():
        if letter.seq in seqs and letter.entry.kind != "cancel":
            letter.seq = None
    for name, (text, position) in run.values.items():
        if seqs and position[0] >= min(seqs):
            run.values[name] = (text, (NO_POSITION[0], position[1]))
