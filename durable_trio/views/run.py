"""One run with all that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs

from durable_trio.errors import CodecError
from durable_trio.looks import leaves
from durable_trio.records import (
    ExecutorStatus,
    FailureRecord,
    GenerationRecord,
    RunRecord,
    RunStatus,
    StepInHand,
    StepKind,
    StepRecord,
    StepStatus,
    UnreadRecord,
    WaitRecord,
)
from durable_trio.rows import Key
from durable_trio.rules.expiry import Expiry, expiry_from

__all__ = ["RunView", "began_at", "expired_at", "is_of", "of_generation", "with_refused_signals", "with_steps"]


@attrs.frozen(kw_only=True)
class RunView:
    """All that is shown of a run, and the executor that has it, if that is still known."""

    record: RunRecord
    steps: tuple[StepRecord, ...]
    waits: tuple[WaitRecord, ...]
    unread: tuple[UnreadRecord, ...]
    children: tuple[RunRecord, ...]
    owner: ExecutorStatus | None
    in_hand: tuple[StepInHand, ...] = ()  # what is executing
    generations: tuple[GenerationRecord, ...] = ()  # earlier ones that are kept, the last one first
    generation: GenerationRecord | None = None  # the one whose steps these are, if it is not the present one


def of_generation(view: RunView) -> RunView:
    """Return a run as its earlier generation was that is to be shown: it had other arguments, and has ended."""
    shown = view.generation
    if shown is None:
        return view
    record = attrs.evolve(
        view.record,
        status=RunStatus.COMPLETED,
        args=shown.args,
        generation=shown.generation,
        version=shown.version,
        started_at=shown.started_at,
        finished_at=shown.finished_at,
        result=None,
        error=None,
        problem=None,
        compensation_errors=(),
        values={},
        waits_for=(),
        recoveries=0,
        owner=None,
    )
    return attrs.evolve(view, record=record)


def with_steps(view: RunView, *, failed: bool = False, key: str | None = None) -> RunView:
    """Return a run with some of its steps and waits alone.

    Args:
        failed: those that failed, and those whose last attempt did.
        key: the one with that key, those below it, and those with that name.
    """
    if not failed and key is None:
        return view
    return attrs.evolve(
        view,
        steps=tuple(
            step
            for step in view.steps
            if not (failed and step.status is StepStatus.COMPLETED) and (key is None or is_of(step.key, key))
        ),
        waits=tuple(
            wait
            for wait in view.waits
            # Not how many items a map has, some of which are not shown.
            if wait.total is None and not (failed and wait.error is None) and (key is None or is_of(wait.key, key))
        ),
    )


def with_refused_signals(view: RunView) -> RunView:
    """Return a run with those signals as failed that its body was given as ``CodecError``, if that has ended it.

    They are stored as taken, for so they were; that the payload is of another type only the body's code tells.
    """
    error = view.record.error
    refused = [leaf for leaf in leaves(error) if isinstance(leaf, CodecError)] if isinstance(error, Exception) else []
    if not refused:
        return view

    def marked(step: StepRecord) -> StepRecord:
        for leaf in refused:
            if step.kind is StepKind.SIGNAL and (leaf.where or "").startswith(f"signal {step.key!r} of run"):
                failure = FailureRecord(type=type(leaf).__qualname__, message=str(leaf))
                return attrs.evolve(step, status=StepStatus.FAILED, error=failure)
        return step

    return attrs.evolve(view, steps=tuple(map(marked, view.steps)))


def is_of(key: str, wanted: str) -> bool:
    """Whether a key is the wanted one, or below it, or has that name."""
    return key == wanted or key.startswith(f"{wanted}/") or Key.parse(key).name == wanted


def began_at(record: RunRecord) -> datetime | None:
    """Return when a run began; a fork has the original's ``started_at``, and began when it was taken, if it was."""
    if record.started_at is not None and record.started_at < record.created_at:
        return None if record.status is RunStatus.PENDING else record.created_at
    return record.started_at


def expired_at(steps: Sequence[StepRecord]) -> tuple[datetime, Expiry] | None:
    """Return when the time to live of a run was over, and where it was then; ``None`` if that is not so, or lost."""
    for step in steps:
        where = expiry_from(step.result) if step.kind is StepKind.TTL else None
        if where is not None:
            return step.finished_at, where
    return None
