"""How a resident run ends: children first, then compensation, then the final status."""

from __future__ import annotations

from typing import Any

from durable_trio.context.child_calls import end_key
from durable_trio.context.children import ChildEndCall
from durable_trio.context.functions import FunctionCall, FunctionOptions
from durable_trio.engine.resident import ResidentRun
from durable_trio.errors import Detached, RunCancelled, RunExpired
from durable_trio.records import RunStatus, StepKind
from durable_trio.rules.compensation import compensation_key
from durable_trio.stores.base import Finish


class EndingRun(ResidentRun):
    """A resident run that knows how to end."""

    async def _end(self, error: Exception | None, result: str | None) -> None:
        turns = self._turns
        status = RunStatus.COMPLETED if error is None else RunStatus.FAILED
        if turns.is_expired:
            status = RunStatus.FAILED
            error = RunExpired(f"run {self.row.id!r} did not end within its time to live", run_id=self.row.id)
        elif self._cancel_row is not None:
            status = RunStatus.CANCELLED
            reason = self._around.codec.decode(self._cancel_row.result or "null", Any, where="a reason")
            error = cancelled(self.row.id, reason)
        error_text: str | None = None
        compensation_errors: list[str] = []
        if error is not None:
            result = None
            error_text, _ = self._failures.encode(error, where=f"the failure of run {self.row.id!r}")
            if self.row.status is RunStatus.COMPENSATING:  # what it began to compensate for stays the reason
                error_text = self.row.error or error_text
        with self._saga_scope:
            await self._end_children(cancels=error is not None)
            if error_text is not None:
                compensation_errors = await self._compensate(error_text)
        if self._port.is_cut:
            return
        rest = turns.history.next_of_body()
        if rest is not None or (error is None and self.row.status is RunStatus.COMPENSATING):
            self._diverged(rest)
            return
        finish = Finish(
            fence=self._port.fence,
            status=status,
            result=result,
            error=error_text,
            compensation_errors=f"[{','.join(compensation_errors)}]",
            now=self._clock.now(),
        )
        outcome = await turns.extend(lambda done: self._port.submit(finish, done))
        if outcome is not True:
            self.refused(outcome)
            return
        self._around.ended(self.row, status, result, error_text)
        self._tell("run_ended", {"status": status})

    async def _end_children(self, *, cancels: bool) -> None:
        """Wait for the children that nobody has awaited; a run does not end before them."""
        env = self._env
        for child_id, has_ended in list(env.children.items()):
            if not has_ended:
                call = ChildEndCall(
                    env, end_key(child_id), child_id, is_unabortable=True, cancels=cancels, compensates=False
                )
                await self._turns.perform(call)
                env.children[child_id] = True

    async def _compensate(self, error_text: str) -> list[str]:
        """Undo the completed steps, the last one first; return the failures' texts."""
        undo = self._env.saga.in_order()
        if not undo:
            return []
        turns = self._turns
        if self._port.status is not RunStatus.COMPENSATING:
            rest = turns.history.next_of_body()
            if rest is not None:
                self._diverged(rest)
                raise Detached
            outcome = await turns.extend(
                lambda done: self._port.advance(
                    done, status=RunStatus.COMPENSATING, error=error_text, now=self._clock.now()
                )
            )
            if outcome is not True:
                self.refused(outcome)
                raise Detached
            self._tell("run_compensating", {})
        errors: list[str] = []
        for item in undo:
            key = compensation_key(item.step)
            options = FunctionOptions(retry=item.retry)
            call = FunctionCall(self._env, StepKind.COMPENSATION, key, item.fn, (item.result,), options)
            row = await turns.perform(call)
            if row.error is not None:
                errors.append(row.error)
            self._tell("step_ended", {"key": str(key), "kind": row.kind, "status": row.status, "attempt": row.attempt})
        return errors


def cancelled(run_id: str, reason: str | None) -> RunCancelled:
    """Return the error of a run that was cancelled."""
    text = f"run {run_id!r} was cancelled" + (f": {reason}" if reason else "")
    return RunCancelled(text, run_id=run_id, reason=reason)
