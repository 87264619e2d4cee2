"""``Engine``: the facade. It checks what it is given, hands it to the services of its tree, and converts what comes."""

from __future__ import annotations

import base64
import signal
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, Unpack, cast, overload

import trio

from durable_trio.clock import from_datetime, to_datetime
from durable_trio.codec import UNANNOTATED, Codec
from durable_trio.context.context import Context
from durable_trio.context.starting import SignalStartOptions, StartOptions, start_operation
from durable_trio.engine import os_signals
from durable_trio.engine.ending import cancelled
from durable_trio.engine.inline import INLINE_NAME, open_inline
from durable_trio.engine.observers import Observer, Observers
from durable_trio.engine.reading import run_record
from durable_trio.engine.run import Run
from durable_trio.engine.settings import make_settings
from durable_trio.engine.tree import Tree
from durable_trio.engine.watching import Changes, watch
from durable_trio.errors import RunNotFound
from durable_trio.failures import Failures
from durable_trio.limits import PAGE_RUNS_MAX, check_name
from durable_trio.records import EngineStatus, ExecutorStatus, Key, Page, RunRecord, RunRow, RunStatus
from durable_trio.stores.base import (
    DeleteRun,
    ForkRun,
    Prune,
    RequestCancel,
    ResumeRun,
    RunFilter,
    SendSignal,
    SignalWithStart,
    Started,
    StartRun,
    Store,
)
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.workflow import Registry, Startable, Workflow, check_tags

Ts = TypeVarTuple("Ts")
R = TypeVar("R")
_PRUNE_BATCH = 200


