"""The part of the engine that looks: lists, watches, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final

from durable_trio.clock import from_datetime, to_datetime
from durable_trio.engine.base import EngineBase
from durable_trio.engine.filters import check_text, make_cursor, make_filter, read_cursor
from durable_trio.engine.records_of import run_record
from durable_trio.engine.runs.inline import INLINE_NAME
from durable_trio.engine.services.reports import merged, with_runs
from durable_trio.engine.watching import Changes, watch
from durable_trio.errors import CodecError
from durable_trio.limits import PAGE_RUNS_MAX, check_name
from durable_trio.records import EngineStatus, ExecutorStatus, Page, ProcessReport, RunRecord, RunRow, RunStatus
from durable_trio.stores.contract import Change, RunFilter
from durable_trio.workflows import Workflow
from supervisors import EventStream, TreeNode, format_tree

# Children of one supervisor that are drawn: resident runs may be many.
_CHILDREN_DRAWN_MAX: Final = 20


class QueryCalls(EngineBase):
    """List, watch, connect, status."""

    async def list_runs(
        self,
        *,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        workflow: str | Workflow[..., Any] | None = None,
        tags: Mapping[str, str] | None = None,
        queue: str | None = None,
        parent: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return runs, newest first. ``limit`` is at most 1000; ``cursor`` is a page's ``next_cursor``.

        Raises:
            ValueError: an unknown status, a cursor that no page gave, a limit out of range.
            TypeError: a filter or a cursor of another type.
        """
        parts = self._parts_in_use()
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_RUNS_MAX:
            raise ValueError(f"limit must be between 1 and {PAGE_RUNS_MAX}, not {limit!r}")
        which = make_filter(
            status=status,
            workflow=workflow,
            tags=tags,
            queue=check_text("queue", queue),
            parent_id=check_text("parent", parent),
            created_after=None if created_after is None else from_datetime(created_after, what="created_after"),
            created_before=None if created_before is None else from_datetime(created_before, what="created_before"),
        )
        before = None if cursor is None else read_cursor(cursor)
        rows = await parts.front.ask(parts.front.store.list_runs, which, limit=limit + 1, before=before)
        page = rows[:limit]
        following = make_cursor(page[-1]) if len(rows) > limit else None
        return Page(runs=tuple(await self._records(page)), next_cursor=following)

    def watch(
        self,
        *,
        run_id: str | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        workflow: str | Workflow[..., Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[Changes]:
        """Watch runs: ``async with engine.watch(…) as changes: async for record in changes: …``.

        The present state of each matching run comes first, then its changes in the order in which they were
        committed, also those that other processes make, within some 20 ms. A run never goes back, and no record of it
        equals the one before. Each is of one instant: status and published values belong together. Intermediate states
        may merge, more so if the watcher is slow, which costs no memory; the final one is always given.

        Args:
            run_id: this run only. The iteration ends after its final status; if it is resumed after that, watch again.
                Without it the iteration goes on until the block is left, and a resumed run shows again.
            status: only states in this status, or one of these. Of a run that leaves them nothing tells; leave this
                out where that matters. With ``run_id`` the iteration ends with the run all the same.
            workflow: only runs of this workflow.
            tags: only runs that have all of these.

        A run that is deleted or pruned gives no more records. If that happens before its end was seen here, the
        iteration of a watch with ``run_id`` raises ``RunNotFound``, within some seconds.

        *Cancellation:* of a wait for the next record loses nothing.

        Any number of watches cost the store no more queries than one, after the reading of the present state.

        Raises:
            RunNotFound: on entry, for an unknown ``run_id``.
            ValueError: an unknown status.
            trio.ClosedResourceError: from the iteration, once the engine is closed.
        """
        parts = self._parts_in_use()
        if run_id is not None:
            run_id = check_name("run id", run_id)
        which = make_filter(run_id=run_id, status=status, workflow=workflow, tags=tags)

        def convert(change: Change) -> RunRecord:
            known = self._registry.get(change.row.workflow)
            failures = parts.runs.failures_of(known)
            return run_record(change.row, codec=self._codec, workflow=known, failures=failures, values=change.values)

        return watch(parts.front, parts.feed, which, convert=convert, matches=self._matcher(which))

    def connect(self) -> Any:
        """Return a new connection to the engine's file, for tables of your own; close it yourself.

        It is the one supported way to open the file inside a process that uses an engine on it: a second SQLite
        library on the same file in one process cancels the locks of the first. ``durable_trio.sqlite3`` is the module.
        It may be called from any thread, and the connection belongs to that one.
        """
        self._open_parts()
        return self._store.connect()

    async def status(self) -> EngineStatus:
        """Return what the engine and its store look like now."""
        parts = self._parts_in_use()
        store = parts.front.store
        found = await parts.front.ask(store.status)
        executors = await parts.front.read(store.executors)
        unknown = {
            name: count
            for name, count in found.unfinished_by_workflow.items()
            if self._registry.get(name) is None and name != INLINE_NAME
        }
        return EngineStatus(
            durability=store.durability,
            executors=tuple(
                ExecutorStatus(
                    id=row.id,
                    pid=row.pid,
                    host=row.host,
                    started_at=to_datetime(row.started_at),
                    is_self=row.id == parts.executor,
                    is_alive=store.executor_is_alive(row.id),
                )
                for row in executors
            ),
            runs_by_status=found.runs_by_status,
            parked=found.parked,
            unknown_workflows=unknown,
            resident_runs=parts.runs.resident_count,
            recorded_count=found.recorded_count,
            sqlite_version=found.library_version,
            warnings=(*found.warnings, *(f"The file is damaged: {row.damage}." for row in executors if row.damage)),
        )

    def tree(self) -> TreeNode:
        """Return this process's supervision tree as data, with the runs that are in memory."""
        parts = self._parts_in_use()
        assert self._root is not None
        return with_runs(self._root.tree(), parts.runs.resident_rows())

    def events(self) -> EventStream:
        """Return what happens from now on in this process's supervision tree: starts, ends and restarts of children.

        Iterate over it; the iteration ends when the engine is closed. A listener that is too slow loses the oldest
        events and is told how many.
        """
        self._parts_in_use()
        assert self._root is not None
        return self._root.events()

    def format_tree(self) -> str:
        """Draw ``tree()`` as text."""
        return format_tree(self.tree(), children_max=_CHILDREN_DRAWN_MAX)

    async def processes(self) -> tuple[ProcessReport, ...]:
        """Return what the processes that serve this store say of themselves, the longest running first.

        Each says so when its supervision tree changes; those of another machine are taken for alive. A store in
        memory has none.
        """
        return await self._parts_in_use().reports.read()

    async def trees(self) -> tuple[TreeNode, ...]:
        """Return the supervision trees of all servers of this store, each with those of its worker processes."""
        return merged(await self.processes(), now=self._settings.clock.stamp())

    def _matcher(self, which: RunFilter) -> Callable[[RunRow], bool]:
        tags = dict(which.tags)

        def matches(row: RunRow) -> bool:
            if which.run_id is not None and row.id != which.run_id:
                return False
            if which.statuses is not None and row.status not in which.statuses:
                return False
            if which.workflow is not None and row.workflow != which.workflow:
                return False
            if not tags:
                return True
            try:
                found = self._codec.decode(row.tags, dict[str, str], where="tags")
            except CodecError:
                return False  # damaged; the feed must not fail with it
            return all(found.get(key) == value for key, value in tags.items())

        return matches
