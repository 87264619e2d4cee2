"""``Run``: a handle to one run, without I/O of its own."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from durable_trio.codec import UNANNOTATED
from durable_trio.engine.reading import rebuilt_error, step_record
from durable_trio.errors import RunCancelled, RunExpired, RunFailed
from durable_trio.records import RunRecord, RunStatus, StepRecord
from durable_trio.workflow import Workflow

if TYPE_CHECKING:
    from durable_trio.engine.engine import Engine
    from durable_trio.engine.watching import Changes

R = TypeVar("R")


class Run(Generic[R]):
    """One run of a workflow, by its id. Made by ``engine.start`` and ``engine.get``."""

    def __init__(self, engine: Engine, run_id: str, workflow: Workflow[..., R] | None) -> None:
        self._engine = engine
        self._workflow = workflow
        self.id = run_id

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    async def result(self) -> R:
        """Wait until the run has ended, and return its result.

        *Cancellation:* ends the wait, not the run.

        Raises:
            RunFailed: it failed; ``error`` tells why.
            RunCancelled: it was cancelled.
            RunExpired: it did not end within its time to live.
            RunNotFound: there is no such run.
        """
        return await self._result()

    async def _result(self, *, is_new: bool = False) -> R:
        engine = self._engine
        ending = await engine._tree_in_use().feed.wait_ended(self.id, is_new=is_new)
        if ending.status is RunStatus.COMPLETED:
            workflow = self._workflow or await engine._workflow_of(self.id)
            annotation = UNANNOTATED if workflow is None else workflow.result_type
            where = f"the result of run {self.id!r}"
            return cast(R, engine._codec.decode(ending.result or "null", annotation, where=where))
        failures = engine._failures_of(self._workflow or await engine._workflow_of(self.id))
        error = None if ending.error is None else rebuilt_error(ending.error, failures)
        if ending.status is RunStatus.CANCELLED:
            if isinstance(error, RunCancelled):
                raise error
            raise RunCancelled(f"run {self.id!r} was cancelled", run_id=self.id)
        if isinstance(error, RunExpired):
            raise error
        raise RunFailed(f"run {self.id!r} failed: {_text(error)}", run_id=self.id, error=error)

    async def record(self) -> RunRecord:
        """Return the run as it is stored now.

        Raises:
            RunNotFound: there is no such run.
        """
        return await self._engine._record(self.id)

    async def steps(self) -> tuple[StepRecord, ...]:
        """Return the rows of the run's history, in order.

        Raises:
            RunNotFound: there is no such run.
        """
        row = await self._engine._row(self.id)
        front = self._engine._tree_in_use().front
        history = await front.read(front.store.history, row.run)
        return tuple(step_record(item, self._engine._codec) for item in history)

    async def signal(self, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal to the run; see ``engine.send_signal``."""
        await self._engine.send_signal(self.id, name, payload, id=id)

    async def cancel(self, reason: str | None = None, *, wait: bool = False) -> bool:
        """Ask the run to cancel; see ``engine.cancel``. With ``wait``, return once its final status is durable."""
        requested = await self._engine.cancel(self.id, reason=reason)
        if wait:
            await self._engine._tree_in_use().feed.wait_ended(self.id)
        return requested

    def watch(self) -> AbstractAsyncContextManager[Changes]:
        """Watch the run until it has ended; see ``engine.watch``."""
        return self._engine.watch(run_id=self.id)

    async def value(self, key: str) -> Any:
        """Return what the run has published under ``key``, or ``None``.

        Raises:
            RunNotFound: there is no such run.
        """
        return (await self.values()).get(key)

    async def values(self) -> dict[str, Any]:
        """Return all that the run has published.

        Raises:
            RunNotFound: there is no such run.
        """
        return dict((await self.record()).values)


def _text(error: object) -> str:
    message = getattr(error, "message", None) or str(error)
    name = getattr(error, "type", None)
    return f"{name if isinstance(name, str) and name else type(error).__name__}: {message}"
