"""The part of a context that starts other runs: ``start_child`` and ``run_child``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

import trio

from durable_trio.calls.child import ChildEndCall, StartChildCall
from durable_trio.calls.saga import Compensation
from durable_trio.calls.step import NO_RETRY, FunctionCall, FunctionOptions
from durable_trio.codec import UNANNOTATED
from durable_trio.context.base import ContextBase
from durable_trio.looks import exact_bool, is_a, short
from durable_trio.options import check_options
from durable_trio.policies import Retry
from durable_trio.records import Key, StepKind
from durable_trio.rules.randomness import child_id
from durable_trio.starting import StartOptions, start_operation
from durable_trio.workflows import Startable, Workflow

Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class ChildOptions(StartOptions, total=False):
    """The keyword options of ``ctx.start_child``: those of ``engine.start``, and whether the parent lets go of it."""

    detached: bool


class RunChildOptions(StartOptions, total=False):
    """The keyword options of ``ctx.run_child``: those of ``engine.start``, and how the child is undone."""

    compensate: Callable[[Any], Any] | None
    compensate_retry: Retry | None


class ChildRun(Generic[R]):
    """A child that the run has started."""

    def __init__(self, owner: ContextBase, run_id: str, name: str, result_type: Any) -> None:
        self.id = run_id
        self._owner = owner
        self._name = name
        self._result_type = result_type

    def __repr__(self) -> str:
        return f"ChildRun({self.id!r})"

    async def result(self) -> R:
        """Wait until the child has ended, and return its result.

        *Cancellation:* ends the wait, not the child.

        Raises:
            RunFailed, RunCancelled, RunExpired: it did not complete.
        """
        result: R = await self._end(is_unabortable=False, cancels=False)
        return result

    async def cancel(self) -> bool:
        """Ask the child to cancel; see ``engine.cancel``. Recorded: asked once."""
        context = self._owner.env.context_of_current_task()
        env = context.env
        key = context.reserve_key(f"{self._name} cancel")
        call = FunctionCall(
            env, StepKind.STEP, key, env.host.cancel_and_tell, (self.id,), FunctionOptions(returns=bool)
        )
        requested: bool = env.deliver(call, await env.turns.perform(call), bool)
        return requested

    async def _end(
        self,
        *,
        is_unabortable: bool,
        cancels: bool,
        compensate: Callable[[Any], Any] | None = None,
        compensate_retry: Retry | None = None,
    ) -> Any:
        context = self._owner.env.context_of_current_task()
        env = context.env
        call = ChildEndCall(
            env,
            context.reserve_key(f"{self._name} result"),
            self.id,
            is_unabortable=is_unabortable,
            cancels=cancels,
            compensates=compensate is not None,
        )
        row = await env.turns.perform(call)
        if self.id in env.children:
            env.children[self.id] = True
        result = env.deliver(call, row, self._result_type)
        if row.compensates and compensate is not None:
            undo = Compensation(step=row.key, fn=compensate, result=result, retry=compensate_retry or NO_RETRY)
            env.saga.register(row.seq, undo)
        return result


class ChildMethods(ContextBase):
    """Runs that belong to this run."""

    @overload
    async def start_child(self, workflow: str, /, *args: Any, **options: Unpack[ChildOptions]) -> ChildRun[Any]: ...
    @overload
    async def start_child(
        self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[ChildOptions]
    ) -> ChildRun[R]: ...
    async def start_child(  # type: ignore[misc]  # takes *Ts
        self, workflow: Any, /, *args: Any, **options: Any
    ) -> ChildRun[Any]:
        """Start a child run: exactly one for this call, whatever crashes.

        The run does not end before its children have; if it fails or is cancelled, they are cancelled first.

        Args:
            id: the child's id; default one made of the run's.
            detached: let the child live on by itself.
            options: those of ``engine.start``.

        Raises:
            RunConflict: there is a run with that id already.
        """
        self._check_task()
        check_options("start_child", options, ChildOptions.__annotations__, arguments="arguments of the workflow")
        detached = exact_bool(options.pop("detached", False), what="detached")
        env = self._env
        if not is_a(workflow, (Workflow, str)):
            raise TypeError(
                f"start_child takes a workflow or its name, not {short(workflow)}; decorate the function with @workflow"
            )
        key = self._next_key("workflow name", workflow.name if is_a(workflow, Workflow) else workflow)
        name = key.name
        if options.get("id") is None:
            options["id"] = child_id(env.seed, env.run_id, env.generation, key)
        operation = self._encode_again(
            lambda codec: start_operation(
                workflow, args, cast(StartOptions, options), registry=env.registry, codec=codec, clock=env.clock
            ),
            is_recorded=lambda: env.turns.history.has(key),
        )
        call = StartChildCall(env, key, operation)
        row = await env.turns.perform(call)
        run_id: str = env.deliver(call, row, str)
        if not detached and row.attempt:  # in a fork, those that were copied belong to the original
            env.children[run_id] = False
        known = workflow if is_a(workflow, Workflow) else env.registry.get(name)
        return ChildRun(self, run_id, name, UNANNOTATED if known is None else known.result_type)

    @overload
    async def run_child(self, workflow: str, /, *args: Any, **options: Unpack[RunChildOptions]) -> Any: ...
    @overload
    async def run_child(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[RunChildOptions]) -> R: ...
    async def run_child(self, workflow: Any, /, *args: Any, **options: Any) -> Any:  # type: ignore[misc]  # takes *Ts
        """Start a child run and wait for its result.

        Args:
            compensate: ``compensate(result)`` undoes the child if this run fails later.
            options: those of ``engine.start``.

        *Cancellation:* cancels the child and waits for its end.

        Raises:
            RunFailed, RunCancelled, RunExpired: it did not complete.
        """
        check_options("run_child", options, RunChildOptions.__annotations__, arguments="arguments of the workflow")
        compensate = options.pop("compensate", None)
        compensate_retry = options.pop("compensate_retry", None)
        child = await self.start_child(workflow, *args, **options)
        try:
            return await child._end(
                is_unabortable=True, cancels=False, compensate=compensate, compensate_retry=compensate_retry
            )
        except Exception:
            await trio.lowlevel.checkpoint_if_cancelled()  # it ended because this call was cancelled
            raise


def end_key(run_id: str) -> Key:
    """Return the key under which the end of a child that nobody awaited is recorded."""
    return Key("(end)", run_id, 0)
