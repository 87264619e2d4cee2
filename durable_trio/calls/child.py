"""The calls behind children: the start of one, and the wait for its end."""

from __future__ import annotations

from typing import Any

import trio

from durable_trio.calls.body import Environment, check_json
from durable_trio.clock import due_after
from durable_trio.errors import CodecError, RunCancelled, RunConflict, RunExpired, RunFailed, RunNotFound
from durable_trio.failures import CannotRebuild, describe
from durable_trio.looks import text_of
from durable_trio.records import HistoryRow, Key, RunRow, RunStatus, StepKind, StepStatus
from durable_trio.rules.damage import damaged
from durable_trio.stores.contract import StartRun
from durable_trio.turns.call import Call
from durable_trio.turns.quiet import BODY

# How often a fork looks after a child that it has not started itself: the child's end is told to its parent only.
_LOOK_SECONDS = 5.0


class StartChildCall(Call):
    """Starts a child in the transaction of its row: one child per key, whatever crashes."""

    kind = StepKind.CHILD

    def __init__(self, env: Environment, key: Key, operation: StartRun) -> None:
        super().__init__(key)
        self._env = env
        self._operation = operation

    def go_live(self) -> None:
        env = self._env
        now = env.clock.stamp()
        text = env.codec.own.encode(self._operation.id, str, where="a run id").text
        self.record(now=now, started_at=now, result=text, children=(self._operation,))

    def fire(self, now: int) -> None:
        raise AssertionError("it is never due")

    def deliver(self, row: HistoryRow) -> None:
        if self.is_live:
            self._env.host.child_started()
        super().deliver(row)

    def conflicted(self, error: RunConflict) -> bool:
        now = self._env.clock.stamp()
        text, self.outcome = self._env.failures.encode(error, where=self._env.where("child", self.key))
        self.record(now=now, started_at=now, status=StepStatus.FAILED, error=text)
        return True


class ChildEndCall(Call):
    """Waits until a child has ended, and records how.

    With ``is_unabortable`` a cancelled scope cancels the child, and the call still waits for its end.
    """

    kind = StepKind.CHILD_END

    def __init__(
        self, env: Environment, key: Key, child_id: str, *, is_unabortable: bool, cancels: bool, compensates: bool
    ) -> None:
        super().__init__(key)
        self.is_unabortable = is_unabortable
        self.waits_for_child = child_id
        self._env = env
        self._child_id = child_id
        self._cancels = cancels
        self._compensates = compensates
        self._child: RunRow | None = None
        self._looks_again = False

    def go_live(self) -> None:
        self.started_at = self._env.clock.stamp()
        if self._cancels or (self.is_unabortable and self.raise_cancel is not None):
            self._env.host.request_cancel(self._child_id)
        self._look()

    def fire(self, now: int) -> None:
        self.child_ended()

    def cancel(self) -> None:
        if self.is_unabortable and self.is_live:
            self._env.host.request_cancel(self._child_id)

    def child_ended(self) -> None:
        if self.is_busy:
            self._looks_again = True
        elif not self.is_sealed:
            self._look()

    # ---- reading how it ended ----------------------------------------------------------------------------------

    def _look(self) -> None:
        self._looks_again = False
        self.turns.busy(self)
        self.task_context.run(BODY.set, None)
        self._env.tasks.start(self.task_context, self)

    async def run(self, scope: trio.CancelScope) -> None:
        """Read the child."""
        self._child = await self._env.host.look_up(self._child_id)

    def ended(self) -> None:
        """The child was read."""
        if self.turns.port.is_cut:
            return
        child = self._child
        if child is not None and (damage := _damage_of_end(child)) is not None:
            self._env.host.park(damaged(self._env.run_id, damage))
            return
        if child is None or child.status.is_final:
            self._record_end(child)
        elif self._looks_again:
            self.turns.emerged(self)
            self._look()
            return
        elif child.parent != self.turns.port.fence.run:  # it was started by the run that this one is a fork of
            self.turns.set_timer(self, due_after(self._env.clock.stamp(), _LOOK_SECONDS), None)
        self.turns.emerged(self)

    def _record_end(self, child: RunRow | None) -> None:
        now = self._env.clock.stamp()
        if child is not None and child.status is RunStatus.COMPLETED:
            self.record(now=now, started_at=self.started_at, result=child.result, compensates=self._compensates)
            return
        error = self._error_of(child)
        text, self.outcome = self._env.failures.encode(error, where=self._env.where("child", self.key))
        self.record(now=now, started_at=self.started_at, status=StepStatus.FAILED, error=text)

    def _error_of(self, child: RunRow | None) -> Exception:
        if child is None:
            return RunNotFound(f"the child {self._child_id!r} is not stored any more", run_id=self._child_id)
        error: Any = None
        if child.error is not None:
            try:
                error = self._env.failures.decode(child.error)
            except (CannotRebuild, CodecError):
                error = describe(child.error)
        if child.status is RunStatus.CANCELLED:
            if isinstance(error, RunCancelled):
                return error
            return RunCancelled(f"the child {child.id!r} was cancelled", run_id=child.id)
        if isinstance(error, RunExpired) and error.run_id == child.id:  # else it is that of a child of the child
            return error
        text = text_of(error) if isinstance(error, BaseException) else str(error)
        return RunFailed(f"the child {child.id!r} failed: {text}", run_id=child.id, error=error)


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
