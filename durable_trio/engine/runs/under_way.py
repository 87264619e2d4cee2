"""Which steps were under way in a process that has died, as far as that is known."""

from __future__ import annotations

from typing import NamedTuple

from durable_trio.rows import RunRow
from durable_trio.stores.questions import ListOpenSteps
from durable_trio.stores.writer import Writer

__all__ = ["StepUnderWay", "steps_under_way"]


class StepUnderWay(NamedTuple):
    """An attempt of a step."""

    key: str
    attempt: int


async def steps_under_way(writer: Writer, row: RunRow) -> tuple[StepUnderWay, ...]:
    """Return the attempts of a claimed run that were under way when the process died that had it, the oldest first."""
    found = await writer.ask(ListOpenSteps(row.run))
    return tuple(
        StepUnderWay(str(step.key), step.attempt)
        for step in found.steps
        if step.token == row.token - 1 and not step.is_alive  # of the stay before this one
    )
