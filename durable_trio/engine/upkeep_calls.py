"""The part of the engine that mends and tidies: resume, fork, delete, prune."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from durable_trio.clock import from_datetime
from durable_trio.doors import guarded
from durable_trio.engine.base import EngineBase
from durable_trio.engine.filters import statuses_of
from durable_trio.engine.run import Run
from durable_trio.limits import check_name
from durable_trio.records import Key, RunRow, RunStatus
from durable_trio.stores.base import DeleteRun, ForkRun, Prune, ResumeRun

# Runs that one transaction of ``prune`` removes: others can write in between.
_PRUNE_BATCH: Final = 200


class UpkeepCalls(EngineBase):
    """Resume, fork, delete, prune."""

    async def resume(self, run_id: str) -> Run[Any]:
        """Let a parked run go on, or a failed or cancelled one none of whose compensation has run.

        It goes on from its history, without the failures or the cancel at its end. A failure after which the body went
        on stays, and what has completed stays.

        Raises:
            RunNotFound: there is no such run.
            RunConflict: it is in no such state.
        """
        parts = self._parts_in_use()
        run_id = check_name("run id", run_id)
        row: RunRow = await parts.front.write(ResumeRun(run_id=run_id, now=self._settings.clock.stamp()))
        if parts.executor is not None:
            guarded(parts.dispatcher.nudge)
        return self._handle(row.id, self._registry.get(row.workflow))

    async def fork(self, run_id: str, *, before: str, id: str | None = None) -> Run[Any]:
        """Start a new run with the history of another up to, not including, the row with the key ``before``.

        Steps that are copied are not compensated by the new run.

        Raises:
            RunNotFound: there is no such run.
            ValueError: it has no row of that key.
            RunConflict: there is a run with the new id.
        """
        parts = self._parts_in_use()
        run_id = check_name("run id", run_id)
        new_id = str(uuid.uuid4()) if id is None else check_name("run id", id)
        operation = ForkRun(
            run_id=run_id,
            before=Key.parse(before),
            id=new_id,
            now=self._settings.clock.stamp(),
        )
        row: RunRow = await parts.front.write(operation)
        if parts.executor is not None:
            guarded(parts.dispatcher.nudge)
        return self._handle(row.id, self._registry.get(row.workflow))

    async def delete(self, run_id: str) -> None:
        """Remove a run that has ended, with all its rows.

        So is one removed that is parked because it is damaged: it will never end. A parent that waits for it is told
        that it is gone.

        Raises:
            RunNotFound: there is no such run.
            RunConflict: it has not ended.
        """
        parts = self._parts_in_use()
        row = await self._row(check_name("run id", run_id))
        await parts.front.write(DeleteRun(run_id=run_id))
        guarded(parts.feed.recheck_removed)
        if parts.executor is not None and row.parent is not None:
            parts.runs.mail(row.parent)
            parts.dispatcher.nudge()

    async def prune(
        self, before: datetime, *, status: RunStatus | str | Iterable[RunStatus | str] | None = None
    ) -> int:
        """Remove runs that ended before an instant, and return how many.

        A child stays while its parent goes on and may still ask for its result.

        Args:
            status: only those in this final status, or these; default all three.

        *Cancellation:* what is removed stays removed.

        Raises:
            ValueError: a status that is not final, or a datetime without time zone.
        """
        parts = self._parts_in_use()
        statuses = statuses_of(status) or (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
        for item in statuses:
            if not item.is_final:
                raise ValueError(f"prune removes only runs that have ended; {item.value!r} is no final status")
        instant = from_datetime(before, what="before")
        count = 0
        while True:  # in small transactions, so that others can write in between
            removed: int = await parts.front.write(Prune(before=instant, statuses=statuses, limit=_PRUNE_BATCH))
            guarded(parts.feed.recheck_removed)
            count += removed
            if removed < _PRUNE_BATCH:
                return count
