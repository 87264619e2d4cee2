"""One run with all that belongs to it."""

from __future__ import annotations

from datetime import datetime

import attrs

from durable_trio.records import ExecutorStatus, RunRecord, RunStatus, StepInHand, StepRecord, UnreadRecord, WaitRecord

__all__ = ["RunView", "began_at"]


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


def began_at(record: RunRecord) -> datetime | None:
    """Return when a run began; a fork has the original's ``started_at``, and began when it was taken, if it was."""
    if record.started_at is not None and record.started_at < record.created_at:
        return None if record.status is RunStatus.PENDING else record.created_at
    return record.started_at
