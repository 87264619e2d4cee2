"""One run with all that belongs to it."""

from __future__ import annotations

import attrs

from durable_trio.records import ExecutorStatus, RunRecord, StepInHand, StepRecord, UnreadRecord, WaitRecord

__all__ = ["RunView"]


@attrs.frozen(kw_only=True)
class RunView:
    """All that is shown of a run, and the executor that has it, if that is still known."""

    record: RunRecord
    steps: tuple[StepRecord, ...]
    waits: tuple[WaitRecord, ...]
    unread: tuple[UnreadRecord, ...]
    children: tuple[RunRecord, ...]
    owner: ExecutorStatus | None
    in_hand: tuple[StepInHand, ...] = ()  # what it waits for, if it is to end