class Engine(trio.abc.AsyncResource):
    """Durable runs on one store. Serve with ``trio.run(engine.serve)``, or use it as a client with ``async with``.

    Args:
        store: a path, ``":memory:"`` (this process only), or a ``Store``.
        workflows: those that this engine knows; runs of others are left alone.
        observers: instances of ``Observer``; their errors disturb no run.
        errors: exception classes that steps may raise and replay may need, beyond builtins, trio's and the
            workflow's module's.
        concurrency: runs that are in memory at once; others wait in the store.
        durability: ``"full"`` survives power loss, ``"normal"`` the death of the process.
        strict: raise where the engine would only warn.
        options: ``lease_seconds=30``, ``grace_seconds=10``, ``payload_bytes_max=4 MiB``,
            ``replay_stall_seconds=10``, ``clock``.

    Raises:
        TypeError, ValueError: an option of another name, or out of range.
    """

    def __init__(
        self,
        store: str | PathLike[str] | Store,
        *,
        workflows: Iterable[Workflow[Any, Any]] = (),
        observers: Sequence[Observer] = (),
        errors: Sequence[type[Exception]] = (),
        durability: str = "full",
        strict: bool = False,
        **options: Any,
    ) -> None:
        self._settings = make_settings(
            {
                "observers": tuple(observers),
                "errors": tuple(errors),
                "durability": durability,
                "strict": strict,
                **options,
            }
        )
        self._registry = Registry(workflows)
        self._observers = Observers(observers)
        self._codec = Codec(payload_bytes_max=self._settings.payload_bytes_max)
        if isinstance(store, Store):
            self._store = store
        elif isinstance(store, str) and "://" in store:
            raise ValueError(f"store {store!r}: only files and ':memory:' are supported")
        else:
            self._store = SqliteStore(store, durability=durability)
        self._tree: Tree | None = None
        self._closed = False
        self._reading_failures: dict[str, Failures] = {}
        self._client: AsyncExitStack | None = None

    # ---- life --------------------------------------------------------------------------------------------------

    async def serve(
        self,
        *,
        signals: Sequence[int] | bool | None = None,
        task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Open the store, run the whole tree until cancelled or told to stop, close.

        As ``trio.run``'s main task, SIGTERM and SIGINT drain it and it returns; a second one stops it at once.
        ``signals=`` names other signals, ``False`` none.

        *Cancellation:* drains for ``grace_seconds``, then detaches. Nothing fails, nothing is cancelled by it.
        *Durability:* whatever was acknowledged goes on in the next process that serves.

        Raises:
            StoreError: the store cannot be opened.
            ExceptionGroup: a service has failed for good; names which.
        """
        handled = self._signals_to_handle(signals)
        with os_signals.received(handled) as os_signals_received:  # before anything else: a start can be interrupted
            await self._open_store()
            try:
                stop, grace = trio.Event(), trio.CancelScope()
                async with trio.open_nursery() as nursery:
                    if os_signals_received is not None:
                        nursery.start_soon(os_signals.wait_for_stop, os_signals_received, stop.set, grace.cancel)
                    await nursery.start(self._run_tree, stop, grace)
                    task_status.started(self)
                    try:
                        await stop.wait()
                        with trio.CancelScope(shield=True):
                            await self._tree_ended.wait()
                    finally:
                        stop.set()
                        if self._tree_ended.is_set():
                            nursery.cancel_scope.cancel()
            finally:
                await self._close_store()

    def _signals_to_handle(self, signals: Sequence[int] | bool | None) -> Sequence[int]:
        if signals is None:
            signals = os_signals.is_main_task()
        if isinstance(signals, bool):
            return os_signals.DEFAULT if signals else ()
        return [signal.Signals(item) for item in signals]

    async def _run_tree(
        self,
        stop: trio.Event,
        grace: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self._tree_ended = trio.Event()
        tree = self._make_tree()
        try:
            with trio.CancelScope(shield=True):
                async with tree.executor_tree(grace):
                    self._tree = tree
                    task_status.started()
                    await stop.wait()
        finally:
            self._tree = None
            self._tree_ended.set()

    async def __aenter__(self) -> Self:
        """Open the store as a client: start, signal, cancel, list, watch; execute nothing."""
        await self._open_store()
        tree = self._make_tree()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_store)
            await stack.enter_async_context(tree.client())
            self._tree = tree
            self._client = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close a client; twice is nothing. Calls after it raise ``trio.ClosedResourceError``."""
        self._closed = True
        self._tree = None
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()  # no scope around it: it leaves scopes that were entered before
        await trio.lowlevel.checkpoint()

    async def _open_store(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this engine was closed; make a new one")
        if self._tree is not None:
            raise RuntimeError("this engine is in use already")
        if self._store.is_memory:
            self._store.open()
            await trio.lowlevel.checkpoint()
        else:
            await trio.to_thread.run_sync(self._store.open)

    async def _close_store(self) -> None:
        self._closed = True
        with trio.CancelScope(shield=True):
            if self._store.is_memory:
                self._store.close()
            else:
                await trio.to_thread.run_sync(self._store.close)

    def _make_tree(self) -> Tree:
        return Tree(
            self._store,
            settings=self._settings,
            registry=self._registry,
            codec=self._codec,
            observers=self._observers,
        )

    def _tree_in_use(self) -> Tree:
        if self._tree is None:
            if self._closed:
                raise trio.ClosedResourceError("the engine is closed")
            raise RuntimeError(
                "the engine is not open: use it while it serves, inside `async with open_engine(…)`, "
                "or as a client inside `async with Engine(…)`"
            )
        return self._tree

    # ---- runs --------------------------------------------------------------------------------------------------

    @overload
    async def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> Run[Any]: ...
    @overload
    async def start(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[R]: ...
    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> Run[Any]:  # type: ignore[misc]  # takes *Ts
        """Store a new run and return its handle; whoever serves executes it.

        Args:
            workflow: the workflow, or the name of one, which this engine need not know.
            args: the run's arguments, after the context.
            id: the run's id; default a new UUID. The same id again is the same run.
            queue: a name to list runs by.
            priority: higher ones are taken first.
            delay, at: begin that many seconds from now, or at that instant.
            ttl: seconds from now after which the run fails with ``RunExpired``; default the workflow's.
            tags: to list and watch by, beside the workflow's.

        *Cancellation:* a cancel point before anything is stored; the commit is waited for.
        *Durability:* once it returns, the run is stored and will be executed.

        Raises:
            RunConflict: there is a run with this id, with another workflow or other arguments.
            CodecError, PayloadTooLarge: an argument cannot be stored.
            TypeError, ValueError: wrong arguments or options, or a name that cannot be stored.
        """
        run, _ = await self._start(workflow, args, cast(StartOptions, options))
        return run

    async def _start(self, workflow: Any, args: tuple[Any, ...], options: StartOptions) -> tuple[Run[Any], bool]:
        """Return the run's handle, and whether it was stored in this very step of the task."""
        tree = self._tree_in_use()
        operation = self._start_operation(workflow, args, options)
        is_new = await tree.start(operation)
        known = workflow if isinstance(workflow, Workflow) else self._registry.get(operation.workflow)
        return Run(self, operation.id, known), is_new

    def _start_operation(self, workflow: Any, args: tuple[Any, ...], options: StartOptions) -> StartRun:
        return start_operation(
            workflow, args, options, registry=self._registry, codec=self._codec, clock=self._settings.clock
        )

    async def run(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[StartOptions]) -> R:
        """Start a run and wait for its result; arguments and options are those of ``start``.

        *Cancellation:* ends the wait, not the run.

        Raises:
            RunFailed, RunCancelled, RunExpired: as ``Run.result``.
        """
        run, is_new = await self._start(workflow, args, options)
        return cast(R, await run._result(is_new=is_new))

    @overload
    def get(self, run_id: str, workflow: None = None) -> Run[Any]: ...
    @overload
    def get(self, run_id: str, workflow: Workflow[..., R]) -> Run[R]: ...
    def get(self, run_id: str, workflow: Workflow[..., Any] | None = None) -> Run[Any]:
        """Return a handle to a run, without looking whether there is one. ``workflow`` types the result."""
        return Run(self, check_name("run id", run_id), workflow)

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
        which = _filter(
            status=status,
            workflow=workflow,
            tags=tags,
            queue=queue,
            parent_id=parent,
            created_after=None if created_after is None else from_datetime(created_after, what="created_after"),
            created_before=None if created_before is None else from_datetime(created_before, what="created_before"),
        )
        before = None if cursor is None else _read_cursor(cursor)
        rows = await tree.front.read(tree.front.store.list_runs, which, limit=limit + 1, before=before)
        page = rows[:limit]
        following = _make_cursor(page[-1]) if len(rows) > limit else None
        return Page(runs=tuple(await self._records(page)), next_cursor=following)

    # ---- messages ----------------------------------------------------------------------------------------------

    async def send_signal(self, run_id: str, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal to a run: a plain JSON value under a name.

        The same ``id`` twice to one run is one signal.

        *Durability:* once it returns, the signal is stored and will be given to the run once.

        Raises:
            RunNotFound: there is no such run.
            RunFinished: it has ended.
            RunConflict: the run has a signal with this id and another name or payload.
            CodecError: the payload cannot be stored.
        """
        tree = self._tree_in_use()
        tree.sent(await tree.front.write(self._signal_operation(run_id, name, payload, id)))

    def _signal_operation(self, run_id: str, name: str, payload: Any, signal_id: str | None) -> SendSignal:
        check_name("run id", run_id)
        check_name("signal name", name)
        if signal_id is not None:
            check_name("signal id", signal_id)
        annotation = UNANNOTATED if payload is None or type(payload) in _JSON_TYPES else type(payload)
        text = self._codec.encode(payload, annotation, where=f"the payload of signal {name!r}").text
        return SendSignal(run_id=run_id, name=name, payload=text, signal_id=signal_id, now=self._settings.clock.now())

    async def cancel(self, run_id: str, *, reason: str | None = None) -> bool:
        """Ask a run to cancel: its body is cancelled, its steps are compensated, then it is ``cancelled``.

        Returns:
            True: requested; asking again is also True. False: its body had already ended, nothing changed.

        Raises:
            RunNotFound: there is no such run.
        """
        tree = self._tree_in_use()
        check_name("run id", run_id)
        text = self._codec.encode(reason, str | None, where="the reason").text
        # A run that has not begun ends with the request itself, so its error goes along.
        error, _ = self._failures_of(None).encode(cancelled(run_id, reason), where="the error of a cancelled run")
        now = self._settings.clock.now()
        sent = await tree.front.write(RequestCancel(run_id=run_id, reason=text, error=error, now=now))
        if sent is None:
            return False
        tree.sent(sent)
        return True

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
        """Start a run unless it is there, and send it a signal: both or neither.

        Args:
            signal, payload, signal_id: as ``send_signal``'s name, payload and id.
            id: the run's id.
            options: those of ``start``.

        *Durability:* once it returns, both are stored.

        Raises:
            RunConflict: there is a run with this id, with another workflow or other arguments.
            RunFinished: the run has ended.
        """
        tree = self._tree_in_use()
        start = self._start_operation(workflow, args, cast(StartOptions, {**options, "id": id}))
        send = self._signal_operation(id, signal, payload, signal_id)
        started: Started = await tree.front.write(SignalWithStart(start=start, signal=send))
        if tree.executor is not None:
            tree.runs.mail(started.row.run)
            tree.dispatcher.nudge()
        return Run(self, id, self._registry.get(started.row.workflow))

    # ---- upkeep ------------------------------------------------------------------------------------------------

    async def resume(self, run_id: str) -> Run[Any]:
        """Let a parked run go on, or a failed or cancelled one none of whose compensation has run.

        It goes on from its history, without the failure or cancel at its end.

        Raises:
            RunNotFound: there is no such run.
            RunConflict: it is in no such state.
        """
        tree = self._tree_in_use()
        check_name("run id", run_id)
        row: RunRow = await tree.front.write(ResumeRun(run_id=run_id, now=self._settings.clock.now()))
        if tree.executor is not None:
            tree.dispatcher.nudge()
        return Run(self, row.id, self._registry.get(row.workflow))

    async def fork(self, run_id: str, *, before: str, id: str | None = None) -> Run[Any]:
        """Start a new run with the history of another up to, not including, the row with the key ``before``.

        Steps that are copied are not compensated by the new run.

        Raises:
            RunNotFound: there is no such run.
            ValueError: it has no row of that key.
            RunConflict: there is a run with the new id.
        """
        tree = self._tree_in_use()
        check_name("run id", run_id)
        new_id = str(uuid.uuid4()) if id is None else check_name("run id", id)
        operation = ForkRun(
            run_id=run_id,
            before=Key.parse(before),
            id=new_id,
            now=self._settings.clock.now(),
        )
        row: RunRow = await tree.front.write(operation)
        if tree.executor is not None:
            tree.dispatcher.nudge()
        return Run(self, row.id, self._registry.get(row.workflow))

    def inline(self, run_id: str, *, input: Any = None) -> AbstractAsyncContextManager[Context]:
        """Durable steps in an ordinary trio block: ``async with engine.inline("import-7") as ctx: …``, for scripts.

        Normal exit completes the run. An exception leaves it as it is, uncompensated; entered again with the same id
        it goes on: calls that were recorded give back their outcomes.

        Args:
            input: a plain JSON value that is stored with the run; the same each time.

        Raises:
            RunConflict: another block holds the run, or it was begun with another input.
            RunFinished: it has completed, or was cancelled.
            RunCancelled: at the end of the block, if the run was cancelled meanwhile.
            OwnershipLost: another executor has taken it over.
        """
        return open_inline(self._tree_in_use(), check_name("run id", run_id), input)

    async def delete(self, run_id: str) -> None:
        """Remove a run that has ended, with all its rows.

        Raises:
            RunNotFound: there is no such run.
            RunConflict: it has not ended.
        """
        await self._tree_in_use().front.write(DeleteRun(run_id=check_name("run id", run_id)))

    async def prune(
        self, before: datetime, *, status: RunStatus | str | Iterable[RunStatus | str] | None = None
    ) -> int:
        """Remove runs that ended before an instant, and return how many.

        Args:
            status: only those in this final status, or these; default all three.

        *Cancellation:* what is removed stays removed.

        Raises:
            ValueError: a status that is not final, or a datetime without time zone.
        """
        tree = self._tree_in_use()
        statuses = _statuses(status) or (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
        for item in statuses:
            if not item.is_final:
                raise ValueError(f"prune removes only runs that have ended; {item.value!r} is no final status")
        instant = from_datetime(before, what="before")
        count = 0
        while True:  # in small transactions, so that others can write in between
            removed: int = await tree.front.write(Prune(before=instant, statuses=statuses, limit=_PRUNE_BATCH))
            count += removed
            if removed < _PRUNE_BATCH:
                return count

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
        which = _filter(run_id=run_id, status=status, workflow=workflow, tags=tags)
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

    # ---- for handles -------------------------------------------------------------------------------------------

    async def _row(self, run_id: str) -> RunRow:
        front = self._tree_in_use().front
        row = await front.read(front.store.run, run_id)
        if row is None:
            raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
        return row

    async def _record(self, run_id: str) -> RunRecord:
        (record,) = await self._records([await self._row(run_id)])
        return record

    async def _records(self, rows: Sequence[RunRow]) -> list[RunRecord]:
        front = self._tree_in_use().front
        values = await front.read(front.store.values, [row.run for row in rows])
        records = []
        for row in rows:
            workflow = self._registry.get(row.workflow)
            failures = self._failures_of(workflow)
            records.append(
                run_record(
                    row,
                    codec=self._codec,
                    workflow=workflow,
                    failures=failures,
                    values=values.get(row.run, {}),
                )
            )
        return records

    def _failures_of(self, workflow: Workflow[..., Any] | None) -> Failures:
        return self._tree_in_use().runs.failures_of(workflow)

    async def _workflow_of(self, run_id: str) -> Workflow[..., Any] | None:
        return self._registry.get((await self._row(run_id)).workflow)

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


@asynccontextmanager
async def open_engine(store: str | PathLike[str] | Store, **options: Any) -> AsyncIterator[Engine]:
    """Serve in the background of a block: ``async with open_engine("app.db", workflows=[order]) as engine:``.

    Takes the options of ``Engine``. At the block's end the engine drains and closes. An exception of the block
    comes out as itself; a failure of the engine's as an ``ExceptionGroup``.
    """
    engine = Engine(store, **options)
    failure: Exception | None = None
    stop = trio.Event()
    await engine._open_store()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine._run_tree, stop, trio.CancelScope())
            try:
                yield engine
            except Exception as error:
                failure = error
            finally:
                stop.set()
    finally:
        await engine._close_store()
    if failure is not None:
        raise failure


_JSON_TYPES = (bool, int, float, str, list, dict)


def _statuses(status: RunStatus | str | Iterable[RunStatus | str] | None) -> tuple[RunStatus, ...] | None:
    if status is None:
        return None
    if isinstance(status, str):
        status = [status]
    found = []
    for item in status:
        try:
            found.append(RunStatus(item))
        except ValueError:
            known = ", ".join(RunStatus)
            raise ValueError(f"{item!r} is no status of a run; choose among {known}") from None
    return tuple(found)


def _filter(
    *,
    status: RunStatus | str | Iterable[RunStatus | str] | None = None,
    workflow: str | Workflow[..., Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **fields: Any,
) -> RunFilter:
    return RunFilter(
        statuses=_statuses(status),
        workflow=workflow.name if isinstance(workflow, Workflow) else workflow,
        tags=tuple(sorted(check_tags(tags).items())),
        **fields,
    )


def _make_cursor(row: RunRow) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at}.{row.run}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[int, int]:
    try:
        created_at, _, run = base64.urlsafe_b64decode(cursor.encode()).decode().partition(".")
        return int(created_at), int(run)
    except (ValueError, AttributeError):
        raise ValueError(f"{cursor!r} is no cursor of a page") from None
