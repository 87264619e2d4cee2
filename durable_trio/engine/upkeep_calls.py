"""The part of the engine that mends and tidies: resume, fork, delete, prune."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

import attrs

from durable_trio.clock import from_datetime
from durable_trio.doors import guarded
from durable_trio.engine.base import EngineBase
from durable_trio.engine.filters import statuses_of
from durable_trio.engine.run import Run
from durable_trio.engine.services.janitor import sweep, warn_of_stuck
from durable_trio.errors import RunConflict
from durable_trio.limits import UPKEEP_ROWS_MAX, check_name
from durable_trio.looks import class_name, exact_text, is_a
from durable_trio.records import Key, RunRow, RunStatus
from durable_trio.rules.damage import damaged
from durable_trio.rules.resuming import Outcome, is_compensated, rows_to_cut
from durable_trio.stores.contract import (
    CopyHistory,
    CutHistory,
    DeleteRun,
    Draft,
    ForkRun,
    Prune,
    Pruned,
    ResumeRun,
    Stuck,
    TooLong,
)

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
        outcome: RunRow | TooLong = await parts.front.write(ResumeRun(run_id=run_id, now=self._settings.clock.stamp()))
        row = await self._resume_long(outcome.row) if isinstance(outcome, TooLong) else outcome
        if parts.executor is not None:
            guarded(parts.dispatcher.nudge)
        return self._handle(row.id, self._registry.get(row.workflow))

    async def _resume_long(self, row: RunRow) -> RunRow:
        """Resume a run with a long history: look at it off the event loop, and cut it piece by piece."""
        front = self._parts_in_use().front

        def find_rows() -> list[tuple[Key, int]]:
            history = []
            for item in front.store.history(row.run):
                if item.damage is not None:
                    raise RunConflict(damaged(row.id, item.damage).text, run_id=row.id)
                history.append(Outcome(item.seq, item.key, item.kind, item.status, item.started_at, item.finished_at))
            if is_compensated(history):
                text = f"run {row.id!r} has been compensated, at least in part, and cannot go on; start a new one"
                raise RunConflict(text, run_id=row.id)
            return [(found.key, found.seq) for found in rows_to_cut(history)]

        rows = await front.ask(find_rows)
        for start in range(0, len(rows), UPKEEP_ROWS_MAX):
            part = tuple(rows[start : start + UPKEEP_ROWS_MAX])
            await front.write(CutHistory(run_id=row.id, changed=row.changed, rows=part))
        now = self._settings.clock.stamp()
        resumed: RunRow = await front.write(ResumeRun(run_id=row.id, cut_at=row.changed, now=now))
        return resumed

    async def fork(self, run_id: str, *, before: str, id: str | None = None) -> Run[Any]:
        """Start a new run with the history of another up to, not including, the row with the key ``before``.

        Steps that are copied are not compensated by the new run.

        Args:
            before: a key as ``steps`` gives it.
            id: that of the new run; default a new UUID.

        Raises:
            RunNotFound: there is no such run.
            ValueError: it has no row of that key, or that is no key.
            TypeError: ``before`` is no ``str``.
            RunConflict: there is a run with the new id; or what is stored of the run is damaged.
        """
        parts = self._parts_in_use()
        run_id = check_name("run id", run_id)
        if not is_a(before, str):
            raise TypeError(f"before must be the key of a history row, a str, not {class_name(type(before))}")
        new_id = str(uuid.uuid4()) if id is None else check_name("run id", id)
        now = self._settings.clock.stamp()
        operation = ForkRun(run_id=run_id, before=await self._key(run_id, exact_text(before)), id=new_id, now=now)
        outcome: RunRow | Draft = await parts.front.write(operation)
        row = await self._fork_long(operation, outcome) if isinstance(outcome, Draft) else outcome
        if parts.executor is not None:
            guarded(parts.dispatcher.nudge)
        return self._handle(row.id, self._registry.get(row.workflow))

    async def _key(self, run_id: str, text: str) -> Key:
        """Return the key that a text is. An unknown run is told first: what is wrong with its keys is no news then."""
        try:
            return Key.parse(text)
        except ValueError:
            await self._row(run_id)
            raise

    async def _fork_long(self, operation: ForkRun, draft: Draft) -> RunRow:
        """Fork a run with a long history: look at it off the event loop, and copy it piece by piece."""
        front = self._parts_in_use().front

        def find_keys() -> list[Key]:
            history = front.store.history(draft.source[0])
            for item in history:
                if item.damage is not None:  # a copy without it would be another history
                    raise RunConflict(damaged(operation.run_id, item.damage).text, run_id=operation.run_id)
            return [item.key for item in history if item.seq < draft.before]

        keys = await front.ask(find_keys)
        for start in range(0, len(keys), UPKEEP_ROWS_MAX):
            part = tuple(keys[start : start + UPKEEP_ROWS_MAX])
            now = self._settings.clock.stamp()
            await front.write(CopyHistory(run_id=operation.run_id, draft=draft, keys=part, now=now))
        now = self._settings.clock.stamp()
        row: RunRow = await front.write(attrs.evolve(operation, draft=draft, now=now))
        return row

    async def delete(self, run_id: str) -> None:
        """Remove a run that has ended, with all its rows.

        So is one removed that is parked because it is damaged: it will never end. A parent that waits for it is told
        that it is gone.

        Many rows are removed piece by piece; from the first on the run is stored no more.

        *Cancellation:* what is left of its rows is removed by whoever serves.

        Raises:
            RunNotFound: there is no such run.
            RunConflict: it has not ended; or a row of a table of yours refers to it and forbids that.
        """
        parts = self._parts_in_use()
        run_id = check_name("run id", run_id)
        row = await self._row(run_id)
        await parts.front.write(DeleteRun(run_id=run_id))
        guarded(parts.feed.recheck_removed)
        if parts.executor is not None and row.parent is not None:
            parts.runs.mail(row.parent)
            guarded(parts.dispatcher.nudge)
        await sweep(parts.front)

    async def prune(
        self,
        before: datetime,
        *,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Remove runs that ended before an instant, and return how many.

        A child stays while its parent goes on and may still ask for its result. So does a run to which a row of a table
        of yours refers, if its foreign key forbids that: it is named in the log, and passed over.

        Args:
            status: only those in this final status, or these; default all three.
            progress: called after each of the small transactions, with the number of runs removed so far.

        It goes in small transactions, between which others can write.

        *Cancellation:* what is removed stays removed.

        Raises:
            ValueError: a status that is not final, or a datetime without time zone.
        """
        parts = self._parts_in_use()
        statuses = statuses_of(status)
        if statuses is None:  # not for none of them, as an empty list says
            statuses = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
        for item in statuses:
            if not item.is_final:
                raise ValueError(f"prune removes only runs that have ended; {item.value!r} is no final status")
        instant = from_datetime(before, what="before")
        count = 0
        position = None
        stuck: list[Stuck] = []
        while True:
            operation = Prune(before=instant, statuses=statuses, limit=_PRUNE_BATCH, after=position)
            pruned: Pruned = await parts.front.write(operation)
            count += pruned.count
            if progress is not None:
                progress(count)
            position = pruned.position
            stuck += pruned.stuck
            if pruned.count:
                guarded(parts.feed.recheck_removed)
            if pruned.hidden_count:
                await sweep(parts.front)
            if position is None:
                warn_of_stuck(stuck)
                return count
