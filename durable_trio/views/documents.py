"""What ``--json`` prints, as attrs classes: they are the published shapes, ``schemas`` makes JSON Schema of them.

Instants are ISO 8601 in UTC with microseconds, durations seconds. Fields may be added in later versions; none is
renamed or changes its meaning.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar

import attrs

from durable_trio.errors import StepFailed
from durable_trio.looks import qualified_name, text_of
from durable_trio.records import (
    FailureRecord,
    GenerationRecord,
    Problem,
    RunRecord,
    RunStatus,
    StepInHand,
    StepKind,
    StepRecord,
    StepStatus,
    UnreadRecord,
    WaitRecord,
)
from durable_trio.views.values import iso, jsonable

__all__ = [
    "AwaitedDocument",
    "CheckDocument",
    "CopyDocument",
    "EarlierErrorDocument",
    "FailureDocument",
    "Finding",
    "GenerationDocument",
    "InHandDocument",
    "LeftDocument",
    "ListDocument",
    "LongStepDocument",
    "ManyDocument",
    "PruneDocument",
    "ReloadDocument",
    "RunDocument",
    "ServedDocument",
    "ShowDocument",
    "StepDocument",
    "UnreadDocument",
    "WaitDocument",
    "failure_document",
    "plain",
    "run_document",
    "show_document",
]

Record = TypeVar("Record")


@attrs.frozen(kw_only=True)
class FailureDocument:
    """A failure: the qualified name of its type, its text, its traceback."""

    type: str
    message: str
    traceback: str


@attrs.frozen(kw_only=True)
class ProblemDocument:
    """Why a run is parked."""

    kind: str
    text: str
    fingerprint: str


@attrs.frozen(kw_only=True)
class AwaitedDocument:
    """One thing that a run waits for.

    ``kind`` is ``start``, ``sleep``, ``signal``, ``retry``, ``map``, ``child``, ``deadline``, ``ttl`` or ``executor``:
    the run is due, and ``reason`` says why nobody takes it. ``name`` is that of the sleep or the signal, the key of the
    step or the map, or the id of the child.
    """

    kind: str
    name: str | None
    key: str | None
    workflow: str | None
    due_at: datetime | None
    total: int | None
    reason: str | None


@attrs.frozen(kw_only=True)
class RunDocument:
    """A run as it was at one instant. ``args``, ``result`` and ``values`` are the JSON that is stored.

    ``version`` is that of its workflow, ``null`` until it is known. ``forked_from`` is the id of the run that it is a
    fork of, ``forked_before`` the key of the row before which it was made. ``waits_for`` has the first twenty things
    that it waits for; ``watch`` leaves it empty.
    ``cursor`` is what ``watch --since`` goes on after; only ``watch`` gives it.
    """

    id: str
    workflow: str
    status: RunStatus
    args: tuple[Any, ...]
    result: Any
    error: FailureDocument | None
    problem: ProblemDocument | None
    queue: str | None
    priority: int
    tags: Mapping[str, str]
    parent_id: str | None
    owner: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    wake_at: datetime | None
    ttl_at: datetime | None
    recoveries: int
    generation: int
    version: int | None
    forked_from: str | None
    forked_before: str | None
    compensation_errors: tuple[FailureDocument, ...]
    values: Mapping[str, Any]
    waits_for: tuple[AwaitedDocument, ...]
    cursor: str | None


@attrs.frozen(kw_only=True)
class EarlierErrorDocument:
    """How one attempt of a step has failed, and at which line of the user's code."""

    attempt: int
    type: str
    message: str
    failed_at: datetime
    line: str | None


@attrs.frozen(kw_only=True)
class StepDocument:
    """One row of a run's history."""

    key: str
    kind: StepKind
    status: StepStatus
    attempt: int
    result: Any
    error: FailureDocument | None
    started_at: datetime
    finished_at: datetime
    problem: str | None
    earlier_errors: tuple[EarlierErrorDocument, ...]


@attrs.frozen(kw_only=True)
class WaitDocument:
    """An open wait: a timer, a signal, the next attempt of a step, a step that must not begin twice, or a map.

    ``total``: of a map, how many items it has.
    """

    key: str
    kind: str
    due_at: datetime | None
    attempt: int
    error: FailureDocument | None
    started_at: datetime
    problem: str | None
    earlier_errors: tuple[EarlierErrorDocument, ...]
    total: int | None


