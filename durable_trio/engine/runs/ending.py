"""How a resident run ends: children first, then compensation, then the final status."""

from __future__ import annotations

from typing import Any

from durable_trio.calls.child import ChildEndCall, end_key
from durable_trio.calls.saga import Compensation
from durable_trio.calls.step import FunctionCall
from durable_trio.calls.step_options import FunctionOptions
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.engine.services.damage import damage_in_look
from durable_trio.errors import Detached, RunCancelled, RunExpired
from durable_trio.records import RunStatus, StepKind
from durable_trio.rules.compensation import compensation_key
from durable_trio.rules.damage import damaged
from durable_trio.stores.contract import Finish


class EndingRun(ResidentRun):
    """A resident run that knows how to end."""

    async def _end(self, error: Exception | None, result: str | None) -> None:
        """End the run, now that its body has.

        A cancel that was accepted before the run ends counts, even if the body has not noticed: the store refuses to
        end the run otherwise than cancelled, or to begin to compensate, while one is unread.
        """
        self._turns.state.ttl_at = None
        with self._saga_scope:
            while not await self._try_to_end(error, result):
                await self._look_for_cancel()

    async def _try_to_end(self, error: Exception | None, result: str | None) -> bool:
        """Return whether the run has ended, or has left; not if a cancel came first."""
        turns = self._turns
        await turns.settle()
        status, error = self._decide(error)
        await self._end_children(cancels=error is not None)
        await turns.settle()
        if self._cancel_row is not None and status is not RunStatus.CANCELLED and not turns.state.is_expired:
            return False  # it came while the children were waited for
        if error is None and self.row.status is RunStatus.COMPENSATING:
            self._diverged(turns.state.history.next_of_body())
            return True
        compensation_errors: list[str] = []
        error_text: str | None = None
        if error is not None:
            result = None
            error_text, _ = self._failures.encode(error, where=f"the failure of run {self.row.id!r}")
            if self.row.status is RunStatus.COMPENSATING:  # what it began to compensate for stays the reason
                error_text = self.row.error or error_text
            undo = self._body.saga.in_order()
            if undo and not await self._begin_to_compensate(status, error_text):
                return False
            self._is_compensating = bool(undo)
            for item in undo:
                await self._compensate(item, compensation_errors)
        rest = turns.state.history.next_of_body()
        if rest is not None:
            self._diverged(rest)
            return True
        finish = Finish(
            fence=self._port.fence,
            status=status,
            result=result,
            error=error_text,
            compensation_errors=f"[{','.join(compensation_errors)}]",
            unless_cancelled=self._port.status is not RunStatus.COMPENSATING and self._cancel_row is None,
            now=self._clock.stamp(),
        )
        self._is_finishing = True
        self._is_finishing = self._is_done(await turns.parking.extend(lambda done: self._port.submit(finish, done)))
        if not self._is_finishing:
            return False
        self._around.ended(self.row, status, result, error_text)
        self._tell("run_ended", {"status": status})
        return True

    def _decide(self, error: Exception | None) -> tuple[RunStatus, Exception | None]:
        """Return how the run ends: a time to live that is over and a cancel count more than what the body did."""
        if self._turns.state.is_expired:
            text = f"run {self.row.id!r} did not end within its time to live"
            return RunStatus.FAILED, RunExpired(text, run_id=self.row.id)
        if self._cancel_row is not None:
            reason = self._around.codec.decode(self._cancel_row.result or "null", Any, where="a reason")
            return RunStatus.CANCELLED, cancelled(self.row.id, reason)
        return (RunStatus.COMPLETED if error is None else RunStatus.FAILED), error

    async def _look_for_cancel(self) -> None:
        look = await self._read_mail()
        if damage := damage_in_look(look):
            self.park(damaged(self.row.id, damage))
            raise Detached
        self._turns.message(look)
        self._turns.mail.is_settled()  # the body may have ended at replay, before anything was taken

    def _is_done(self, outcome: Any) -> bool:
        """Return whether a write took place; not if a cancel came first. A refused one ends the stay."""
        if outcome is True or outcome is False:
            return bool(outcome)
        self.refused(outcome)
        raise Detached

    async def _end_children(self, *, cancels: bool) -> None:
        """Wait for the children that nobody has awaited; a run does not end before them."""
        body = self._body
        for child_id, has_ended in list(body.children.items()):
            if not has_ended:
                call = ChildEndCall(
                    body, end_key(child_id), child_id, is_unabortable=True, cancels=cancels, compensates=False
                )
                await self._turns.parking.perform(call)
                body.children[child_id] = True

    async def _begin_to_compensate(self, status: RunStatus, error_text: str) -> bool:
        """Store that the run compensates from now on; return False if a cancel came first."""
        if self._port.status is RunStatus.COMPENSATING:
            return True
        rest = self._turns.state.history.next_of_body()
        if rest is not None and rest.kind is not StepKind.COMPENSATION:  # it may have been parked while it compensated
            self._diverged(rest)
            raise Detached
        outcome = await self._turns.parking.extend(
            lambda done: self._port.advance(
                done,
                status=RunStatus.COMPENSATING,
                error=error_text,
                unless_cancelled=status is not RunStatus.CANCELLED,
                now=self._clock.stamp(),
            )
        )
        if not self._is_done(outcome):
            self._port.status = RunStatus.RUNNING
            return False
        self._tell("run_compensating", {})
        return True

    async def _compensate(self, item: Compensation, errors: list[str]) -> None:
        """Undo one step, and add its failure to ``errors``."""
        key = compensation_key(item.step)
        options = FunctionOptions(retry=item.retry)
        call = FunctionCall(self._body, StepKind.COMPENSATION, key, item.fn, (item.result,), options)
        row = await self._turns.parking.perform(call)
        if row.error is not None:
            errors.append(row.error)


def cancelled(run_id: str, reason: str | None) -> RunCancelled:
    """Return the error of a run that was cancelled."""
    text = f"run {run_id!r} was cancelled" + (f": {reason}" if reason else "")
    return RunCancelled(text, run_id=run_id, reason=reason)
