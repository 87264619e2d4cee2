"""One call for many runs: cancel, resume, abandon or delete all that a filter finds.

Each run is its own transaction, one after the other, so that others can write in between; what is done stays done. The
newest come first: a child before its parent, which would only find the child's failure again if it were resumed first.

A run may change between the look at all of them and its own turn. So it is looked at again then, and passed over if it
is not what was asked for any more: whoever cancels what is parked does not mean the run that has gone on meanwhile.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypedDict

import attrs

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

_EVERYTHING: Final = RunFilter()
# What a call is for, where neither a status nor what is parked is asked for.
_UNFINISHED: Final[tuple[Mapping[str, Any], ...]] = ({"statuses": tuple(UNFINISHED)},)
_ENDED: Final[tuple[Mapping[str, Any], ...]] = ({"statuses": tuple(FINAL)},)
_RESUMABLE: Final[tuple[Mapping[str, Any], ...]] = (
    {"is_parked": True},
    {"statuses": (RunStatus.FAILED, RunStatus.CANCELLED)},
)


class RunsFilter(TypedDict, total=False):
    """Which runs: what ``engine.list_runs`` takes, without order and page."""

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


def runs_filter(
    client: Client,
    *,
    run_id: str | None = None,
    status: RunStatus | str | Iterable[RunStatus | str] | None = None,
    workflow: str | Workflow[..., Any] | None = None,
    tags: Mapping[str, str] | None = None,
    queue: str | None = None,
    parent: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    parked: bool = False,
    retrying: bool = False,
    overdue: bool = False,
) -> RunFilter:
    """Return the filter of ``engine.list_runs``, of ``engine.watch`` and of the calls for many runs.

    Raises:
        TypeError, ValueError: something of it cannot be looked for.
    """
    return make_filter(
        run_id=run_id,
        status=status,
        workflow=workflow,
        tags=tags,
        queue=check_text("queue", queue),
        parent_id=check_text("parent", parent),
        created_after=None if created_after is None else from_datetime(created_after, what="created_after"),
        created_before=None if created_before is None else from_datetime(created_before, what="created_before"),
        is_parked=exact_bool(parked, what="parked"),
        is_retrying=exact_bool(retrying, what="retrying"),
        overdue_at=client.overdue_at if exact_bool(overdue, what="overdue") else None,
    )


class Bulk:
    """An async iterator of ``BulkProgress``, for one task: it goes on with the next run when it is asked for one.

    Nothing happens before that, and nothing more once it is left.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        act: Callable[[RunRow], Awaitable[str | None]],
        parts: tuple[RunFilter, ...],
    ) -> None:
        self._client = client
        self._name = name
        self._act = act  # returns why it cannot be done to a run, if so
        self._parts = parts
        self._found: list[tuple[RunFilter, str]] | None = None
        self._only: frozenset[str] | None = None
        self._next = self._done_count = self._left_count = 0

    def only(self, run_ids: Collection[str]) -> Bulk:
        """Leave out all that are not among these, as what was shown to somebody before; return the same iterator."""
        self._only = frozenset(run_ids)
        return self

    async def find(self) -> tuple[str, ...]:
        """Return the ids of the runs that it would go over, the newest first; nothing is done to them."""
        if self._found is None:
            found = [(part, run_id) for part in self._parts for run_id in await self._ids(part)]
            self._found = [each for each in found if self._only is None or each[1] in self._only]
        return tuple(run_id for _, run_id in self._found)

    def __aiter__(self) -> Bulk:
        return self

    async def __anext__(self) -> BulkProgress:
        """Deal with the next run.

        *Cancellation:* what is done stays, and what is left is left.

        Raises:
            StopAsyncIteration: there are no more.
            StoreError: as the call for one run does.
        """
        if self._found is None:
            await self.find()
        assert self._found is not None
        while self._next < len(self._found):
            part, run_id = self._found[self._next]
            self._next += 1
            rows = await self._ask(ListRuns(attrs.evolve(part, run_id=run_id), limit=1))
            if not rows:
                continue  # it is not what was asked for any more
            try:
                refusal = await self._act(rows[0])
            except RunConflict as error:
                refusal = str(error)
            except (RunFinished, RunNotFound):  # it has ended meanwhile, or was removed
                continue
            self._done_count += refusal is None
            self._left_count += refusal is not None
            return BulkProgress(
                run_id=run_id,
                refusal=refusal,
                done_count=self._done_count,
                left_count=self._left_count,
                total=len(self._found),
            )
        raise StopAsyncIteration

    def __del__(self) -> None:
        if self._found is None:
            text = f"engine.{self._name}(…) was not iterated over, so nothing was done: async for … in it"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    async def _ids(self, which: RunFilter) -> list[str]:
        ids: list[str] = []
        before: tuple[float, int] | None = None
        while True:
            rows = await self._ask(ListRuns(which, order=Order.NEWEST, limit=PAGE_RUNS_MAX, before=before))
            ids += [row.id for row in rows]
            if len(rows) < PAGE_RUNS_MAX:
                return ids
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
        await removals.delete(client, row.id)
        return None

    return _bulk(client, "delete_runs", delete, which, without_status=_ENDED)


def _bulk(
    client: Client,
    name: str,
    act: Callable[[RunRow], Awaitable[str | None]],
    which: RunsFilter,
    *,
    without_status: tuple[Mapping[str, Any], ...],
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
    return Bulk(client, name, act, parts)
