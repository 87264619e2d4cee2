"""Turns stored rows into the records that users see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final, cast

import attrs

from durable_trio.clock import INSTANT_MAX, to_datetime
from durable_trio.codec import UNANNOTATED, Codec, parse
from durable_trio.errors import CodecError, CompensationFailed, StepFailed
from durable_trio.failures import CannotRebuild, Failures, describe, earlier_errors
from durable_trio.limits import COMPENSATION_ERRORS_MAX
from durable_trio.looks import class_name, members_of, said
from durable_trio.records import (
    FailureRecord,
    GenerationRecord,
    Problem,
    RunRecord,
    StepInHand,
    StepRecord,
    UnreadRecord,
    WaitRecord,
)
from durable_trio.rows import NO_VERSION, GenerationRow, HistoryRow, MailboxEntry, OpenStepRow, RunRow, WaitRow
from durable_trio.rules.compensation import compensated_step
from durable_trio.rules.damage import DAMAGED, damaged
from durable_trio.workflows import Workflow

# Characters of what is no text that people are shown, and faults of one row.
_SHOWN_MAX: Final = 60
_FAULTS_MAX: Final = 5


class Reader:
    """Reads what is stored of one row, and notes what of it cannot be read."""

    def __init__(self, damage: str | None) -> None:
        self.unreadable = [] if damage is None else [damage]

    def read(self, place: str, text: str | None, convert: Callable[[str], Any], otherwise: Any = None) -> Any:
        """Return what ``convert`` makes of a text; ``otherwise`` for none, and for one that cannot be read."""
        if text is None or (text == "" and self.unreadable):  # the row's damage tells already
            return otherwise
        try:
            if type(text) is not str:  # the store has found that it is none
                raise CodecError(f"{str(text)[:_SHOWN_MAX]!r} is no text")
            return convert(text)
        except CodecError as error:
            self.unreadable.append(f"in table {place}: {error}")
            return otherwise

    @property
    def problem(self) -> str | None:
        """What cannot be read, if anything."""
        return "; ".join(self.unreadable[:_FAULTS_MAX]) or None


def run_record(
    row: RunRow,
    *,
    codec: Codec,
    workflow: Workflow[..., Any] | None,
    failures: Failures,
    values: Mapping[str, str],
) -> RunRecord:
    """Return a run as users see it: converted where its workflow is known and fits, else plain JSON.

    What cannot be read at all is told by its problem; see ``RunRecord``.
    """
    reader = Reader(row.damage)
    place = f"runs, the row with id {row.id!r}"
    annotation = UNANNOTATED if workflow is None else workflow.result_type
    of_args = f"the arguments of run {row.id!r}"
    args = reader.read(f"{place}, args", row.args, lambda text: _arguments(codec, text, workflow, where=of_args), ())
    result = reader.read(f"{place}, result", row.result, lambda text: _lenient(codec, text, annotation))
    error = reader.read(f"{place}, error", row.error, lambda text: rebuilt_error(text, failures))
    tags = reader.read(f"{place}, tags", row.tags, lambda text: codec.decode(text, dict[str, str], where="tags"), {})
    compensation_errors = reader.read(
        f"{place}, compensation_errors", row.compensation_errors, lambda text: _compensation_errors(text, codec), ()
    )
    published = {}
    for key, stored in values.items():
        of_key = f"published, the row with run {row.run}, key {key!r}, value"
        found = reader.read(of_key, stored, lambda text: (_lenient(codec, text, UNANNOTATED),))
        if found is not None:
            published[str(key)] = found[0]
    return RunRecord(
        id=row.id,
        workflow=row.workflow,
        status=row.status,
        args=args,
        result=result,
        error=error,
        problem=_problem(row, reader, f"{place}, problem", codec),
        queue=row.queue,
        priority=row.priority,
        tags=tags,
        parent_id=row.parent_id,
        created_at=instant_of(row.created_at),
        started_at=_datetime_or_none(row.started_at),
        finished_at=_datetime_or_none(row.finished_at),
        wake_at=_datetime_or_none(row.wake_at),
        ttl_at=_datetime_or_none(row.ttl_at),
        recoveries=row.recoveries,
        generation=row.generation,
        compensation_errors=compensation_errors,
        values=published,
        owner=row.owner,
        version=version_or_none(row.version),
        forked_from=row.forked_from,
        forked_before=row.forked_before,
    )


def generation_record(
    row: GenerationRow, *, codec: Codec, workflow: Workflow[..., Any] | None, run_id: str
) -> GenerationRecord:
    """Return an earlier generation of a run as users see it."""
    reader = Reader(row.damage)
    place = f"earlier_generations, the row with generation {row.generation}, args"
    where = f"the arguments of generation {row.generation} of run {run_id!r}"
    return GenerationRecord(
        generation=row.generation,
        args=reader.read(place, row.args, lambda text: _arguments(codec, text, workflow, where=where), ()),
        started_at=_datetime_or_none(row.started_at),
        finished_at=instant_of(row.finished_at),
        left_out=row.left_out,
        version=version_or_none(row.version),
        problem=reader.problem,
    )


def version_or_none(version: int) -> int | None:
    """Return the version of a run's workflow as users see it."""
    return None if version == NO_VERSION else version


