"""The part of the engine that starts runs and sends them messages."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack, cast, overload

from durable_trio.codec import UNANNOTATED
from durable_trio.context.context import Context
from durable_trio.doors import guarded
from durable_trio.engine.base import EngineBase
from durable_trio.engine.run import Run
from durable_trio.engine.runs.ending import cancelled
from durable_trio.engine.runs.inline import open_inline
from durable_trio.errors import RunConflict, UnknownWorkflow
from durable_trio.limits import check_name
from durable_trio.starting import SignalStartOptions, StartOptions, is_same_start, start_operation
from durable_trio.stores.contract import RequestCancel, SendSignal, SignalWithStart, Started, StartRun
from durable_trio.workflows import Startable, Workflow

Ts = TypeVarTuple("Ts")
R = TypeVar("R")
# Payloads of these types are stored as they are; others by their own type.
_JSON_TYPES: Final = (bool, int, float, str, list, dict)


class RunCalls(EngineBase):
    """Start, signal, cancel."""

    @overload
    async def start(self, workflow: str, /, *args: Any, **options: Unpack[StartOptions]) -> Run[Any]: ...
    @overload
    async def start(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[StartOptions]) -> Run[R]: ...
    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> Run[Any]:  # type: ignore[misc]  # takes *Ts
        """Store a new run and return its handle; whoever serves executes it.

        Args:
            workflow: the workflow, or the name of one, which this engine need not know.
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
            UnknownWorkflow: a workflow that this engine, which executes, was not given; a client may start any.
            RunConflict: there is a run with this id, with another workflow or other arguments.
            CodecError, PayloadTooLarge: an argument cannot be stored.
            TypeError, ValueError: wrong arguments or options, or a name that cannot be stored.
        """
        run, _ = await self._start(workflow, args, cast(StartOptions, options))
        return run

    async def _start(self, workflow: Any, args: tuple[Any, ...], options: StartOptions) -> tuple[Run[Any], bool]:
        """Return the run's handle, and whether it was stored in this very step of the task."""
        parts = self._parts_in_use()
        operation = self._start_operation(workflow, args, options)
        known = workflow if isinstance(workflow, Workflow) else self._registry.get(operation.workflow)
        try:
            is_new = await parts.start(operation)
        except RunConflict:
            if not await self._is_same(operation, known, args):
                raise
            is_new = False
        return self._handle(operation.id, known), is_new

    async def _is_same(self, operation: StartRun, workflow: Workflow[..., Any] | None, args: tuple[Any, ...]) -> bool:
        """Return whether the run that has the id of this one is the same, though it was started in other words."""
        front = self._parts_in_use().front
        row = await front.read(front.store.run, operation.id)
        if row is None or row.workflow != operation.workflow or row.generation:  # which has arguments of its own
            return False
        return is_same_start(workflow, row.args, args, codec=self._codec)

    def _start_operation(self, workflow: Any, args: tuple[Any, ...], options: StartOptions) -> StartRun:
        executes = self._parts_in_use().executor is not None
        if executes and isinstance(workflow, Workflow) and self._registry.get(workflow.name) is None:
            raise UnknownWorkflow(
                f"this engine executes runs but was not given the workflow {workflow.name!r}: name it in workflows=, "
                f"or start it by its name if another process serves it"
            )
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
        return self._handle(check_name("run id", run_id), workflow)

    def inline(self, run_id: str, *, input: Any = None) -> AbstractAsyncContextManager[Context]:
        """Durable steps in an ordinary trio block: ``async with engine.inline("import-7") as ctx: …``, for scripts.

        Normal exit completes the run. An exception leaves it as it is, uncompensated; entered again with the same id
        it goes on: calls that were recorded give back their outcomes.

        Args:
            input: a plain JSON value that is stored with the run; the same each time.

        *Cancellation:* waits for the outcome of a step that has come out to be stored, but no longer than 10 s.

        Raises:
            RunConflict: another block holds the run, or it was begun with another input.
            RunFinished: it has completed, or was cancelled.
            RunCancelled: at the end of the block, if the run was cancelled meanwhile.
            OwnershipLost: another executor has taken it over, or the block was left while the store took nothing.
        """
        return open_inline(self._parts_in_use(), check_name("run id", run_id), input)

    # ---- messages ----------------------------------------------------------------------------------------------

    async def send_signal(self, run_id: str, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal to a run: a plain JSON value under a name.

        The same ``id`` twice to one run is one signal.

        *Durability:* once it returns, the signal is stored and will be given to the run once.

        Raises:
            RunNotFound: there is no such run.
            RunFinished: it has ended.
            MailboxFull: it has ``unread_signals_max`` unread signals; nothing was sent.
            RunConflict: the run has a signal with this id and another name or payload.
            CodecError: the payload cannot be stored.
        """
        parts = self._parts_in_use()
        parts.sent(await parts.front.write(self._signal_operation(run_id, name, payload, id)))

    def _signal_operation(self, run_id: str, name: str, payload: Any, signal_id: str | None) -> SendSignal:
        run_id, name = check_name("run id", run_id), check_name("signal name", name)
        if signal_id is not None:
            signal_id = check_name("signal id", signal_id)
        is_json = payload is None or any(type(payload) is cls for cls in _JSON_TYPES)
        annotation = UNANNOTATED if is_json else type(payload)
        text = self._codec.encode(payload, annotation, where=f"the payload of signal {name!r}").text
        return SendSignal(
            run_id=run_id,
            name=name,
            payload=text,
            signal_id=signal_id,
            unread_max=self._settings.unread_signals_max,
            now=self._settings.clock.stamp(),
        )

    async def cancel(self, run_id: str, *, reason: str | None = None) -> bool:
        """Ask a run to cancel: its body is cancelled, its steps are compensated, then it is ``cancelled``.

        Returns:
            True: requested; asking again is also True. False: its body had already ended, nothing changed.

        Raises:
            RunNotFound: there is no such run.
        """
        parts = self._parts_in_use()
        run_id = check_name("run id", run_id)
        text = self._codec.encode(reason, str | None, where="the reason").text
        # A run that has not begun ends with the request itself, so its error goes along.
        error, _ = self._failures_of(None).encode(cancelled(run_id, reason), where="the error of a cancelled run")
        now = self._settings.clock.stamp()
        sent = await parts.front.write(RequestCancel(run_id=run_id, reason=text, error=error, now=now))
        if sent is None:
            return False
        parts.sent(sent)
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
            MailboxFull: it has ``unread_signals_max`` unread signals; nothing was sent.
        """
        parts = self._parts_in_use()
        start = self._start_operation(workflow, args, cast(StartOptions, {**options, "id": id}))
        send = self._signal_operation(id, signal, payload, signal_id)
        try:
            started: Started = await parts.front.write(SignalWithStart(start=start, signal=send))
        except RunConflict:
            known = workflow if isinstance(workflow, Workflow) else self._registry.get(start.workflow)
            if not await self._is_same(start, known, args):
                raise
            parts.sent(await parts.front.write(send))  # it is started
            return self._handle(id, known)
        if parts.executor is not None:
            parts.runs.mail(started.row.run)
            guarded(parts.dispatcher.nudge)
        return self._handle(id, self._registry.get(started.row.workflow))
