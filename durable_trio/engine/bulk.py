"""One call for many runs: cancel, resume, abandon or delete all that a filter finds.

Each run is its own operation, and what is done stays done. A few are dealt with at once, so that one commit carries
them; the writer puts them where others' work does not wait for them. The first is alone, and each group is at most
twice as large as the one before: whoever stops at what comes of the first ones has not had many more.

The newest come first, and a run after its children of the same group: it would only find a child's failure again if it
were resumed before.

A run may change between the look at all of them and its own turn. So it is looked at again then, and passed over if it
is not what was asked for any more: whoever cancels what is parked does not mean the run that has gone on meanwhile.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypedDict, Unpack

import attrs
import trio

from durable_trio.clock import from_datetime
from durable_trio.engine import abandoning, removals, resuming
from durable_trio.engine.client import Client
from durable_trio.engine.filters import check_text, make_filter
from durable_trio.errors import RunConflict, RunFinished, RunNotFound
from durable_trio.limits import PAGE_RUNS_MAX
from durable_trio.looks import exact_bool
from durable_trio.options import check_options
from durable_trio.records import BulkProgress, RunStatus
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import FINAL, UNFINISHED
from durable_trio.stores.questions import FindRun, ListRuns, Order, RunFilter
from durable_trio.workflows import Workflow, check_version

__all__ = ["Bulk", "RunsFilter", "abandon_runs", "cancel_runs", "delete_runs", "resume_runs", "runs_filter"]

#: So many runs are dealt with at once: from some ten on, the sync of a commit that they share is paid for.
TOGETHER_MAX: Final = 64
_EVERYTHING: Final = RunFilter()
# What a call is for, where neither a status nor what is parked is asked for.
_UNFINISHED: Final[tuple[Mapping[str, Any], ...]] = ({"statuses": tuple(UNFINISHED)},)
_ENDED: Final[tuple[Mapping[str, Any], ...]] = ({"statuses": tuple(FINAL)},)
_RESUMABLE: Final[tuple[Mapping[str, Any], ...]] = (
    {"is_parked": True},
    {"statuses": (RunStatus.FAILED, RunStatus.CANCELLED)},
)


class RunsFilter(TypedDict, total=False):
    """Which runs: what ``engine.list_runs`` takes, without order and page.

    That one, and ``watch``, spell their arguments out, for people read these in their signatures.
    """

    status: RunStatus | str | Iterable[RunStatus | str] | None
    workflow: str | Workflow[..., Any] | None
    tags: Mapping[str, str] | None
    queue: str | None
    parent: str | None
    created_after: datetime | None
    created_before: datetime | None
    parked: bool
    retrying: bool
    overdue: bool


def runs_filter(client: Client, *, run_id: str | None = None, **which: Unpack[RunsFilter]) -> RunFilter:
    """Return the filter of ``engine.list_runs``, of ``engine.watch`` and of the calls for many runs.

    Raises:
        TypeError, ValueError: something of it cannot be looked for.
    """

    def instant(name: Literal["created_after", "created_before"]) -> int | None:
        given = which.get(name)
        return None if given is None else from_datetime(given, what=name)

    def flag(name: Literal["parked", "retrying", "overdue"]) -> bool:
        return exact_bool(which.get(name, False), what=name)

    return make_filter(
        run_id=run_id,
        status=which.get("status"),
        workflow=which.get("workflow"),
        tags=which.get("tags"),
        queue=check_text("queue", which.get("queue")),
        parent_id=check_text("parent", which.get("parent")),
        created_after=instant("created_after"),
        created_before=instant("created_before"),
        is_parked=flag("parked"),
        is_retrying=flag("retrying"),
        overdue_at=client.overdue_at if flag("overdue") else None,
    )


@attrs.frozen
class _Found:
    """A run that is to be dealt with, and by which part of the filter it was found."""

    part: RunFilter
    run_id: str
    parent_id: str | None


@attrs.frozen
class _Outcome:
    """What has come of a run: why it was left, if so; ``is_over``: it was not what was asked for any more."""

    refusal: str | None = None
    is_over: bool = False
    error: Exception | None = None


class Bulk:
    """An async iterator of ``BulkProgress``, for one task: it goes on with the next few runs when it is asked for one.

    Nothing happens before that, and nothing more once it is left.

    Args:
        act: deals with a run; returns why it cannot be done to it, if so.
        finish: what is done once after each few of them.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        act: Callable[[RunRow], Awaitable[str | None]],
        parts: tuple[RunFilter, ...],
        *,
        finish: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._act = act
        self._parts = parts
        self._finish = finish
        self._found: tuple[_Found, ...] | None = None
        self._only: frozenset[str] | None = None
        self._left: deque[_Found] = deque()  # not dealt with yet
        self._together_count = 1
        self._told: deque[BulkProgress] = deque()  # what was dealt with, and not given yet
        self._failure: Exception | None = None  # given once all that was done is
        self.done_count = self.left_count = 0

    def only(self, run_ids: Collection[str]) -> Bulk:
        """Leave out all that are not among these, as what was shown to somebody before; return the same iterator."""
        self._only = frozenset(run_ids)
        return self

    async def find(self) -> tuple[str, ...]:
        """Return the ids of the runs that it would go over, the newest first; nothing is done to them."""
        if self._found is None:
            found = [each for part in self._parts for each in await self._list(part)]
            self._found = tuple(each for each in found if self._only is None or each.run_id in self._only)
            self._left.extend(self._found)
        return tuple(each.run_id for each in self._found)

    def __aiter__(self) -> Bulk:
        return self

    async def __anext__(self) -> BulkProgress:
        """Return what has come of the next run.

        *Cancellation:* what is done stays, and what is left is left; ``done_count`` tells of all that is done.

        Raises:
            StopAsyncIteration: there are no more.
            StoreError: as the call for one run does.
        """
        await trio.lowlevel.checkpoint()
        await self.find()
        while not self._told:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if not self._left:
                raise StopAsyncIteration
            await self._deal_with_some()
        return self._told.popleft()

    async def _deal_with_some(self) -> None:
        """Deal with the next few at once, and note in their order what has come of each."""
        count = min(self._together_count, len(self._left))
        some = [self._left.popleft() for _ in range(count)]
        self._together_count = min(2 * self._together_count, TOGETHER_MAX)
        outcomes: dict[int, _Outcome] = {}
        try:
            await self._deal_with(some, await self._look(some), outcomes)
        finally:
            self._left.extendleft(some[number] for number in reversed(range(count)) if number not in outcomes)
            for number, outcome in sorted(outcomes.items()):
                self._note(some[number].run_id, outcome)
        if self._finish is not None:
            try:
                await self._finish()
            except Exception as error:
                self._failure = self._failure or error

    async def _look(self, some: Sequence[_Found]) -> list[RunRow | None]:
        """Return each as it is now; ``None`` if it is not what was asked for any more.

        All of them before anything is done to the first: what is done is handed to the writer at the same time then.
        """
        rows = [await self._ask(ListRuns(attrs.evolve(each.part, run_id=each.run_id), limit=1)) for each in some]
        return [found[0] if found else None for found in rows]

    async def _deal_with(
        self, some: Sequence[_Found], rows: Sequence[RunRow | None], outcomes: dict[int, _Outcome]
    ) -> None:
        ends = [trio.Event() for _ in some]

        async def deal(number: int, row: RunRow) -> None:
            for before, end in zip(some[:number], ends, strict=False):
                if before.parent_id == row.id:
                    await end.wait()
            try:
                outcomes[number] = await self._do(row)
            except Exception as error:
                outcomes[number] = _Outcome(error=error)
            finally:
                ends[number].set()

        async with trio.open_nursery() as nursery:
            for number, row in enumerate(rows):
                if row is None:
                    outcomes[number] = _Outcome(is_over=True)
                    ends[number].set()
                else:
                    nursery.start_soon(deal, number, row)

    async def _do(self, row: RunRow) -> _Outcome:
        try:
            return _Outcome(await self._act(row))
        except RunConflict as error:
            return _Outcome(str(error))
        except (RunFinished, RunNotFound):  # it has ended meanwhile, or was removed
            return _Outcome(is_over=True)

    def _note(self, run_id: str, outcome: _Outcome) -> None:
        if outcome.error is not None:
            self._failure = self._failure or outcome.error
        elif not outcome.is_over:
            assert self._found is not None
            self.done_count += outcome.refusal is None
            self.left_count += outcome.refusal is not None
            progress = BulkProgress(
                run_id=run_id,
                refusal=outcome.refusal,
                done_count=self.done_count,
                left_count=self.left_count,
                total=len(self._found),
            )
            self._told.append(progress)

    def __del__(self) -> None:
        if self._found is None:
            text = f"engine.{self._name}(…) was not iterated over, so nothing was done: async for … in it"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    async def _list(self, which: RunFilter) -> list[_Found]:
        found: list[_Found] = []
        before: tuple[float, int] | None = None
        while True:
            rows = await self._ask(ListRuns(which, order=Order.NEWEST, limit=PAGE_RUNS_MAX, before=before))
            found += [_Found(which, row.id, row.parent_id) for row in rows]
            if len(rows) < PAGE_RUNS_MAX:
                return found
            before = (rows[-1].created_at, rows[-1].run)

    async def _ask(self, question: ListRuns) -> tuple[RunRow, ...]:
        return await self._client.services_in_use().writer.ask(question)


