"""``Engine`` as a program in asyncio has it: each method of the engine's as an awaitable, with the same promise.

A map: no method does more than hand on. ``durable_trio.Engine`` says what each of them takes, raises and stores, and a
test compares the two lists. What is different: whatever looks into the engine is awaited (``tree``, ``events``), for it
may live in another thread; and there is no ``inline``, whose block is a body, which is trio code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

import durable_trio.engine.engine as native
import durable_trio.engine.run as native_run
from durable_trio.asyncio.iterating import Bulk, Events, Watch
from durable_trio.asyncio.life import Life
from durable_trio.asyncio.run import Run
from durable_trio.engine.bulk import RunsFilter
from durable_trio.limits import FAILURES_READ_MAX
from durable_trio.records import (
    EngineStatus,
    ErrorGroup,
    Page,
    ProcessReport,
    RunStatus,
    StepInHand,
    VersionRecord,
    WorkflowStats,
)
from durable_trio.rehearsal.records import Rehearsal
from durable_trio.starting import SignalStartOptions, StartOptions
from durable_trio.workflows import Startable, Workflow
from supervisors import TreeNode

__all__ = ["Engine"]

Ts = TypeVarTuple("Ts")
R = TypeVar("R")
T = TypeVar("T")


class Engine:
    """An engine that is open, for tasks of the event loop that opened it. Made by ``open_engine`` and its like.

    Each method is the one of ``durable_trio.Engine`` of that name, and raises what that does.

    *Cancellation:* of the task that waits cancels the call, and then waits for its end: a commit that is under way is
    waited for, and the task is cancelled all the same. Waiting for a result ends; the run does not.
    *Durability:* what a method has stored is committed once it returns, as safely as ``durability`` says.

    Raises:
        RuntimeError: called in another thread or event loop, in one that is closed, or from trio; it says what to
            write there.
        trio.ClosedResourceError: the engine is closed.
    """

    def __init__(self, life: Life) -> None:
        self._life = life

    @property
    def _native(self) -> native.Engine:
        return self._life.native

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        return await self._life.bridge.call(work)

    async def _look(self, fn: Callable[[], T]) -> T:
        """Return what ``fn`` returns where the engine is."""

        async def look() -> T:
            return fn()

        return await self._call(look)

    # ---- life --------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Drain the engine and close it; twice is nothing. It may be another task than the one that opened it.

        *Cancellation:* goes on draining, the second one stops at once: step functions are cancelled, and run again in
        the next process. Then it is cancelled.

        Raises:
            RuntimeError: called in a step of this engine, which would wait for itself.
        """
        self._life.check_may_wait()
        await self._life.close()

    async def wait_closed(self) -> None:
        """Wait until the engine is closed.

        Raises:
            ExceptionGroup: it has failed for good, and names what of it.
            RuntimeError: called in a step of this engine, which would wait for itself.
        """
        self._life.check_may_wait()
        await self._life.wait_closed()

    # ---- runs --------------------------------------------------------------------------------------------------

    @overload
    async def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> Run[Any]: ...
    @overload
    async def start(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[R]: ...
    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> Run[Any]:  # type: ignore[misc]  # takes *Ts
        """Store a new run and return its handle; whoever serves executes it."""
        return self._run_of(await self._call(partial(self._native.start, workflow, *args, **options)))

    async def run(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[StartOptions]) -> R:
        """Start a run and wait for its result."""
        return await self._call(partial(self._native.run, workflow, *args, **options))

    @overload
    def get(self, run_id: str, workflow: None = None) -> Run[Any]: ...
    @overload
    def get(self, run_id: str, workflow: Workflow[..., R]) -> Run[R]: ...
    def get(self, run_id: str, workflow: Workflow[..., Any] | None = None) -> Run[Any]:
        """Return a handle to a run, without looking whether there is one. ``workflow`` types the result."""
        return self._run_of(self._native.get(run_id, workflow))

    # ---- messages ----------------------------------------------------------------------------------------------

    async def send_signal(self, run_id: str, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal to a run: a plain JSON value under a name."""
        await self._call(partial(self._native.send_signal, run_id, name, payload, id=id))

    async def cancel(self, run_id: str, *, reason: str | None = None) -> bool:
        """Ask a run to cancel."""
        return await self._call(partial(self._native.cancel, run_id, reason=reason))

    async def signal_with_start(
        self,
        workflow: Startable[*Ts, Any] | str,
        /,
        *args: *Ts,
        signal: str,
        payload: Any = None,
        id: str,
        signal_id: str | None = None,
        **options: Unpack[SignalStartOptions],
    ) -> Run[Any]:
        """Start a run unless it is there, and send it a signal: both or neither."""
        work = partial(
            self._native.signal_with_start,
            workflow,
            *args,
            signal=signal,
            payload=payload,
            id=id,
            signal_id=signal_id,
            **options,
        )
        return self._run_of(await self._call(work))

    # ---- looking -----------------------------------------------------------------------------------------------

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
        parked: bool = False,
        retrying: bool = False,
        overdue: bool = False,
        sort: str = "newest",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return runs, newest first."""
        return await self._call(
            partial(
                self._native.list_runs,
                status=status,
                workflow=workflow,
                tags=tags,
                queue=queue,
                parent=parent,
                created_after=created_after,
                created_before=created_before,
                parked=parked,
                retrying=retrying,
                overdue=overdue,
                sort=sort,
                limit=limit,
                cursor=cursor,
            )
        )

    def watch(
        self,
        *,
        run_id: str | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        workflow: str | Workflow[..., Any] | None = None,
        tags: Mapping[str, str] | None = None,
        queue: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        overdue: bool = False,
        since: str | None = None,
    ) -> Watch:
        """Watch runs: ``async with engine.watch(…) as changes: async for record in changes: …``."""
        return Watch(
            self._life.bridge,
            partial(
                self._native.watch,
                run_id=run_id,
                status=status,
                workflow=workflow,
                tags=tags,
                queue=queue,
                created_after=created_after,
                created_before=created_before,
                overdue=overdue,
                since=since,
            ),
        )

    async def stats(
        self, *, workflow: str | Workflow[..., Any] | None = None, since: datetime | None = None
    ) -> tuple[WorkflowStats, ...]:
        """Return what the runs of each workflow have come to, by name."""
        return await self._call(partial(self._native.stats, workflow=workflow, since=since))

    async def errors(
        self,
        *,
        workflow: str | Workflow[..., Any] | None = None,
        since: datetime | None = None,
        limit: int = FAILURES_READ_MAX,
    ) -> tuple[ErrorGroup, ...]:
        """Return what runs have failed with, the most frequent failure first."""
        return await self._call(partial(self._native.errors, workflow=workflow, since=since, limit=limit))

    def connect(self) -> Any:
        """Return a new connection to the engine's database, for tables of your own; from any thread."""
        return self._native.connect()

    async def status(self) -> EngineStatus:
        """Return what the engine and its store look like now."""
        return await self._call(self._native.status)

    async def versions(self) -> tuple[VersionRecord, ...]:
        """Return the versions of all workflows, who serves them, and how many runs need them."""
        return await self._call(self._native.versions)

    async def tree(self) -> TreeNode:
        """Return this process's supervision tree as data, with the runs that are in memory."""
        return await self._look(self._native.tree)

    async def events(self) -> Events:
        """Return what happens from now on in this process's supervision tree, to iterate over."""
        return Events(self._life.bridge, await self._look(self._native.events))

    async def format_tree(self) -> str:
        """Draw ``tree()`` as text."""
        return await self._look(self._native.format_tree)

    async def rehearse(
        self, *, workflow: str | Workflow[..., Any] | None = None, sample: int | None = None
    ) -> Rehearsal:
        """Replay the unfinished runs with this engine's code, to learn which of them it would refuse."""
        return await self._call(partial(self._native.rehearse, workflow=workflow, sample=sample))

    async def processes(self) -> tuple[ProcessReport, ...]:
        """Return what the processes that serve this store say of themselves."""
        return await self._call(self._native.processes)

    async def trees(self) -> tuple[TreeNode, ...]:
        """Return the supervision trees of all servers of this store."""
        return await self._call(self._native.trees)

    # ---- going on, and removing --------------------------------------------------------------------------------

    async def resume(self, run_id: str, *, version: int | None = None) -> Run[Any]:
        """Let a parked run go on, or a failed or cancelled one none of whose compensation has run."""
        return self._run_of(await self._call(partial(self._native.resume, run_id, version=version)))

    async def abandon(self, run_id: str, *, reason: str | None = None) -> tuple[StepInHand, ...]:
        """End a run that no code ends, at once."""
        return await self._call(partial(self._native.abandon, run_id, reason=reason))

    async def fork(self, run_id: str, *, before: str, id: str | None = None, signals: bool = False) -> Run[Any]:
        """Start a new run with the history of another up to, not including, the row with the key ``before``."""
        return self._run_of(await self._call(partial(self._native.fork, run_id, before=before, id=id, signals=signals)))

    async def delete(self, run_id: str) -> None:
        """Remove a run that has ended, with all its rows."""
        await self._call(partial(self._native.delete, run_id))

    async def prune(
        self,
        before: datetime,
        *,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Remove runs that ended before an instant, and return how many. ``progress`` is called in the event loop."""
        bridge = self._life.bridge
        told = None if progress is None else lambda count: bridge.to_loop(partial(progress, count))
        return await self._call(partial(self._native.prune, before, status=status, progress=told))

    # ---- many runs ---------------------------------------------------------------------------------------------

    def cancel_runs(self, *, reason: str | None = None, **which: Unpack[RunsFilter]) -> Bulk:
        """Ask all runs of a filter to cancel: ``async for progress in engine.cancel_runs(…)``."""
        return Bulk(self._life.bridge, partial(self._native.cancel_runs, reason=reason, **which))

    def abandon_runs(self, *, reason: str | None = None, **which: Unpack[RunsFilter]) -> Bulk:
        """End all runs of a filter without their code."""
        return Bulk(self._life.bridge, partial(self._native.abandon_runs, reason=reason, **which))

    def resume_runs(self, *, version: int | None = None, **which: Unpack[RunsFilter]) -> Bulk:
        """Let all runs of a filter go on, with that version."""
        return Bulk(self._life.bridge, partial(self._native.resume_runs, version=version, **which))

    def delete_runs(self, **which: Unpack[RunsFilter]) -> Bulk:
        """Remove all runs of a filter."""
        return Bulk(self._life.bridge, partial(self._native.delete_runs, **which))

    # ---- handles -----------------------------------------------------------------------------------------------

    def _run_of(self, run: native_run.Run[R]) -> Run[R]:
        return Run(self._life.bridge, run)
