"""What runs have in hand, and the wait for it when their process is to end: bounded, and it says what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import trio

from durable_trio.calls.step import FunctionCall
from durable_trio.clock import MICROSECONDS, to_datetime
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.logger import Logger
from durable_trio.records import StepInHand
from durable_trio.rows import OpenStepRow, RunRow
from durable_trio.stores.questions import OpenSteps
from durable_trio.unseen import visible

__all__ = ["drained", "in_hand"]

_LOGGER: Final = Logger("durable_trio.processes")
#: Most steps end before the first line; more lines than one every so many seconds nobody reads.
LINE_SECONDS: Final = 3.0
_STEPS_TOLD: Final = 3


def in_hand(runs: Iterable[ResidentRun]) -> Iterator[StepInHand]:
    """Yield the steps of these runs whose functions are executing."""
    for run in runs:
        for call in run.turns.lobby.calls.values():
            if isinstance(call, FunctionCall) and call.in_hand_since is not None:
                yield StepInHand(run_id=run.row.id, key=str(call.key), started_at=to_datetime(call.in_hand_since))


async def drained(
    empty: trio.Event,
    rows: Callable[[], Sequence[RunRow]],
    open_steps: Callable[[], OpenSteps],
    now: Callable[[], int],
    seconds: float,
) -> None:
    """Wait until no run is in memory any more, for at most so many seconds; say now and then for which steps.

    Args:
        empty: set once that is so.
        rows: returns the runs that are in memory.
        open_steps: returns which steps this process is at.
        now: the time, in microseconds, as steps have it.
    """
    until = trio.current_time() + seconds
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, rows, open_steps, now, until)
            await empty.wait()
            nursery.cancel_scope.cancel()


async def _tell(
    rows: Callable[[], Sequence[RunRow]],
    open_steps: Callable[[], OpenSteps],
    now: Callable[[], int],
    until: float,
) -> None:
    while True:
        await trio.sleep(LINE_SECONDS)
        left = rows()
        if left:
            stays = {(row.run, row.owner, row.token): row for row in left}
            found = ((stays.get((step.run, step.executor, step.token)), step) for step in open_steps().steps)
            _say(left, [(row, step) for row, step in found if row is not None], now(), until - trio.current_time())


def _say(left: Sequence[RunRow], steps: list[tuple[RunRow, OpenStepRow]], now: int, seconds: float) -> None:
    told = [
        f"step {visible(str(step.key))!r} of run {visible(row.id)!r}, for {_seconds(now - step.started_at)}"
        for row, step in sorted(steps, key=lambda pair: pair[1].started_at)[:_STEPS_TOLD]
    ]
    more = f", and {len(steps) - len(told)} more" if len(steps) > len(told) else ""
    ids = ", ".join(repr(visible(row.id)) for row in left[:_STEPS_TOLD]) + (", …" if len(left) > _STEPS_TOLD else "")
    waits = f"waits for {'; '.join(told)}{more}" if told else f"waits for these runs to leave: {ids}"
    names = [str(step.key) for _, step in steps]
    extra = {"event": "draining", "runs": len(left), "steps": names[:_STEPS_TOLD], "seconds_left": round(seconds, 1)}
    _LOGGER.info("draining: %s; %.0f s more at most, then they are interrupted", waits, max(0.0, seconds), extra=extra)


def _seconds(duration: int) -> str:
    return f"{max(0, duration) / MICROSECONDS:.0f} s"
