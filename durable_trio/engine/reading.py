"""Turns stored rows into the records that users see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_trio.clock import to_datetime
from durable_trio.codec import UNANNOTATED, Codec, parse
from durable_trio.errors import CodecError, CompensationFailed, StepFailed
from durable_trio.failures import CannotRebuild, Failures, describe
from durable_trio.looks import class_name, members_of, said
from durable_trio.records import (
    FailureRecord,
    HistoryRow,
    MailboxEntry,
    Problem,
    RunRecord,
    RunRow,
    StepRecord,
    UnreadRecord,
    WaitRecord,
    WaitRow,
)
from durable_trio.rules.compensation import compensated_step
from durable_trio.workflows import Workflow


def run_record(
    row: RunRow,
    *,
    codec: Codec,
    workflow: Workflow[..., Any] | None,
    failures: Failures,
    values: Mapping[str, str],
) -> RunRecord:
    """Return a run as users see it: converted where its workflow is known and fits, else plain JSON."""
    result: Any = None
    if row.result is not None:
        annotation = UNANNOTATED if workflow is None else workflow.result_type
        result = _lenient(codec, row.result, annotation)
    return RunRecord(
        id=row.id,
        workflow=row.workflow,
        status=row.status,
        args=_arguments(codec, row, workflow),
        result=result,
        error=None if row.error is None else rebuilt_error(row.error, failures),
        problem=None if row.problem is None else codec.decode(row.problem, Problem, where="a problem"),
        queue=row.queue,
        priority=row.priority,
        tags=codec.decode(row.tags, dict[str, str], where="tags"),
        parent_id=row.parent_id,
        created_at=to_datetime(row.created_at),
        started_at=None if row.started_at is None else to_datetime(row.started_at),
        finished_at=None if row.finished_at is None else to_datetime(row.finished_at),
        wake_at=None if row.wake_at is None else to_datetime(row.wake_at),
        ttl_at=None if row.ttl_at is None else to_datetime(row.ttl_at),
        recoveries=row.recoveries,
        generation=row.generation,
        compensation_errors=tuple(
            describe(codec.own.encode(item, UNANNOTATED, where="a failure").text)
            for item in parse(row.compensation_errors, where="compensation errors")
        ),
        values={key: _lenient(codec, text, UNANNOTATED) for key, text in values.items()},
        owner=row.owner,
    )


def step_record(row: HistoryRow, codec: Codec) -> StepRecord:
    """Return a history row as users see it."""
    return StepRecord(
        key=str(row.key),
        kind=row.kind,
        status=row.status,
        attempt=row.attempt,
        result=None if row.result is None else parse(row.result, where=str(row.key)),
        error=None if row.error is None else describe(row.error),
        # The wall clock may have been set back meanwhile.
        started_at=to_datetime(min(row.started_at, row.finished_at)),
        finished_at=to_datetime(row.finished_at),
    )


def wait_record(row: WaitRow) -> WaitRecord:
    """Return what an open durable call has stored as users see it."""
    return WaitRecord(
        key=str(row.key),
        kind=row.kind,
        due_at=None if row.due_at is None else to_datetime(row.due_at),
        attempt=row.attempt,
        error=None if row.error is None else describe(row.error),
        started_at=to_datetime(row.started_at),
    )


def unread_record(entry: MailboxEntry) -> UnreadRecord:
    """Return a signal or a request to cancel as users see it."""
    payload = None if entry.payload is None else parse(entry.payload, where=f"{entry.kind} {entry.name!r}")
    return UnreadRecord(kind=entry.kind, name=entry.name, payload=payload, sent_at=to_datetime(entry.created_at))


def rebuilt_error(text: str, failures: Failures) -> BaseException | FailureRecord:
    """Return a stored failure as an exception where it can be rebuilt, else its record."""
    try:
        return failures.decode(text)
    except (CannotRebuild, CodecError):
        return describe(text)


def compensation_failed(row: HistoryRow, failures: Failures, run_id: str) -> CompensationFailed:
    """Return the error of a compensation that is recorded as failed."""
    error = None if row.error is None else rebuilt_error(row.error, failures)
    step = str(compensated_step(row.key))
    text = f"the compensation of step {step!r} failed: {error_text(error)}"
    return CompensationFailed(text, step=step, run_id=run_id, error=error)


def error_text(error: object) -> str:
    """Return type and message of an exception or its record, in one line for people."""
    if isinstance(error, BaseExceptionGroup) and len(members := members_of(error)) == 1:
        return f"{error_text(members[0])} (in an {class_name(type(error))})"
    if isinstance(error, FailureRecord | StepFailed) and error.type:
        return f"{error.type}: {error.message}"
    return said(error) if isinstance(error, BaseException) else f"{type(error).__name__}: {error}"


def _arguments(codec: Codec, row: RunRow, workflow: Workflow[..., Any] | None) -> tuple[Any, ...]:
    plain = parse(row.args, where="arguments")
    nothing = (None,) * len(plain)
    try:
        annotations = (UNANNOTATED,) * len(plain) if workflow is None else workflow.annotations_for(nothing)
        return codec.decode_arguments(row.args, annotations, where=f"the arguments of run {row.id!r}")
    except (CodecError, TypeError):  # the code is unknown or has changed; what is stored is still readable
        return tuple(plain)


def _lenient(codec: Codec, text: str, annotation: Any) -> Any:
    try:
        return codec.decode(text, annotation, where="a stored value")
    except CodecError:
        return parse(text, where="a stored value")