@attrs.frozen(kw_only=True)
class UnreadDocument:
    """A signal, or a request to cancel with its reason as payload, that the run has not taken yet."""

    kind: str
    name: str
    payload: Any
    sent_at: datetime
    problem: str | None


@attrs.frozen(kw_only=True)
class InHandDocument:
    """A step whose function is executing, or was when its process died: then it is not ``is_alive``.

    ``is_reported``: its process says so now and then, instead of noting it at once; that is at most a second old.
    """

    key: str
    started_at: datetime
    kind: StepKind
    attempt: int
    executor: int | None
    pid: int | None
    thread: int | None
    is_alive: bool
    is_reported: bool


@attrs.frozen(kw_only=True)
class GenerationDocument:
    """A history that a run has ended to begin anew; ``left_out``: how many of its first rows are not kept."""

    generation: int
    args: tuple[Any, ...]
    started_at: datetime | None
    finished_at: datetime
    left_out: int
    version: int | None
    problem: str | None


@attrs.frozen(kw_only=True)
class ListDocument:
    """What ``list`` prints."""

    runs: tuple[RunDocument, ...]
    next_cursor: str | None


@attrs.frozen(kw_only=True)
class ShowDocument:
    """What ``show`` prints: the run, its history, open waits, what it has not read, the ids of its children.

    ``in_hand`` are steps that are executing now; where none is known, those that it waits for if it is to end, as its
    executor has told last, at most a second ago. ``generations`` are the earlier
    ones that are kept, the last one first, at most a hundred. ``generation`` is the one of them whose history ``steps``
    is; ``null``: the run's present one.
    """

    run: RunDocument
    steps: tuple[StepDocument, ...]
    waits: tuple[WaitDocument, ...]
    unread: tuple[UnreadDocument, ...]
    children: tuple[str, ...]
    in_hand: tuple[InHandDocument, ...]
    generations: tuple[GenerationDocument, ...]
    generation: int | None


@attrs.frozen(kw_only=True)
class PruneDocument:
    """What ``prune`` prints."""

    count: int
    before: datetime
    is_dry_run: bool


@attrs.frozen(kw_only=True)
class CopyDocument:
    """What ``copy`` prints: of ``total`` runs so many were copied, or would be, and so many were there already.

    ``row_count``: what belongs to them and was copied this time. ``is_repeated``: all was copied before.
    """

    total: int
    copied_count: int
    there_count: int
    row_count: int
    is_repeated: bool
    is_dry_run: bool


@attrs.frozen(kw_only=True)
class LeftDocument:
    """A run that a command has left as it is, and why."""

    id: str
    reason: str


@attrs.frozen(kw_only=True)
class ManyDocument:
    """What ``cancel``, ``resume``, ``abandon`` and ``delete`` print: how many of the ``total`` they have done it to.

    Those of which neither is true were not what was asked for any more, and were passed over.
    """

    command: str
    total: int
    done_count: int
    left: tuple[LeftDocument, ...]


@attrs.frozen(kw_only=True)
class ReloadDocument:
    """What ``reload`` prints: how it has ended. ``replaced`` of so many ``workers`` serve the new code."""

    process: int  # of the server
    is_done: bool
    workers: int
    replaced: int
    is_same_code: bool  # the files are as they were before
    reason: str | None  # why it has failed


@attrs.frozen(kw_only=True)
class ServedDocument:
    """What ``serve --until-idle`` prints: why it has ended, and when the next run is due."""

    reason: Literal["idle", "time", "another", "stopped"]
    next_due: str | None
    steps: int | None  # outcomes of calls that were recorded; null where workers, or nobody who could be asked, did it
    unfinished: int  # runs, of at most 1000, that are due already
    too_long: tuple[LongStepDocument, ...]  # that were interrupted though they had nearly all of the time