def step_record(row: HistoryRow) -> StepRecord:
    """Return a history row as users see it."""
    reader = Reader(row.damage)
    key = str(row.key)
    place = f"history, the row with key {key!r}"
    earlier = reader.read(f"{place}, earlier", row.earlier, earlier_errors, ())
    return StepRecord(
        key=key,
        kind=row.kind,
        status=row.status,
        attempt=row.attempt,
        result=reader.read(f"{place}, result", row.result, partial(parse, where=key)),
        error=reader.read(f"{place}, error", row.error, describe),
        # The wall clock may have been set back meanwhile.
        started_at=instant_of(min(row.started_at, row.finished_at)),
        finished_at=instant_of(row.finished_at),
        earlier_errors=earlier,
        problem=reader.problem,
    )


def wait_record(row: WaitRow) -> WaitRecord:
    """Return what an open durable call has stored as users see it."""
    reader = Reader(row.damage)
    place = f"waits, the row with key {str(row.key)!r}"
    earlier = reader.read(f"{place}, earlier", row.earlier, earlier_errors, ())
    return WaitRecord(
        key=str(row.key),
        kind=row.kind,
        due_at=_datetime_or_none(row.due_at),
        attempt=0 if row.kind == "map" else row.attempt,
        total=row.attempt if row.kind == "map" else None,
        error=reader.read(f"{place}, error", row.error, describe),
        started_at=instant_of(row.started_at),
        # The last attempt is told by ``error``.
        earlier_errors=tuple(each for each in earlier if each.attempt < row.attempt),
        problem=reader.problem,
    )


def step_in_hand(row: OpenStepRow, run_id: str) -> StepInHand:
    """Return a step that is executing as users see it."""
    return StepInHand(
        run_id=run_id,
        key=str(row.key),
        started_at=instant_of(max(0, row.started_at)),
        kind=row.kind,
        attempt=row.attempt,
        executor=row.executor,
        pid=row.pid,
        thread=row.thread,
        is_alive=row.is_alive,
        is_reported=row.is_reported,
    )


def unread_record(entry: MailboxEntry) -> UnreadRecord:
    """Return a signal or a request to cancel as users see it."""
    reader = Reader(entry.damage)
    place = f"mailbox, the row with id {entry.id}, payload"
    return UnreadRecord(
        kind=entry.kind,
        name=entry.name,
        payload=reader.read(place, entry.payload, partial(parse, where=f"{entry.kind} {entry.name!r}")),
        sent_at=instant_of(entry.created_at),
        problem=reader.problem,
    )


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


def _problem(row: RunRow, reader: Reader, place: str, codec: Codec) -> Problem | None:
    """Return why a run is parked, with what of it cannot be read."""
    stored = reader.read(place, row.problem, lambda text: codec.decode(text, Problem, where="a problem"))
    if reader.problem is None or (stored is not None and stored.kind == DAMAGED):
        return cast(Problem | None, stored)
    found = damaged(row.id, reader.problem)
    return found if stored is None else attrs.evolve(found, text=f"{found.text}\n{stored.text}")


def _compensation_errors(text: str, codec: Codec) -> tuple[FailureRecord, ...]:
    found = parse(text, where="compensation errors")
    if type(found) is not list:
        raise CodecError("compensation errors: a list was expected")
    first = found[:COMPENSATION_ERRORS_MAX]
    return tuple(describe(codec.own.encode(item, UNANNOTATED, where="a failure").text) for item in first)


def instant_of(instant: int) -> datetime:
    """Return an instant as a datetime, which ends with the year 9999."""
    return to_datetime(min(instant, INSTANT_MAX))


def _datetime_or_none(instant: int | None) -> datetime | None:
    return None if instant is None else instant_of(instant)


def _arguments(codec: Codec, text: str, workflow: Workflow[..., Any] | None, *, where: str) -> tuple[Any, ...]:
    plain = parse(text, where="arguments")
    if type(plain) is not list:
        raise CodecError("arguments: a list was expected")
    annotations_for = _unannotated if workflow is None else workflow.annotations_for
    try:
        return codec.decode_arguments(text, annotations_for, where=where)
    except (CodecError, TypeError):  # the code is unknown or has changed; what is stored is still readable
        return tuple(plain)


def _unannotated(count: int) -> tuple[Any, ...]:
    return (UNANNOTATED,) * count


def _lenient(codec: Codec, text: str, annotation: Any) -> Any:
    try:
        return codec.decode(text, annotation, where="a stored value")
    except CodecError:
        return _without_marks(parse(text, where="a stored value"))


def _without_marks(plain: Any) -> Any:
    """Return a value without what a Pydantic model has beside its fields: which were not set, and others it let in."""
    if type(plain) is list:
        return [_without_marks(item) for item in plain]
    if type(plain) is not dict:
        return plain
    extra = plain.get("$extra")
    if type(plain.get("$unset")) is not list and type(extra) is not dict:
        return {key: _without_marks(item) for key, item in plain.items()}
    if type(extra) is dict and type(extra.get("$dict")) is dict:
        extra = extra["$dict"]
    fields = {**plain, **extra} if type(extra) is dict else plain
    return {key: _without_marks(item) for key, item in fields.items() if key not in ("$unset", "$extra")}
