"""Runs that have killed their process too often: such a one is failed, and none of its code runs for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durable_trio.clock import Clock
from durable_trio.engine.runs.actor import RunActor
from durable_trio.engine.runs.run_log import Fate
from durable_trio.engine.runs.telling import Tellings
from durable_trio.engine.runs.under_way import StepUnderWay
from durable_trio.errors import DurableError
from durable_trio.records import RunStatus
from durable_trio.rows import HistoryRow, RunEnd, RunRow
from durable_trio.stores.contract import Fence, Finish
from durable_trio.stores.writer import Writer

__all__ = ["SET_ASIDE", "fail_suspect"]

#: What the error of such a run says, after its id: by this it is known among those that have failed.
SET_ASIDE: Final = "was set aside: its process has died"


async def fail_suspect(actor: RunActor, tellings: Tellings, writer: Writer, clock: Clock) -> RunEnd:
    """Have a run end as failed, say so once that is stored, and return its end."""
    row, failures = actor.row, actor.failures
    assert row.owner is not None
    error = DurableError(_text(row, tellings.died(row.run), actor.last_recorded))
    text, _ = failures.encode(error, where=f"run {row.id!r}")
    telling = tellings.of(row, failures)
    told = telling.is_to_tell(Fate.SET_ASIDE)
    fence = Fence(row.run, row.owner, row.token)
    await writer.write(Finish(fence=fence, status=RunStatus.FAILED, error=text, now=clock.stamp()))
    telling.set_aside(text)
    told()
    return RunEnd(RunStatus.FAILED, None, text)


def _text(row: RunRow, died: Sequence[StepUnderWay], last: HistoryRow | None) -> str:
    """Return why a run that has killed its process too often goes on no more.

    Args:
        died: what was under way when it did so last, as far as that is known.
        last: the last row of its history.
    """
    if died:
        where = f"the last time in step {died[0].key!r}, attempt {died[0].attempt}"
    else:
        where = "before its first step" if last is None else f"the last time after step {str(last.key)!r}"
    # What its parent fails with has this text in it: "it" would be the parent there.
    advice = "Its steps are not compensated; resume it once the cause is mended"
    if row.parent_id is not None:
        advice = (
            f"The steps of {row.id!r} are not compensated; once the cause is mended, resume {row.id!r}, and then its "
            f"parent {row.parent_id!r}, if that has failed with it and was not compensated itself"
        )
    return f"run {row.id!r} {SET_ASIDE} {row.recoveries} times without progress of the run, {where}. {advice}"
