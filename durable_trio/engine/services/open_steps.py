"""Which steps this process is executing, told to a store that has no place to note them at once.

It is told now and then, by the reports service: when it is another set of steps than was told last, of those that have
been executing for a while. So a store at which no step takes long is written nothing, and a step waits for none of it.
What is told is at most a second old, as long as the event loop gives way and the store answers; and a process that dies
before that has told nothing of a step that it had just begun.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.errors import StoreError
from durable_trio.rows import OpenStepRow
from durable_trio.stores.contract import PutOpenSteps
from durable_trio.stores.questions import OpenSteps
from durable_trio.stores.writer import Writer

__all__ = ["ReportedSteps"]

#: Steps that end sooner are not told of, unless a look just comes.
_LONG_SECONDS: Final = 0.2
_STEPS_MAX: Final = 100


class ReportedSteps:
    """What was told last, and what is to be told next.

    Args:
        executor: returns which executor this process is, if it is one.
        open_steps: returns which steps it is executing, the longest under way first.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        executor: Callable[[], int | None],
        open_steps: Callable[[], OpenSteps],
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._find_executor = executor
        self._find_open_steps = open_steps
        self._executor: int | None = None
        self._told: tuple[OpenStepRow, ...] = ()

    async def put(self) -> None:
        """Tell it, if it is news, and if the store is to be told."""
        if not self._writer.store.takes_open_steps:
            return
        executor = self._find_executor()
        if executor != self._executor:  # of the one before, nothing is told any more
            self._executor, self._told = executor, ()
        if executor is None:
            return
        found = self._find_open_steps()
        begun_before = self._clock.stamp() - round(_LONG_SECONDS * MICROSECONDS)
        steps = tuple(step for step in found.steps if step.executor == executor and step.started_at <= begun_before)
        if steps == self._told:
            return
        more = max(0, len(steps) - _STEPS_MAX) + (found.unlisted_count if steps else 0)
        with suppress(StoreError):  # others say so; it is tried again at the next look
            await self._writer.write(PutOpenSteps(executor=executor, steps=steps[:_STEPS_MAX], unlisted_count=more))
            self._told = steps