@attrs.frozen(kw_only=True)
class LongStepDocument:
    """A step for which no time suffices that ``serve --until-idle`` has."""

    run_id: str
    step: str
    attempt: int


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that ``check`` looked at. ``wrong`` makes the exit code 1."""

    level: Literal["ok", "note", "wrong"]
    about: str
    text: str


@attrs.frozen(kw_only=True)
class CheckDocument:
    """What ``check`` prints. The numbers are runs, or executors, that need a person."""

    database: str
    is_sound: bool
    findings: tuple[Finding, ...]
    runs_by_status: Mapping[str, int]
    # How many there are of what needs a person.
    parked: int = 0
    overdue: int = 0  # due for long, and taken by nobody
    expired: int = 0  # not ended though the time to live is over
    set_aside: int = 0  # runs whose process died each time
    compensations_failed: int = 0  # runs of which one has failed
    executors_silent: int = 0  # that have not renewed their lease
    workers_held_back: int = 0  # that have died and cannot come back


def run_document(record: RunRecord, *, cursor: str | None = None) -> RunDocument:
    """Return a run as it is printed."""
    return RunDocument(
        **{
            **_fields(record, RunDocument, but="cursor"),
            "error": failure_document(record.error),
            "problem": _problem_document(record.problem),
            "compensation_errors": tuple(map(_of_failure_record, record.compensation_errors)),
            "waits_for": tuple(AwaitedDocument(**_fields(each, AwaitedDocument)) for each in record.waits_for),
            "cursor": cursor,
        }
    )


def show_document(
    record: RunRecord,
    steps: tuple[StepRecord, ...],
    waits: tuple[WaitRecord, ...],
    unread: tuple[UnreadRecord, ...],
    children: tuple[str, ...],
    in_hand: tuple[StepInHand, ...],
    generations: tuple[GenerationRecord, ...],
    generation: int | None,
) -> ShowDocument:
    """Return a run with its history, open waits and unread messages, as it is printed."""
    return ShowDocument(
        run=run_document(record),
        steps=tuple(StepDocument(**{**_fields(step, StepDocument), **_errors_of(step)}) for step in steps),
        waits=tuple(WaitDocument(**{**_fields(wait, WaitDocument), **_errors_of(wait)}) for wait in waits),
        unread=tuple(UnreadDocument(**_fields(entry, UnreadDocument)) for entry in unread),
        children=children,
        in_hand=tuple(InHandDocument(**_fields(step, InHandDocument)) for step in in_hand),
        generations=tuple(GenerationDocument(**_fields(each, GenerationDocument)) for each in generations),
        generation=generation,
    )


def _errors_of(record: StepRecord | WaitRecord) -> dict[str, Any]:
    earlier = (EarlierErrorDocument(**_fields(each, EarlierErrorDocument)) for each in record.earlier_errors)
    return {"error": failure_document(record.error), "earlier_errors": tuple(earlier)}


def failure_document(error: BaseException | FailureRecord | None) -> FailureDocument | None:
    """Return a failure as it is printed, whether it could be rebuilt or not."""
    if error is None:
        return None
    if isinstance(error, FailureRecord):
        return _of_failure_record(error)
    stored = error.__cause__  # of what was rebuilt it is the text of the recorded traceback
    trace = stored.args[0] if stored is not None and stored.args and isinstance(stored.args[0], str) else ""
    if isinstance(error, StepFailed) and error.type:
        return FailureDocument(type=error.type, message=text_of(error), traceback=trace)
    return FailureDocument(type=qualified_name(type(error)), message=text_of(error), traceback=trace)


def _of_failure_record(record: FailureRecord) -> FailureDocument:
    return FailureDocument(type=record.type, message=record.message, traceback=record.traceback)


def _problem_document(problem: Problem | None) -> ProblemDocument | None:
    if problem is None:
        return None
    return ProblemDocument(kind=problem.kind, text=problem.text, fingerprint=problem.fingerprint)


def _fields(record: object, cls: type[attrs.AttrsInstance], *, but: str | None = None) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in attrs.fields(cls) if field.name != but}


def plain(document: Any) -> Any:
    """Return a document as JSON values."""
    if attrs.has(type(document)):
        return {field.name: plain(getattr(document, field.name)) for field in attrs.fields(type(document))}
    if isinstance(document, datetime):
        return iso(document)
    if isinstance(document, enum.Enum):
        return document.value
    if isinstance(document, Mapping):
        return {str(key): plain(item) for key, item in document.items()}
    if isinstance(document, list | tuple):
        return [plain(item) for item in document]
    return jsonable(document)
