"""The part of the engine that looks: lists, watches, counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

from durable_trio.clock import from_datetime, to_datetime
from durable_trio.engine.base import EngineBase
from durable_trio.engine.filters import make_cursor, make_filter, read_cursor
from durable_trio.engine.inline import INLINE_NAME
from durable_trio.engine.watching import Changes, watch
from durable_trio.limits import PAGE_RUNS_MAX, check_name
from durable_trio.records import EngineStatus, ExecutorStatus, Page, RunRow, RunStatus
from durable_trio.stores.base import RunFilter
from durable_trio.workflow import Workflow


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
        """
        tree = self._tree_in_use()
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_RUNS_MAX:
            raise ValueError(f"limit must be between 1 and {PAGE_RUNS_MAX}, not {limit!r}")
        which = make_filter(
            status=status,
            workflow=workflow,
            tags=tags,
            queue=queue,
            parent_id=parent,
            created_after=None if created_after is None else from_datetime(created_after, what="created_after"),
            created_before=None if created_before is None else from_datetime(created_before, what="created_before"),
        )
        before = None if cursor is None else read_cursor(cursor)
        rows = await tree.front.read(tree.front.store.list_runs, which, limit=limit + 1, before=before)
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

        The present state of each matching run comes first, then its changes in order, also those that other
        processes make. Intermediate states may merge; the final one is always given. With ``run_id`` the
        iteration ends after the final status.

        Raises:
            RunNotFound: on entry, for an unknown ``run_id``.
        """
        tree = self._tree_in_use()
        if run_id is not None:
            check_name("run id", run_id)
        which = make_filter(run_id=run_id, status=status, workflow=workflow, tags=tags)
        return watch(tree.front, tree.feed, which, convert=self._records, matches=self._matcher(which))

    def connect(self) -> Any:
        """Return a new connection to the engine's file, for tables of your own; close it yourself.

        It is the one supported way to open the file inside a process that uses an engine on it: a second SQLite
        library on the same file in one process cancels the locks of the first. ``durable_trio.sqlite3`` is the module.
        """
        self._tree_in_use()
        return self._store.connect()

    async def status(self) -> EngineStatus:
        """Return what the engine and its store look like now."""
        tree = self._tree_in_use()
        store = tree.front.store
        found = await tree.front.read(store.status)
        executors = await tree.front.read(store.executors)
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
                    is_self=row.id == tree.executor,
                )
                for row in executors
            ),
            runs_by_status=found.runs_by_status,
            parked=found.parked,
            unknown_workflows=unknown,
            resident_runs=tree.runs.resident_count,
            sqlite_version=found.library_version,
            warnings=found.warnings,
        )

    def _matcher(self, which: RunFilter) -> Any:
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
            found = self._codec.decode(row.tags, dict[str, str], where="tags")
            return all(found.get(key) == value for key, value in tags.items())

        return matches
