"""The end of one history and the beginning of the next, under the same id."""

from __future__ import annotations

from typing import Any

from durable_trio.calls.body import Environment
from durable_trio.errors import RunCancelled
from durable_trio.records import Key, StepKind
from durable_trio.stores.contract import ContinueAsNew
from durable_trio.turns.call import Call


class ContinueCall(Call):
    """Begins a new generation; the body that waits for it is dropped."""

    kind = StepKind.CONTINUE

    def __init__(self, env: Environment, key: Key, args: str) -> None:
        super().__init__(key)
        self._env = env
        self._args = args

    def go_live(self) -> None:
        self.turns.end_with(self)

    def end_history(self) -> None:
        """Store the new generation; there is none after a cancel, which a shield may have kept off."""
        turns = self.turns
        if turns.is_cancelled:
            turns.refuse(self, RunCancelled(f"run {self._env.run_id!r} was cancelled and cannot begin anew"))
            return
        self.is_sealed = True
        operation = ContinueAsNew(fence=turns.port.fence, args=self._args, now=turns.clock.stamp())
        turns.port.submit(operation, self._continued)

    def fire(self, now: int) -> None:
        raise AssertionError("it is never due")

    def _continued(self, outcome: Any) -> None:
        if outcome is True:
            self._env.host.continued()
        else:
            self.turns.check(outcome)
