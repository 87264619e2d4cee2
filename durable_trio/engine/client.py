"""What an engine's facade and its handles both use: the checked way to its services, and what needs no tree."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, cast

import attrs
import trio

from durable_trio.clock import MICROSECONDS, from_datetime
from durable_trio.codec import UNANNOTATED, Codec, own_annotation
from durable_trio.engine.awaited import awaited_of
from durable_trio.engine.codes import Codes
from durable_trio.engine.failures_of import FailuresOf
from durable_trio.engine.filters import BEGINNING, make_filter, read_since
from durable_trio.engine.observers import Observers
from durable_trio.engine.records_of import run_record, step_in_hand
from durable_trio.engine.runs.ending import cancelled
from durable_trio.engine.runs.lending import LENDER, lending_place
from durable_trio.engine.runs.run_log import UNKNOWN_WORKFLOW, unknown_text
from durable_trio.engine.served import ServedCodes
from durable_trio.engine.settings import Settings
from durable_trio.engine.statistics import ErrorGroups, error_groups
from durable_trio.engine.waiting import Waiting
from durable_trio.engine.watching import Changes, Since, watch
from durable_trio.engine.wiring import Given, Services
from durable_trio.errors import CodecError, PayloadTooLarge, RunConflict, RunNotFound, UnknownWorkflow
from durable_trio.limits import OVERDUE_SECONDS, check_name
from durable_trio.logger import Logger
from durable_trio.looks import is_a
from durable_trio.records import RunRecord, StepInHand
from durable_trio.rehearsal.keeping import Code
from durable_trio.rows import RunEnd, RunRow
from durable_trio.starting import StartOptions, is_same_start, start_operation
from durable_trio.stores.contract import RequestCancel, SendSignal, SignalWithStart, Started, StartRun, Store
from durable_trio.stores.news_questions import Change
from durable_trio.stores.questions import FindRun, ListFailures, ListOpenSteps, ReadValues, RunFilter
from durable_trio.workflows import Registry, Workflow

_LOGGER: Final = Logger("durable_trio.runs")


def token_of_trio() -> trio.lowlevel.TrioToken:
    """Return the token of the ``trio.run`` that an engine is opened in.

    Raises:
        RuntimeError: this is no task of trio.
    """
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        raise RuntimeError("an engine needs trio: call trio.run(main); asyncio cannot run it") from None


class Begun(NamedTuple):
    """A run that was started, or was there already."""

    run_id: str
    # If this engine knows it.
    workflow: Workflow[..., Any] | None
    # It was stored in this very step of the task.
    is_new: bool


class Client:
    """One engine as its callers use it. It has services while the engine is open."""

    def __init__(
        self, store: Store, settings: Settings, registry: Registry, observers: Observers, *, engine: object
    ) -> None:
        self.store = store
        self.settings = settings
        self.registry = registry
        self.codec = Codec(payload_bytes_max=settings.payload_bytes_max, types=settings.types, aliases=settings.aliases)
        self.failures_of = FailuresOf(self.codec, settings.errors, settings.aliases)
        self.is_closed = False
        self.services: Services | None = None
        self.observers = observers
        self.given = Given(
            settings=settings,
            registry=registry,
            codec=self.codec,
            observers=observers,
            failures_of=self.failures_of,
            engine=engine,
        )
        self._waiting = Waiting(registry)
        # Where it was opened, and that thread's name.
        self._home: trio.lowlevel.TrioToken | None = None
        self._home_thread = ""

    # ---- the way to the services -------------------------------------------------------------------------------

    def settle(self) -> None:
        """The engine is being opened here, in this ``trio.run``.

        Raises:
            trio.ClosedResourceError, RuntimeError: it was closed, or is open; or this is no task of trio.
        """
        home = token_of_trio()
        if self.is_closed:
            raise trio.ClosedResourceError("this engine was closed; make a new one")
        if self.services is not None:
            raise RuntimeError(
                "this engine is in use already; `async with engine` makes it a client, which executes nothing:"
                " to serve, use `async with open_engine(…)`, or `serve` of another Engine"
            )
        self._home = home
        self._home_thread = threading.current_thread().name

    def make_services(self, *, executes: bool) -> Services:
        """Return new services; they are in use once they are assigned to ``services``."""
        return Services(self.store, self.given, executes=executes)

    def services_in_use(self) -> Services:
        """Return the services, for a call that needs them.

        Raises:
            RuntimeError: the engine is not open, or it was opened by another ``trio.run``; nothing has happened.
        """
        services = self.services or self.open_services()  # which says why there are none
        try:
            is_home = trio.lowlevel.current_trio_token() is self._home
        except RuntimeError:  # no trio in this thread
            is_home = False
        if not is_home:
            self._refuse_foreign()
        return services

    def open_services(self) -> Services:
        """Return the services, from wherever that is asked.

        Raises:
            RuntimeError: the engine is not open.
        """
        if self.services is None:
            if self.is_closed:
                raise trio.ClosedResourceError("the engine is closed")
            raise RuntimeError(
                "the engine is not open: use it while it serves, inside `async with open_engine(…)`, "
                "or as a client inside `async with Engine(…)`"
            )
        return self.services

    @property
    def code(self) -> Code:
        """What this engine's runs are rehearsed with."""
        services = self.services_in_use()
        served = self.served if services.executor is None else services.executor.runs.served
        return self.given.code(services.writer, served)

    @property
    def served(self) -> ServedCodes:
        """The codes of its workflows, which no store has been told yet."""
        return ServedCodes(Codes(self.settings.build), self.registry)

    def check_home(self) -> None:
        """Refuse a call from elsewhere: whatever is shared with the engine's tasks must be touched by them only."""
        try:
            here = trio.lowlevel.current_trio_token()
        except RuntimeError:  # no trio in this thread
            here = None
        if self._home is not None and here is not self._home:
            self._refuse_foreign()

    def _refuse_foreign(self) -> NoReturn:
        raise RuntimeError(
            f"the engine belongs to the trio.run of thread {self._home_thread!r}, and was called from elsewhere, in "
            f"thread {threading.current_thread().name!r}: from a thread write trio.from_thread.run(engine.start, …), "
            "with trio_token=… if trio has not made that thread; or open an engine of its own there, as a client"
        )

    # ---- looking -----------------------------------------------------------------------------------------------

    async def row(self, run_id: str) -> RunRow:
        """Return a run as it is stored.

        Raises:
            RunNotFound: there is no such run.
        """
        writer = self.services_in_use().writer
        row = await writer.ask(FindRun(run_id))
        if row is None:
            raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
        return row

    async def record(self, run_id: str) -> RunRecord:
        """Return a run as users see it; raise as ``row`` does."""
        row = await self.row(run_id)
        (record,) = await self.records([row])
        (waits_for,) = await awaited_of(self.services_in_use(), [row], self.settings.clock.stamp())
        return attrs.evolve(record, open_steps=await self.open_steps(row), waits_for=waits_for)

    async def open_steps(self, row: RunRow) -> tuple[StepInHand, ...]:
        """Return the steps of a run that its executor is at, or was when it died."""
        if row.owner is None:
            return ()
        services = self.services_in_use()
        if services.executor is not None and services.executor.id == row.owner:
            found = services.executor.runs.tellings.open_steps(row.run)
        else:
            found = await services.writer.ask(ListOpenSteps(row.run))
        return tuple(
            step_in_hand(step, row.id)
            for step in found.steps
            if (step.executor, step.token) == (row.owner, row.token)  # not what a former owner was at
        )

    async def records(self, rows: Sequence[RunRow]) -> list[RunRecord]:
        """Return runs as users see them."""
        writer = self.services_in_use().writer
        values = await writer.ask(ReadValues([row.run for row in rows]))
        return [self._converted(row, values.get(row.run, {})) for row in rows]

    def _converted(self, row: RunRow, values: Mapping[str, str]) -> RunRecord:
        workflow = self.registry.at((row.workflow, row.version))
        failures = self.failures_of(workflow)
        return run_record(row, codec=self.codec, workflow=workflow, failures=failures, values=values)

    async def workflow_of(self, run_id: str) -> Workflow[..., Any] | None:
        """Return the workflow of a run, if this engine knows it."""
        row = await self.row(run_id)
        return self.registry.at((row.workflow, row.version))

    @property
    def overdue_at(self) -> int:
        """What is due at this instant or before, and nobody's, is overdue."""
        return self.settings.clock.stamp() - OVERDUE_SECONDS * MICROSECONDS

    async def wait_ended(self, run_id: str, *, is_new: bool = False) -> RunEnd:
        """Return how a run has ended, once it has; the place of a run whose code waits is lent meanwhile."""
        services = self.services_in_use()
        # It is the code of no run that waits, and for one that is executed here: nobody need look whether it is.
        if LENDER.get() is None and run_id in services.residents:
            return await services.feed.wait_ended(run_id, is_new=is_new)
        with lending_place():
            return await self._waiting.wait_ended(services, run_id, is_new=is_new)

    def watch(self, which: RunFilter, *, since: str | None = None) -> AbstractAsyncContextManager[Changes]:
        """Watch the runs of a filter; see ``engine.watch``."""
        services = self.services_in_use()
        after = None
        if since is not None and since != BEGINNING:
            after = Since(read_since(self.store, since), since)

        def convert(change: Change) -> RunRecord:
            return self._converted(change.row, change.values)

        matches = self.matcher(which)
        return watch(services.writer, services.feed, which, convert=convert, matches=matches, since=after)

    async def errors(
        self, workflow: str | Workflow[..., Any] | None, since: datetime | None, limit: int
    ) -> ErrorGroups:
        """Return what runs have failed with, and how many were read; see ``engine.errors``."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit must be a whole number of at least 1, not {limit!r}")
        after = None if since is None else from_datetime(since, what="since")
        question = ListFailures(workflow=make_filter(workflow=workflow).workflow, since=after, limit=limit + 1)
        return await self.services_in_use().writer.ask_through(partial(error_groups, runs_max=limit), question)

    def matcher(self, which: RunFilter) -> Callable[[RunRow], bool]:
        """Return whether a run is one of a filter, as far as its row tells."""
        tags = dict(which.tags)

        def matches(row: RunRow) -> bool:
            if which.run_id is not None and row.id != which.run_id:
                return False
            if which.statuses is not None and row.status not in which.statuses:
                return False
            if which.workflow is not None and row.workflow != which.workflow:
                return False
            if which.queue is not None and row.queue != which.queue:
                return False
            if which.created_after is not None and not row.created_at > which.created_after:
                return False
            if which.created_before is not None and not row.created_at < which.created_before:
                return False
            if not tags:
                return True
            try:
                found = self.codec.decode(row.tags, dict[str, str], where="tags")
            except CodecError:
                return False  # damaged; the feed must not fail with it
            return all(found.get(key) == value for key, value in tags.items())

        return matches

    # ---- starting ----------------------------------------------------------------------------------------------

    async def start(self, workflow: Any, args: tuple[Any, ...], options: StartOptions) -> Begun:
        """Store a new run; see ``engine.start``."""
        services = self.services_in_use()
        operation, known = self._start_operation(workflow, args, options, services)
        try:
            if services.executor is not None:
                is_new = await services.executor.start(operation)
            else:
                is_new = (await services.writer.write(operation)).created
        except RunConflict:
            if not await self._is_same(operation, known, args):
                raise
            is_new = False
        return Begun(operation.id, known, is_new)

    def arguments_from_json(self, workflow: Workflow[..., Any], args: Sequence[Any]) -> tuple[Any, ...]:
        """Return JSON values as the arguments that a workflow takes, as it would find them stored.

        Raises:
            CodecError: one of them is of another type.
            TypeError: too few or too many.
        """
        where = f"the arguments of workflow {workflow.name!r}"
        text = self.codec.encode(list(args), UNANNOTATED, where=where).text
        return self.codec.decode_arguments(text, workflow.annotations_for, where=where, names=workflow.argument_names)

    @trio.lowlevel.enable_ki_protection  # as with a signal
    async def signal_with_start(
        self, workflow: Any, args: tuple[Any, ...], options: StartOptions, *, signal: str, payload: Any, signal_id: Any
    ) -> Begun:
        """Start a run unless it is there, and send it a signal; see ``engine.signal_with_start``."""
        services = self.services_in_use()
        start, known = self._start_operation(workflow, args, options, services)
        send = self._signal_operation(start.id, signal, payload, signal_id, known)
        try:
            started: Started = await services.writer.write(SignalWithStart(start=start, signal=send))
        except RunConflict:
            if not await self._is_same(start, known, args):
                raise
            services.sent(await services.writer.write(send))  # it is started
            return Begun(start.id, known, is_new=False)
        services.message_for(started.row.run)
        row = started.row
        return Begun(start.id, self.registry.at((row.workflow, row.version)), is_new=started.created)

    async def _is_same(self, operation: StartRun, workflow: Workflow[..., Any] | None, args: tuple[Any, ...]) -> bool:
        """Return whether the run that has the id of this one is the same, though it was started in other words."""
        writer = self.services_in_use().writer
        row = await writer.ask(FindRun(operation.id))
        if row is None or row.workflow != operation.workflow or row.generation:  # which has arguments of its own
            return False
        return is_same_start(workflow, row.args, args, codec=self.codec)

    def _start_operation(
        self, workflow: Any, args: tuple[Any, ...], options: StartOptions, services: Services
    ) -> tuple[StartRun, Workflow[..., Any] | None]:
        """Return what stores the run, and its workflow if this engine knows it."""
        operation = start_operation(
            workflow, args, options, registry=self.registry, codec=self.codec, clock=self.settings.clock
        )
        known = self.registry.at((operation.workflow, operation.version))
        if known is workflow or not is_a(workflow, Workflow):
            return operation, known
        if known is None and services.executor is not None:
            is_other = self.registry.get(operation.workflow) is not None
            which = f"version {operation.version} of the workflow" if is_other else "the workflow"
            raise UnknownWorkflow(
                f"this engine executes runs but was not given {which} {operation.workflow!r}: name it in "
                f"workflows=, or start it by its name if another process serves it"
            )
        if known is None and self.registry.is_missed(workflow):
            name, version = operation.workflow, workflow.version
            extra = {"event": UNKNOWN_WORKFLOW, "run_id": operation.id, "workflow": name, "version": version}
            what = "run %r is started of workflow %r, which this engine does not know. %s"
            _LOGGER.warning(what, operation.id, name, unknown_text(name, version), extra=extra)
        return operation, cast("Workflow[..., Any]", workflow)

    # ---- messages ----------------------------------------------------------------------------------------------

    # Ctrl-C must not come between the commit and telling the run of it, nor while that goes on with it.
    @trio.lowlevel.enable_ki_protection
    async def send_signal(
        self,
        run_id: str,
        name: str,
        payload: Any,
        signal_id: str | None,
        workflow: Workflow[..., Any] | None = None,
    ) -> None:
        """Send a signal to a run, of that workflow if it is known; see ``engine.send_signal``.

        The name of the signal is checked here, the run's id where it comes from.
        """
        services = self.services_in_use()
        if workflow is None and self.registry.has_signals:
            workflow = await self.workflow_of(run_id)
        services.sent(await services.writer.write(self._signal_operation(run_id, name, payload, signal_id, workflow)))

    def _signal_operation(
        self, run_id: str, name: str, payload: Any, signal_id: str | None, workflow: Workflow[..., Any] | None
    ) -> SendSignal:
        name = check_name("signal name", name)
        if signal_id is not None:
            signal_id = check_name("signal id", signal_id)
        where = f"the payload of signal {name!r}"
        if workflow is None or not workflow.signals:
            try:
                annotation = UNANNOTATED if payload is None else own_annotation(payload)
                text = self.codec.encode(payload, annotation, where=where).text
            except PayloadTooLarge:
                raise
            except CodecError as error:
                hint = f"{error}; or name its type: @workflow(signals={{{name!r}: …}})"
                raise CodecError(hint, where=error.where, path=error.path, type=error.type) from error.__cause__
        else:
            text = self._typed(payload, workflow.signal_type(name), where=f"{where} of workflow {workflow.name!r}")
        return SendSignal(
            run_id=run_id,
            name=name,
            payload=text,
            signal_id=signal_id,
            unread_max=self.settings.unread_signals_max,
            now=self.settings.clock.stamp(),
        )

    def _typed(self, payload: Any, annotation: Any, *, where: str) -> str:
        """Return the text of a payload of that type: it is of it, or the JSON of one, as it may come from elsewhere."""
        try:
            return self.codec.encode(payload, annotation, where=where).text
        except CodecError as error:
            if own_annotation(payload) is not UNANNOTATED:
                raise
            refused = error
        try:
            text = self.codec.encode(payload, UNANNOTATED, where=where).text
            self.codec.decode(text, annotation, where=where)
        except CodecError as error:
            raise (error if type(payload) is dict else refused) from None
        return text

    @trio.lowlevel.enable_ki_protection  # as with a signal
    async def cancel(self, run_id: str, reason: str | None) -> bool:
        """Ask a run to cancel; see ``engine.cancel``."""
        services = self.services_in_use()
        run_id = check_name("run id", run_id)
        text = self.codec.encode(reason, str | None, where="the reason").text
        # A run that has not begun ends with the request itself, so its error goes along.
        error, _ = self.failures_of(None).encode(cancelled(run_id, reason), where="the error of a cancelled run")
        now = self.settings.clock.stamp()
        sent = await services.writer.write(RequestCancel(run_id=run_id, reason=text, error=error, now=now))
        if sent is None:
            return False
        services.sent(sent)
        return True
