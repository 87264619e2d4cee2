"""``Engine``: the map of all that an engine can be asked, and the facade of what does it.

Long, because each method has its promise beside it; none does more than check, hand on, and convert. What does the
work: ``serving`` (its life), ``client`` (starting, messages, looking), ``watching``, ``resuming``, ``abandoning``,
``forks``, ``removals``, ``bulk`` (for many runs).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from os import PathLike
from types import TracebackType
from typing import Any, Final, Self, TypeVar, TypeVarTuple, Unpack, cast, overload

import trio

from durable_trio.clock import from_datetime
from durable_trio.context.context import Context
from durable_trio.engine import abandoning, bulk, forks, removals, resuming
from durable_trio.engine.bulk import Bulk, RunsFilter, runs_filter
from durable_trio.engine.client import Client
from durable_trio.engine.filters import BEGINNING, make_filter, read_overdue_cursor, statuses_of
from durable_trio.engine.observers import Observer, Observers
from durable_trio.engine.overdue import watch_overdue
from durable_trio.engine.pages import page_of
from durable_trio.engine.run import Run, result_of
from durable_trio.engine.runs.inline import open_inline
from durable_trio.engine.services.reports import merged, with_runs
from durable_trio.engine.serving import Serving
from durable_trio.engine.settings import EngineOptions, OpenOptions, make_settings
from durable_trio.engine.statistics import DURATIONS_MAX, workflow_stats
from durable_trio.engine.status import status_of
from durable_trio.engine.versions import versions
from durable_trio.engine.watching import Changes
from durable_trio.limits import FAILURES_READ_MAX, check_name
from durable_trio.looks import exact_bool
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
from durable_trio.rehearsal.rehearse import rehearse
from durable_trio.rows import RunRow
from durable_trio.starting import SignalStartOptions, StartOptions
from durable_trio.stores.contract import Store
from durable_trio.stores.kinds import make_store
from durable_trio.stores.questions import CountByWorkflow
from durable_trio.workflows import Registry, Startable, Workflow
from supervisors import EventStream, Supervisor, TreeNode, format_tree

Ts = TypeVarTuple("Ts")
R = TypeVar("R")
# Children of one supervisor that are drawn: resident runs may be many.
_CHILDREN_DRAWN_MAX: Final = 20


class Engine(trio.abc.AsyncResource):
    """Durable runs on one store. Serve with ``trio.run(engine.serve)``, or use it as a client with ``async with``.

    *Cancellation:* unless it says more, a method is a cancel point before anything is stored; a commit that is under
    way is waited for. Where the database cannot be reached it is so for a second or two; then ``StoreAway`` says that
    it is in doubt.
    *Durability:* what a method has stored is committed once it returns, as safely as ``durability`` says.

    It is opened once, for one of the two; after that make a new one.

    Args:
        store: a path, ``":memory:"`` (this process only), a ``postgresql://`` URL (with ``?schema=`` for another
            schema than ``durable_trio``; the extra ``postgres``), or a ``Store``.
        workflows: those that this engine knows; runs of others are left alone.
        observers: instances of ``Observer``; their errors disturb no run.
        errors: exception classes that steps may raise and replay may need, beyond builtins, trio's and the
            workflow's module's.
        concurrency: runs that have something to do at once; others wait in the store. One whose own code waits for
            another run, in a step say, does not count meanwhile (of at most 1000).
        durability: ``"full"`` survives power loss, ``"normal"`` the death of the process.
        strict: refuse a run where the engine would only warn.
        workers: processes that execute the runs, each a full executor with ``concurrency`` of its own; this one then
            only supervises them. 0: this process executes.
        app: where worker processes find this engine, as ``"module:engine"``; needed with ``workers``.
        options: ``lease_seconds=30``, ``loop_stall_seconds_max`` (how long the event loop may be blocked before
            others take over its runs, once its lease has passed; four leases), ``away_seconds_max=30`` (how long a
            call waits for a database that cannot be reached before it raises ``StoreAway``; what runs have done waits
            until it is back), ``grace_seconds=10``, ``heartbeat_seconds=10``, ``payload_bytes_max=4 MiB``,
            ``unread_signals_max=10_000`` (of one run), ``resident_runs_max=256`` (in memory, those that only wait
            included), ``generations_kept=10`` (histories of one run after ``ctx.continue_as_new``, each with its last
            5000 rows; ``None``: all, 0: none), ``replay_stall_seconds=10``, ``slow_step_seconds`` (a longer attempt is
            logged and told to observers),
            ``types=[TypeHook(…)]`` (how classes are stored that are not otherwise; the same in all processes that use
            the store), ``aliases={"old.module.Declined": Declined}``
            (which class a stored name stands for, of an exception or of a member of a union, where it was moved or
            renamed since; the names as messages print them), ``build`` (a name of the deployed code, as its commit;
            a run that one code does not fit is tried by every other. By default that is told by the workflow, its
            module and all files of the project that this reaches), ``clock``.

    Raises:
        TypeError, ValueError: an option of another name, or out of range; or an address of no store.
        ImportError: the store needs an extra that is not installed.
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
        workers: int = 0,
        app: str | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        settings = make_settings(
            {
                "observers": tuple(observers),
                "errors": tuple(errors),
                "durability": durability,
                "strict": strict,
                "workers": workers,
                "app": app,
                **options,
            }
        )
        registry = Registry(workflows)
        opened = store if isinstance(store, Store) else make_store(store, durability=durability)
        self._client = Client(opened, settings, registry, Observers(observers), engine=self)
        self._serving = Serving(self._client)

    # ---- life --------------------------------------------------------------------------------------------------

    async def serve(
        self,
        *,
        workers: int | None = None,
        app: str | None = None,
        executors: int = 1,
        signals: Sequence[int] | bool | None = None,
        task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Open the store, run the whole tree until cancelled or told to stop, close.

        As ``trio.run``'s main task, SIGTERM and SIGINT drain it and it returns; a second one kills the process at once.
        ``signals=`` names other signals, ``False`` none. ``workers`` and ``app``: instead of the engine's own.
        ``executors``: how many processes are started together to serve this store; the first of them leaves runs
        that wait to the others, for two seconds. Worker processes are told by their parent.

        *Cancellation:* drains for ``grace_seconds``, then detaches. Nothing fails, nothing is cancelled by it.
        *Durability:* whatever was acknowledged goes on in the next process that serves.

        Raises:
            StoreError: the store cannot be opened.
            ValueError: ``workers`` without ``app``, or on a store in memory.
            WorkerFailed: worker processes cannot be started, as when ``app`` cannot be imported, or serves when it is.
            ExceptionGroup: a service has failed for good; names which.
        """
        await self._serving.serve(
            self._serving.workers(workers, app),
            executors=executors,
            signals=signals,
            started=lambda: task_status.started(self),
        )

    async def __aenter__(self) -> Self:
        """Open the store as a client: start, signal, cancel, list, watch; execute nothing."""
        await self._serving.open_client()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close a client; twice is nothing. Calls after it raise ``trio.ClosedResourceError``.

        Raises:
            RuntimeError: it was opened by another ``trio.run``.
        """
        await self._serving.close_client()

    # ---- runs --------------------------------------------------------------------------------------------------

    @overload
    async def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> Run[Any]: ...
    @overload
    async def start(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[R]: ...
    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> Run[Any]:  # type: ignore[misc]  # takes *Ts
        """Store a new run and return its handle; whoever serves executes it.

        Args:
            workflow: the workflow, or the name of one, which this engine need not know: such a run is ``pending``
                until somebody serves who knows it, also if the name is mistyped (``status().unknown_workflows``).
            args: the run's arguments, after the context. Those that are left out are stored with the defaults of now;
                an engine that does not know the workflow leaves them to the code that runs it.
            id: the run's id; default a new UUID. The same id again is the same run, if workflow and arguments are the
                same: in these words, or as the code of now reads what is stored.
            queue: a name to list runs by.
            priority: higher ones are taken first.
            delay, at: begin that many seconds from now, or at that instant.
            ttl: seconds from now after which the run fails with ``RunExpired``; default the workflow's.
            tags: to list and watch by, beside the workflow's.

        *Cancellation:* a cancel point before anything is stored; the commit is waited for.
        *Durability:* once it returns, the run is stored and will be executed.

        Raises:
            UnknownWorkflow: a workflow, not a name, that this engine, which executes, was not given; a client may
                start any.
            RunConflict: there is a run with this id, with another workflow or other arguments.
            CodecError, PayloadTooLarge: an argument cannot be stored.
            TypeError, ValueError: wrong arguments or options, or a name that cannot be stored.
        """
        begun = await self._client.start(workflow, args, cast(StartOptions, options))
        return Run(self._client, begun.run_id, begun.workflow)

    async def run(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[StartOptions]) -> R:
        """Start a run and wait for its result; arguments and options are those of ``start``.

        *Cancellation:* ends the wait, not the run.

        Raises:
            RunFailed, RunCancelled, RunExpired: as ``Run.result``.
        """
        begun = await self._client.start(workflow, args, options)
        return cast(R, await result_of(self._client, begun.run_id, begun.workflow, is_new=begun.is_new))

    @overload
    def get(self, run_id: str, workflow: None = None) -> Run[Any]: ...
    @overload
    def get(self, run_id: str, workflow: Workflow[..., R]) -> Run[R]: ...
    def get(self, run_id: str, workflow: Workflow[..., Any] | None = None) -> Run[Any]:
        """Return a handle to a run, without looking whether there is one. ``workflow`` types the result."""
        return Run(self._client, check_name("run id", run_id), workflow)

    def inline(self, run_id: str, *, input: Any = None) -> AbstractAsyncContextManager[Context]:
        """Durable steps in an ordinary trio block: ``async with engine.inline("import-7") as ctx: …``, for scripts.

        Normal exit completes the run. An exception leaves it as it is, uncompensated; entered again with the same id
        it goes on: calls that were recorded give back their outcomes.

        Args:
            input: a plain JSON value that is stored with the run; the same each time.

        *Cancellation:* waits for the outcome of a step that has come out to be stored, but no longer than 10 s.

        Raises:
            RunConflict: another block holds the run, it was begun with another input, or its rows are damaged.
            RunFinished: it has completed, or was cancelled.
            RunCancelled: at the end of the block, if the run was cancelled or abandoned meanwhile.
            NonDeterminismError: the block does not do what the run has recorded: as it is parked with.
            OwnershipLost: this process was taken for dead, its engine was closed, or the block was left while the store
                took nothing; enter it again.
            StoreError: the store has failed.
            DurableError: because of a fault of this library, with which the run is parked.
        """
        return open_inline(self._client.services_in_use(), check_name("run id", run_id), input)

    # ---- messages ----------------------------------------------------------------------------------------------

    async def send_signal(self, run_id: str, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal to a run: a plain JSON value under a name.

        The same ``id`` twice to one run is one signal. If the run's workflow says which signals it takes
        (``@workflow(signals=…)``) and this engine knows it, the payload is a value of that type, or the JSON of one.
        A payload of a class is otherwise stored by its own class.

        *Durability:* once it returns, the signal is stored and will be given to the run once.

        Raises:
            RunNotFound: there is no such run.
            RunFinished: it has ended.
            MailboxFull: it has ``unread_signals_max`` unread signals; nothing was sent.
            RunConflict: the run has a signal with this id and another name or payload.
            CodecError: the payload cannot be stored, or is not of the type that the workflow names; nothing was sent.
            ValueError: the workflow names its signals, and this is none of them; or no name or id.
        """
        await self._client.send_signal(check_name("run id", run_id), name, payload, id)

    async def cancel(self, run_id: str, *, reason: str | None = None) -> bool:
        """Ask a run to cancel: its body is cancelled, its steps are compensated, then it is ``cancelled``.

        Returns:
            True: requested; asking again is also True. False: its body had already ended, nothing changed.

        Raises:
            RunNotFound: there is no such run.
        """
        return await self._client.cancel(run_id, reason)

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
            MailboxFull: it has ``unread_signals_max`` unread signals; nothing was sent.
        """
        begun = await self._client.signal_with_start(
            workflow,
            args,
            cast(StartOptions, {**options, "id": id}),
            signal=signal,
            payload=payload,
            signal_id=signal_id,
        )
        return Run(self._client, begun.run_id, begun.workflow)

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
        """Return runs, newest first. ``limit`` is at most 1000; ``cursor`` is a page's ``next_cursor``.

        Args:
            parked: only those that no living code fits, or that are damaged.
            retrying: only those with a step that has failed and is tried again.
            overdue: only those that were due half a minute ago, and that nobody has taken.
            sort: ``"newest"``; ``"oldest"`` first; ``"changed"``: what has changed last comes first, so that a run
                which changes between two pages may be missing from both; ``"ended"``: what has ended last comes first,
                and what has not ended is left out.

        Raises:
            ValueError: an unknown status or order, a cursor that no page of it gave, a limit out of range.
            TypeError: a filter or a cursor of another type.
        """
        which = runs_filter(
            self._client,
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
        )
        return await page_of(self._client, which, sort=sort, limit=limit, cursor=cursor)

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
            queue, created_after, created_before: as ``list_runs``.
            overdue: instead of changes, runs that are overdue (``list_runs``), and others once each as they become so,
                in the order in which they were due, with the reason in ``waits_for``. One that comes free with a due
                time from before those that were told, as from an executor that has hung, is not told. It goes with all
                but ``run_id``, and has cursors of its own.
            since: the ``changes.cursor`` of another watch, also of a process that has died since: not the present
                state comes first, but what has changed after the state that had this cursor. A watcher that keeps the
                cursor with what it does of a state is given each final state once, however often it is killed.
                ``"now"``: only what changes from now on; ``"beginning"``: everything. It goes with no ``run_id``.

        A run that is deleted or pruned gives no more records. If that happens before its end was seen here, the
        iteration of a watch with ``run_id`` raises ``RunNotFound``, within some seconds.

        *Cancellation:* of a wait for the next record loses nothing.

        Any number of watches cost the store no more queries than one, after the reading of the present state.

        Raises:
            RunNotFound: on entry, for an unknown ``run_id``.
            ValueError: an unknown status; a ``since`` that no watch gave, or one of a later state than this store is
                in: it was restored from a copy, or is another one.
            trio.ClosedResourceError: from the iteration, once the engine is closed.
        """
        if run_id is not None:
            run_id = check_name("run id", run_id)
            if since is not None:
                raise ValueError("a watch of one run begins with its present state; leave out since")
        which = runs_filter(
            self._client,
            run_id=run_id,
            status=status,
            workflow=workflow,
            tags=tags,
            queue=queue,
            created_after=created_after,
            created_before=created_before,
        )
        if exact_bool(overdue, what="overdue"):
            if run_id is not None:
                raise ValueError("a watch of one run tells all that becomes of it; leave out overdue")
            after = (0, 0) if since is None or since == BEGINNING else read_overdue_cursor(since)
            return watch_overdue(self._client, which, after)
        return self._client.watch(which, since=since)

    async def stats(
        self, *, workflow: str | Workflow[..., Any] | None = None, since: datetime | None = None
    ) -> tuple[WorkflowStats, ...]:
        """Return what the runs of each workflow have come to, by name.

        It counts in an index, and reads the newest thousand completed runs of each workflow for their durations.

        Args:
            workflow: only this one.
            since: only runs created after that; the oldest unfinished one is that of all.
        """
        which = make_filter(workflow=workflow)
        after = None if since is None else from_datetime(since, what="since")
        question = CountByWorkflow(workflow=which.workflow, since=after, durations_max=DURATIONS_MAX)
        return tuple(map(workflow_stats, await self._client.services_in_use().writer.ask(question)))

    async def errors(
        self,
        *,
        workflow: str | Workflow[..., Any] | None = None,
        since: datetime | None = None,
        limit: int = FAILURES_READ_MAX,
    ) -> tuple[ErrorGroup, ...]:
        """Return what runs have failed with, the most frequent failure first, and an example of each.

        Runs count as the same failure if the types of their errors are the same, and the first lines of their texts but
        for numbers and ids in them. A run that has failed with several, in the branches of a nursery say, counts for
        each of them.

        Args:
            workflow: only runs of this workflow.
            since: only runs that ended after that.
            limit: how many failed runs are read at most, the last ones; some milliseconds for a hundred.

        Raises:
            ValueError: ``limit`` is below 1.
        """
        return (await self._client.errors(workflow, since, limit)).groups

    def connect(self) -> Any:
        """Return a new connection to the engine's database, for tables of your own; close it yourself.

        It may be called from any thread, and the connection belongs to that one. Of an SQLite database it is one of
        ``durable_trio.sqlite3``, and the one supported way to open it inside a process that uses an engine on it: a
        second SQLite library on the same file in one process cancels the locks of the first.
        """
        self._client.open_services()
        return self._client.store.connect()

    async def status(self) -> EngineStatus:
        """Return what the engine and its store look like now."""
        return await status_of(self._client)

    async def versions(self) -> tuple[VersionRecord, ...]:
        """Return the versions of all workflows, with their code, who serves them, and how many runs need them."""
        return await versions(self._client.services_in_use())

    def tree(self) -> TreeNode:
        """Return this process's supervision tree as data, with the runs that are in memory."""
        services = self._client.services_in_use()
        return with_runs(self._root.tree(), services.resident_rows)

    def events(self) -> EventStream:
        """Return what happens from now on in this process's supervision tree: starts, ends and restarts of children.

        Iterate over it; the iteration ends when the engine is closed. A listener that is too slow loses the oldest
        events and is told how many.
        """
        self._client.services_in_use()
        return self._root.events()

    def format_tree(self) -> str:
        """Draw ``tree()`` as text."""
        return format_tree(self.tree(), children_max=_CHILDREN_DRAWN_MAX)

    async def rehearse(
        self, *, workflow: str | Workflow[..., Any] | None = None, sample: int | None = None
    ) -> Rehearsal:
        """Replay the unfinished runs with this engine's code, to learn which of them it would refuse.

        Of each run all that is recorded is given to the body, and nothing more happens: no call begins, nothing is
        written, nobody is told. What bodies do outside of durable calls they do here too, as at every replay. Parked
        runs are rehearsed as well. Each is judged by what was recorded when it was read, some at a time.

        It shares the event loop: code that blocks that blocks this process. ``durable-trio rehearse`` does it in a
        process of its own, and only reads.

        Args:
            workflow: only runs of this workflow.
            sample: only so many runs, the same share of each workflow and last recorded call.

        *Cancellation:* at once; bodies leave as they do when a server drains.

        Raises:
            ValueError: ``sample`` is below 1.
        """
        if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int) or sample < 1):
            raise ValueError(f"sample must be a whole number of at least 1, not {sample!r}")
        name = make_filter(workflow=workflow).workflow
        return await rehearse(self._client.code, workflow=name, sample=sample)

    async def processes(self) -> tuple[ProcessReport, ...]:
        """Return what the processes that serve this store say of themselves, the longest running first.

        Each says so when its supervision tree changes; those of another machine are taken for alive. A store in
        memory has none.
        """
        return await self._client.services_in_use().reports.read()

    async def trees(self) -> tuple[TreeNode, ...]:
        """Return the supervision trees of all servers of this store, each with those of its worker processes."""
        return merged(await self.processes(), now=self._client.settings.clock.stamp())

    # ---- going on, and removing --------------------------------------------------------------------------------

    async def resume(self, run_id: str, *, version: int | None = None) -> Run[Any]:
        """Let a parked run go on, or a failed or cancelled one none of whose compensation has run.

        One that was abandoned goes on as well, if none of its steps had a compensation that was still to run.

        It goes on from its history, without the failures or the cancel at its end. A failure after which the body went
        on stays, and what has completed stays.

        Args:
            version: of its workflow, that the run has from now on. Then it may also be one that waits, such as for a
                version that is served nowhere any more, but none that is executed just now.

        *Cancellation:* of a long history a part may have been cut then; resume the run again.

        Raises:
            RunNotFound: there is no such run.
            RunConflict: it is in no such state; or it is the child of a run that was compensated.
        """
        return self._run_of(await resuming.resume(self._client, run_id, version))

    async def abandon(self, run_id: str, *, reason: str | None = None) -> tuple[StepInHand, ...]:
        """End a run that no code ends: at once, whoever owns it, in whatever state it is.

        It is ``cancelled``, with a ``RunCancelled`` that says ``abandoned``. Nothing of it is executed for that: steps
        with a compensation are not undone, and each of them is among its ``compensation_errors``. Children that it has
        started, and that have not ended, are asked to cancel; a parent is told. To have its steps undone, cancel it.

        A step function that is executing is cancelled as soon as its process learns of it, if it can be; its outcome is
        not recorded.

        Args:
            reason: why; it is shown with the run.

        Returns:
            The steps that were executing.

        Raises:
            RunNotFound: there is no such run.
            RunFinished: it has ended.
            CodecError: the reason is too large.
        """
        return await abandoning.abandon(self._client, run_id, reason)

    async def fork(self, run_id: str, *, before: str, id: str | None = None, signals: bool = False) -> Run[Any]:
        """Start a new run with the history of another up to, not including, the row with the key ``before``.

        Steps that are copied are not compensated by the new run. One that the other has undone passes for done all the
        same: begin before the first of them. What the other has done from there on is done again,
        under other idempotency keys. The other stays as it is: cancel it, or abandon it.

        Args:
            before: a key as ``steps`` gives it.
            id: that of the new run; default a new UUID.
            signals: also copy the signals that are unread, and those that were taken from there on, in order of
                arrival. One that was taken before and had an id is known, if it is sent to the new run again.

        *Cancellation:* a copy that is not complete is never seen, and is removed by whoever serves.

        Raises:
            RunNotFound: there is no such run.
            ValueError: it has no row of that key, or that is no key.
            TypeError: ``before`` is no ``str``.
            RunConflict: there is a run with the new id; or what is stored of the run is damaged.
        """
        return self._run_of(await forks.fork(self._client, run_id, before, id, signals=signals))

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
        await removals.delete(self._client, run_id)

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
        return await removals.prune(self._client, from_datetime(before, what="before"), statuses_of(status), progress)

    # ---- many runs ---------------------------------------------------------------------------------------------

    def cancel_runs(self, *, reason: str | None = None, **which: Unpack[RunsFilter]) -> Bulk:
        """Ask all runs of a filter to cancel, as ``cancel`` does: ``async for progress in engine.cancel_runs(…)``.

        The newest first, and a few at once, which share a commit: one, then two, then four, at most 64; each few when
        the iterator is asked for the first of them. One that has changed by then, and matches no more, is passed over.

        Args:
            reason: why; it is shown with each.
            which: filters as ``list_runs`` takes them; without ``status`` those that have not ended.

        *Cancellation:* what is done stays done, and ``done_count`` of the iterator tells how many these are, also
        those that were not given yet; so for all of these.

        Raises:
            ValueError: no filter at all, which would be every run; or as ``list_runs``.
        """
        return bulk.cancel_runs(self._client, reason, which)

    def abandon_runs(self, *, reason: str | None = None, **which: Unpack[RunsFilter]) -> Bulk:
        """End all runs of a filter without their code, as ``abandon`` does; else as ``cancel_runs``."""
        return bulk.abandon_runs(self._client, reason, which)

    def resume_runs(self, *, version: int | None = None, **which: Unpack[RunsFilter]) -> Bulk:
        """Let all runs of a filter go on, as ``resume`` does, with that version; else as ``cancel_runs``.

        A child goes on before its parent. With neither ``status`` nor ``parked`` it is for those that are parked, have
        failed or were cancelled. One that cannot go on is left, and its ``refusal`` says why.
        """
        return bulk.resume_runs(self._client, version, which)

    def delete_runs(self, **which: Unpack[RunsFilter]) -> Bulk:
        """Remove all runs of a filter, as ``delete`` does; else as ``cancel_runs``.

        Without ``status`` it is for those that have ended. A child whose parent goes on is left, for that may still ask
        for its result: ``delete`` removes it. What has ended long ago is removed faster by ``prune``.
        """
        return bulk.delete_runs(self._client, which)

    # ---- handles -----------------------------------------------------------------------------------------------

    def _run_of(self, row: RunRow) -> Run[Any]:
        return Run(self._client, row.id, self._client.registry.at((row.workflow, row.version)))

    @property
    def _root(self) -> Supervisor:
        assert self._serving.root is not None
        return self._serving.root


@asynccontextmanager
async def open_engine(store: str | PathLike[str] | Store, **options: Unpack[OpenOptions]) -> AsyncIterator[Engine]:
    """Serve in the background of a block: ``async with open_engine("app.db", workflows=[order]) as engine:``.

    Takes the options of ``Engine``. At the block's end the engine drains and closes. An exception of the block
    comes out as itself; a failure of the engine's as an ``ExceptionGroup``.
    """
    engine = Engine(store, **options)
    serving = engine._serving
    async with serving.in_background(serving.workers(None, None)):
        yield engine
