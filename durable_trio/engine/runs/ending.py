"""How a resident run ends: children first, then compensation, then the final status."""

from __future__ import annotations

from functools import partial
from typing import Any

from durable_trio.calls.child import ChildEndCall, end_key
from durable_trio.calls.saga import Compensation
from durable_trio.calls.step import FunctionCall
from durable_trio.calls.step_options import FunctionOptions
from durable_trio.engine.runs.damage import damage_in_look
from durable_trio.engine.runs.life import COMPENSATE, END, FINISH, RESETTLE
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.engine.runs.run_log import fate_of
from durable_trio.engine.runs.untold import failed_compensation
from durable_trio.errors import Detached, RunCancelled, RunExpired
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import RunEnd
from durable_trio.rules.compensation import compensation_key
from durable_trio.rules.damage import damaged
from durable_trio.rules.expiry import expiry_of
from durable_trio.stores.contract import Finish


class Ending:
    """How one resident run ends, now that its body has."""

    def __init__(self, run: ResidentRun) -> None:
        self._run = run

    async def end(self, error: Exception | None, result: str | None) -> None:
        """End the run.

        A cancel that was accepted before the run ends counts, even if the body has not noticed: the store refuses to
        end the run otherwise than cancelled, or to begin to compensate, while one is unread.
        """
        run = self._run
        run.turns.state.ttl_at = None
        with run.saga_scope:
            while not await self._try_to_end(error, result):
                await self.look_for_cancel()

    async def _try_to_end(self, error: Exception | None, result: str | None) -> bool:
        """Return whether the run has ended, or has left; not if a cancel came first."""
        run = self._run
        turns = run.turns
        await turns.settle()
        status, error = self._decide(error)
        if not all(run.body.children.values()):
            await self._end_children(cancels=error is not None)
            await turns.settle()
            if run.cancel_row is not None and status is not RunStatus.CANCELLED and turns.state.expired is None:
                return False  # it came while the children were waited for
        if error is None and run.row.status is RunStatus.COMPENSATING:
            run.diverged(turns.state.history.next_of_body())
            return True
        compensation_errors: list[str] = []
        error_text: str | None = None
        if error is not None:
            result = None
            error_text, _ = run.failures.encode(error, where=f"the failure of run {run.row.id!r}")
            if run.row.status is RunStatus.COMPENSATING:  # what it began to compensate for stays the reason
                error_text = run.row.error or error_text
            undo = run.body.saga.in_order()
            if undo and not await self._begin_to_compensate(status, error_text):
                return False
            if undo:
                run.life = COMPENSATE[run.life]
            for number, item in enumerate(undo):
                await self._compensate(number, item, compensation_errors)
        rest = turns.state.history.next_of_body()
        if rest is not None:
            run.diverged(rest, raised=error_text)
            return True
        finish = Finish(
            fence=run.port.fence,
            status=status,
            result=result,
            error=error_text,
            compensation_errors=f"[{','.join(compensation_errors)}]",
            unless_cancelled=run.port.status is not RunStatus.COMPENSATING and run.cancel_row is None,
            now=run.clock.stamp(),
        )
        run.life = FINISH[run.life]
        fate = None if error_text is None else fate_of(status, is_expired=turns.state.expired is not None)
        told = None if fate is None else run.telling.is_to_tell(fate)
        if not self._is_done(await turns.lobby.extend(partial(run.port.submit, finish))):
            run.life = RESETTLE[run.life]
            if told is not None:
                told()
            return False
        run.life = END[run.life]
        run.end = RunEnd(status, result, error_text)
        run.keeper.ended(run)
        if error_text is not None or run.keeper.tellings.is_watched:
            failed = run.body.failed_row(error) if status is RunStatus.FAILED else None
            failed = turns.state.expired or failed
            run.telling.ended(status, error_text, fate=fate, failed=failed)
            if told is not None:
                told()
        return True

    def _decide(self, error: Exception | None) -> tuple[RunStatus, Exception | None]:
        """Return how the run ends: a time to live that is over and a cancel count more than what the body did."""
        run = self._run
        if (expired := run.turns.state.expired) is not None:
            where = expiry_of(expired.result)
            text = f"run {run.row.id!r} did not end within its time to live"
            text += "" if where is None else f"; {where.sentence()}"
            return RunStatus.FAILED, RunExpired(text, run_id=run.row.id)
        if run.cancel_row is not None:
            reason = run.keeper.codec.decode(run.cancel_row.result or "null", Any, where="a reason")
            return RunStatus.CANCELLED, cancelled(run.row.id, reason)
        return (RunStatus.COMPLETED if error is None else RunStatus.FAILED), error

    async def look_for_cancel(self) -> None:
        """Take what is in the mailbox, after the store has refused a write because of it."""
        run = self._run
        look = await run.read_mailbox()
        if damage := damage_in_look(look):
            run.refuse(damaged(run.row.id, damage))
            raise Detached
        run.turns.message(look)
        run.turns.mailbox.is_settled()  # the body may have ended at replay, before anything was taken

    def _is_done(self, outcome: Any) -> bool:
        """Return whether a write took place; not if a cancel came first. A refused one ends the stay."""
        run = self._run
        if outcome is True or outcome is False:
            return bool(outcome)
        run.write_refused(outcome)
        raise Detached

    async def _end_children(self, *, cancels: bool) -> None:
        """Wait for the children that nobody has awaited; a run does not end before them."""
        run = self._run
        body = run.body
        for child_id, has_ended in list(body.children.items()):
            if not has_ended:
                call = ChildEndCall(
                    body, end_key(child_id), child_id, is_unabortable=True, cancels=cancels, compensates=False
                )
                await run.turns.lobby.perform(call)
                body.children[child_id] = True

    async def _begin_to_compensate(self, status: RunStatus, error_text: str) -> bool:
        """Store that the run compensates from now on; return False if a cancel came first."""
        run = self._run
        if run.port.status is RunStatus.COMPENSATING:
            return True
        rest = run.turns.state.history.next_of_body()
        if rest is not None and rest.kind is not StepKind.COMPENSATION:  # it may have been parked while it compensated
            run.diverged(rest, raised=error_text)
            raise Detached
        before = run.port.status
        outcome = await run.turns.lobby.extend(
            lambda done: run.port.advance(
                done,
                status=RunStatus.COMPENSATING,
                error=error_text,
                unless_cancelled=status is not RunStatus.CANCELLED,
            )
        )
        if not self._is_done(outcome):
            run.port.status = before
            return False
        run.telling.compensating(error_text)
        return True

    async def _compensate(self, number: int, item: Compensation, errors: list[str]) -> None:
        """Undo one step, after so many others, and add its failure to ``errors``."""
        run = self._run
        key = compensation_key(item.step)
        options = FunctionOptions(retry=item.retry)
        call = FunctionCall(run.body, StepKind.COMPENSATION, key, item.fn, (item.result,), options)
        if run.turns.state.history.next_of_body() is not None:  # it is recorded, and was told before
            row = await run.turns.lobby.perform(call)
            errors.extend(() if row.error is None else [row.error])
            return
        told = run.telling.is_to_tell(failed_compensation(number))
        try:
            row = await run.turns.lobby.perform(call)
            if row.error is not None:
                errors.append(row.error)
                run.telling.log.compensation_failed(item.step, row.attempt, row.error)
        finally:
            told()


def cancelled(run_id: str, reason: str | None) -> RunCancelled:
    """Return the error of a run that was cancelled."""
    text = f"run {run_id!r} was cancelled" + (f": {reason}" if reason else "")
    return RunCancelled(text, run_id=run_id, reason=reason)
