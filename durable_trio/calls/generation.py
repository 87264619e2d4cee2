"""The end of one history and the beginning of the next, under the same id."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from durable_trio.calls.body import Body, Branch
from durable_trio.errors import RunCancelled
from durable_trio.looks import is_a, short
from durable_trio.records import StepKind
from durable_trio.rows import Key
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.starting import encode_bound
from durable_trio.stores.contract import ContinueAsNew
from durable_trio.turns.call import Call
from durable_trio.turns.stage import CLOSE
from durable_trio.workflows import Workflow


class ContinueCall(Call):
    """Begins a new generation; the body that waits for it is dropped."""

    kind = StepKind.CONTINUE

    def __init__(self, body: Body, key: Key, args: str) -> None:
        super().__init__(key)
        self._body = body
        self._args = args

    def go_live(self, now: int) -> None:
        self.lobby.end_with(self)

    def end_history(self) -> None:
        """Store the new generation; there is none after a cancel, which a shield may have kept off.

        Nor of a run that has begun to compensate: its code would have to fail as it did.
        """
        state = self.state
        if state.is_cancelled:
            self.lobby.refuse(self, RunCancelled(f"run {self._body.run_id!r} was cancelled and cannot begin anew"))
            return
        if state.port.status not in LIFE[RunEvent.CONTINUE_AS_NEW]:
            self._body.resident.diverged(state.history.next_of_body())
            return
        self.stage = CLOSE[self.stage]
        operation = ContinueAsNew(
            fence=state.port.fence,
            args=self._args,
            generations_kept=self._body.generations_kept,
            now=state.clock.stamp(),
        )
        state.port.submit(operation, self._continued)

    def fire(self, now: int) -> None:
        raise AssertionError("it is never due")

    def _continued(self, outcome: Any) -> None:
        if outcome is True:
            self._body.resident.continued()
        else:
            self.state.check(outcome)


async def continue_as_new(branch: Branch, args: tuple[Any, ...], workflow: object) -> NoReturn:
    """End this history and go on with a new generation; see ``Context.continue_as_new``."""
    branch.check_task()
    body = branch.body
    if workflow is not None and not (is_a(workflow, Workflow) and cast(Any, workflow).name == body.workflow.name):
        raise ValueError(
            f"continue_as_new goes on with the run's own workflow, {body.workflow.name!r}, not {short(workflow)}: "
            "start another one by ctx.start_child, or leave out workflow="
        )
    if branch.path or branch.open_nursery_count:
        raise RuntimeError("continue_as_new works only in the body itself, outside of its nurseries")
    text, _ = encode_bound(body.workflow, args, codec=body.codec, where=f"the arguments of run {body.run_id!r}")
    await body.lobby.perform(ContinueCall(body, branch.next_key("name", "(continue)"), text))
    raise AssertionError("the run has left")