def cancel_runs(client: Client, reason: str | None, which: RunsFilter) -> Bulk:
    """Cancel many runs; see ``engine.cancel_runs``."""

    async def cancel(row: RunRow) -> str | None:
        if not await client.cancel(row.id, reason):
            raise RunFinished(f"run {row.id!r} has ended", run_id=row.id)
        return None

    return _bulk(client, "cancel_runs", cancel, which, without_status=_UNFINISHED)


def resume_runs(client: Client, version: int | None, which: RunsFilter) -> Bulk:
    """Let many runs go on; see ``engine.resume_runs``."""
    version = None if version is None else check_version(version)

    async def resume(row: RunRow) -> str | None:
        await resuming.resume(client, row.id, version)
        return None

    return _bulk(client, "resume_runs", resume, which, without_status=_RESUMABLE)


def abandon_runs(client: Client, reason: str | None, which: RunsFilter) -> Bulk:
    """End many runs without their code; see ``engine.abandon_runs``."""

    async def abandon(row: RunRow) -> str | None:
        await abandoning.abandon(client, row.id, reason)
        return None

    return _bulk(client, "abandon_runs", abandon, which, without_status=_UNFINISHED)


def delete_runs(client: Client, which: RunsFilter) -> Bulk:
    """Remove many runs; see ``engine.delete_runs``."""

    async def delete(row: RunRow) -> str | None:
        if row.parent_id is not None:
            parent = await client.services_in_use().writer.ask(FindRun(row.parent_id))
            if parent is not None and not parent.status.is_final:
                return f"its parent {parent.id!r} goes on, and may still ask for its result"
        await removals.remove(client, row.id)
        return None

    async def finish() -> None:
        await removals.sweep(client.services_in_use().writer)

    return _bulk(client, "delete_runs", delete, which, without_status=_ENDED, finish=finish)


def _bulk(
    client: Client,
    name: str,
    act: Callable[[RunRow], Awaitable[str | None]],
    which: RunsFilter,
    *,
    without_status: tuple[Mapping[str, Any], ...],
    finish: Callable[[], Awaitable[object]] | None = None,
) -> Bulk:
    """Return the iterator; ``without_status``: what takes the place of a status, where none is given."""
    client.services_in_use()
    check_options(f"engine.{name}", which, RunsFilter.__annotations__)
    asked = runs_filter(client, **which)
    if asked == _EVERYTHING:
        raise ValueError(
            f"{name} was given no filter, which would be every run there is; name for example workflow= or status="
        )
    given = asked.statuses is not None or asked.is_parked
    parts = (asked,) if given else tuple(attrs.evolve(asked, **fields) for fields in without_status)
    return Bulk(client, name, act, parts, finish=finish)
