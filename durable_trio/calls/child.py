"""The calls behind children: the start of one, and the wait for its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import trio

from durable_trio.calls.body import Body, Branch, check_json
from durable_trio.calls.saga import Compensation
from durable_trio.calls.step import FunctionCall
from durable_trio.calls.step_options import NO_RETRY, FunctionOptions
from durable_trio.clock import due_after
from durable_trio.codec import UNANNOTATED
from durable_trio.errors import CodecError, RunCancelled, RunConflict, RunExpired, RunFailed, RunNotFound
from durable_trio.failures import CannotRebuild, cause_of, describe
from durable_trio.looks import exact_bool, is_a, short, text_of
from durable_trio.options import check_options
from durable_trio.policies import Retry
from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.randomness import child_id
from durable_trio.starting import StartOptions, start_operation
from durable_trio.stores.contract import StartRun
from durable_trio.turns.call import Call
from durable_trio.turns.quiet import BODY
from durable_trio.turns.stage import Stage
from durable_trio.workflows import Workflow

# How often a fork looks after a child that it has not started itself: the child's end is told to its parent only.
_LOOK_SECONDS = 5.0


class StartChildCall(Call):
    """Starts a child in the transaction of its row: one child per key, whatever crashes."""

    kind = StepKind.CHILD

    def __init__(
        self, body: Body, key: Key, operation: StartRun, workflow: Workflow[Any, Any] | None, *, detached: bool
    ) -> None:
        super().__init__(key)
        self._body = body
        self._operation = operation
        self._workflow = workflow
        self._detached = detached

    def go_live(self, now: int) -> None:
        body = self._body
        text = body.codec.own.encode(self._operation.id, str, where="a run id").text
        attempt = 0 if self._detached else 1  # 0: the run has no part in how the child goes on
        self.record(now=now, started_at=now, attempt=attempt, result=text, children=(self._operation,))

    def fire(self, now: int) -> None:
        raise AssertionError("it is never due")

    def deliver(self, row: HistoryRow) -> None:
        if self.stage is Stage.COMMITTED:
            known = self._workflow
            is_missed = known is not None and self._body.registry.is_missed(known)
            self._body.resident.child_started(self._operation.id, missed=known if is_missed else None)
        super().deliver(row)

    def conflicted(self, error: RunConflict) -> bool:
        now = self._body.clock.stamp()
        text, self.outcome = self._body.failures.encode(error, where=self._body.where("child", self.key))
        self.record(now=now, started_at=now, status=StepStatus.FAILED, error=text)
        return True


class ChildEndCall(Call):
    """Waits until a child has ended, and records how.

    With ``is_unabortable`` a cancelled scope cancels the child, and the call still waits for its end.
    """

    kind = StepKind.CHILD_END

    def __init__(
        self, body: Body, key: Key, child_id: str, *, is_unabortable: bool, cancels: bool, compensates: bool
    ) -> None:
        super().__init__(key)
        self.is_unabortable = is_unabortable
        self.waits_for_child = child_id
        self._body = body
        self._child_id = child_id
        self._cancels = cancels
        self._compensates = compensates
        self._child: RunRow | None = None
        self._looks_again = False

    def go_live(self, now: int) -> None:
        self.started_at = now
        if self._cancels or (self.is_unabortable and self.raise_cancel is not None):
            self._body.resident.request_cancel(self._child_id)
        self._look()

    def fire(self, now: int) -> None:
        self.child_ended()

    def cancel(self) -> None:
        if self.is_unabortable and self.stage is Stage.BEGUN:
            self._body.resident.request_cancel(self._child_id)

    def child_ended(self) -> None:
        if self.is_busy:
            self._looks_again = True
        elif self.stage is Stage.BEGUN:
            self._look()

    # ---- reading how it ended ----------------------------------------------------------------------------------

    def _look(self) -> None:
        self._looks_again = False
        self.lobby.busy(self)
        context = self.task_context.copy()  # the look before this one, which calls it, is made in its own
        context.run(BODY.set, None)
        self._body.tasks.start(context, self)

    async def run(self, scope: trio.CancelScope) -> None:
        """Read the child."""
        self._child = await self._body.resident.look_up(self._child_id)

    def ended(self) -> None:
        """The child was read."""
        if self.state.port.is_cut:
            return
        child = self._child
        if child is not None and (damage := _damage_of_end(child)) is not None:
            self._body.resident.refuse(damaged(self._body.run_id, damage))
            return
        if child is None or child.status.is_final:
            self._record_end(child)
        elif self._looks_again:
            self.lobby.emerged(self)
            self._look()
            return
        elif child.parent != self.state.port.fence.run:  # it was started by the run that this one is a fork of
            self.state.agenda.set_timer(self, due_after(self._body.clock.stamp(), _LOOK_SECONDS))
        self.lobby.emerged(self)

    def _record_end(self, child: RunRow | None) -> None:
        now = self._body.clock.stamp()
        if child is not None and child.status is RunStatus.COMPLETED:
            self.record(now=now, started_at=self.started_at, result=child.result, compensates=self._compensates)
            return
        error = self._error_of(child)
        text, self.outcome = self._body.failures.encode(error, where=self._body.where("child", self.key))
        self.record(now=now, started_at=self.started_at, status=StepStatus.FAILED, error=text)

    def _error_of(self, child: RunRow | None) -> Exception:
        if child is None:
            return RunNotFound(f"the child {self._child_id!r} is not stored any more", run_id=self._child_id)
        error: Any = None
        if child.error is not None:
            try:
                error = self._body.failures.decode(child.error)
            except (CannotRebuild, CodecError):
                error = describe(child.error)
        if child.status is RunStatus.CANCELLED:
            if isinstance(error, RunCancelled):
                return error
            return RunCancelled(f"the child {child.id!r} was cancelled", run_id=child.id)
        if isinstance(error, RunExpired) and error.run_id == child.id:  # else it is that of a child of the child
            return error
        text = text_of(error) if isinstance(error, BaseException) else str(error)
        failed = RunFailed(f"the child {child.id!r} failed: {text}", run_id=child.id, error=error)
        failed.__cause__ = cause_of(error)
        return failed


def _damage_of_end(child: RunRow) -> str | None:
    """Return what of a child's end cannot be read: it must not become part of the parent's history."""
    if child.finished_at is None:
        return None
    if child.damage is not None:
        return child.damage
    where = f"in table runs, the row with id {child.id!r}"
    try:
        if child.status is RunStatus.COMPLETED:
            check_json(child.result or "")
        elif child.error is not None:
            describe(child.error)
    except CodecError as error:
        return f"{where}, {'result' if child.status is RunStatus.COMPLETED else 'error'}: {error}"
    return None


class Child(NamedTuple):
    """A child as its calls know it."""

    run_id: str
    # Of its workflow, by which its keys are made.
    name: str
    result_type: Any


def end_key(run_id: str) -> Key:
    """Return the key under which the end of a child that nobody awaited is recorded."""
    return Key("(end)", run_id, 0)


class ChildOptions(StartOptions, total=False):
    """The keyword options of ``ctx.start_child``: those of ``engine.start``, and whether the parent lets go of it."""

    detached: bool


class RunChildOptions(StartOptions, total=False):
    """The keyword options of ``ctx.run_child``: those of ``engine.start``, and how the child is undone."""

    compensate: Callable[[Any], Any] | None
    compensate_retry: Retry | None


async def start_child(branch: Branch, workflow: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Child:
    """Start a child; see ``Context.start_child``."""
    branch.check_task()
    check_options("start_child", options, ChildOptions.__annotations__, arguments="arguments of the workflow")
    detached = exact_bool(options.pop("detached", False), what="detached")
    body = branch.body
    if not is_a(workflow, (Workflow, str)):
        raise TypeError(
            f"start_child takes a workflow or its name, not {short(workflow)}; decorate the function with @workflow"
        )
    key = branch.next_key("workflow name", workflow.name if is_a(workflow, Workflow) else workflow)
    name = key.name
    if options.get("id") is None:
        options["id"] = child_id(body.seed, body.run_id, body.generation, key)
    operation = branch.encode_again(
        lambda codec: start_operation(
            workflow, args, cast(StartOptions, options), registry=body.registry, codec=codec, clock=body.clock
        ),
        is_recorded=lambda: key in body.state.history.waiting,
    )
    call = StartChildCall(body, key, operation, workflow if is_a(workflow, Workflow) else None, detached=detached)
    row = await body.lobby.perform(call)
    run_id: str = body.deliver(call, row, str)
    if not detached and row.attempt:  # in a fork, those that were copied belong to the original
        body.children[run_id] = False
    known = workflow if is_a(workflow, Workflow) else body.registry.get(name)
    return Child(run_id, name, UNANNOTATED if known is None else known.result_type)


async def end_of_child(
    body: Body,
    child: Child,
    *,
    is_unabortable: bool = False,
    compensate: Callable[[Any], Any] | None = None,
    compensate_retry: Retry | None = None,
) -> Any:
    """Wait until a child has ended, and return its result or raise why it has none."""
    branch = body.branch_of_current_task()
    call = ChildEndCall(
        body,
        branch.reserve_key(f"{child.name} result"),
        child.run_id,
        is_unabortable=is_unabortable,
        cancels=False,
        compensates=compensate is not None,
    )
    row = await body.lobby.perform(call)
    if child.run_id in body.children:
        body.children[child.run_id] = True
    result = body.deliver(call, row, child.result_type)
    if row.compensates and compensate is not None:
        undo = Compensation(step=row.key, fn=compensate, result=result, retry=compensate_retry or NO_RETRY)
        body.saga.register(row.seq, undo)
    return result


async def cancel_child(body: Body, child: Child) -> bool:
    """Ask a child to cancel; recorded."""
    key = body.branch_of_current_task().reserve_key(f"{child.name} cancel")
    options = FunctionOptions(returns=bool)
    call = FunctionCall(body, StepKind.STEP, key, body.resident.cancel_and_tell, (child.run_id,), options)
    requested: bool = body.deliver(call, await body.lobby.perform(call), bool)
    return requested


async def run_child(branch: Branch, workflow: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Start a child and wait for its result; see ``Context.run_child``."""
    check_options("run_child", options, RunChildOptions.__annotations__, arguments="arguments of the workflow")
    compensate = options.pop("compensate", None)
    compensate_retry = options.pop("compensate_retry", None)
    child = await start_child(branch, workflow, args, options)
    try:
        return await end_of_child(
            branch.body, child, is_unabortable=True, compensate=compensate, compensate_retry=compensate_retry
        )
    except Exception:
        await trio.lowlevel.checkpoint_if_cancelled()  # it ended because this call was cancelled
        raise
