"""The end of one history and the beginning of the next, under the same id."""

from __future__ import annotations

from typing import Any, Literal, NoReturn, cast

from durable_trio.calls.body import Body, Branch
from durable_trio.codec import UNANNOTATED
from durable_trio.errors import RunCancelled
from durable_trio.looks import is_a, short
from durable_trio.records import StepKind
from durable_trio.rows import Key
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.starting import encode_bound
from durable_trio.stores.contract import ContinueAsNew
from durable_trio.turns.call import Call
from durable_trio.turns.stage import CLOSE
from durable_trio.workflows import Workflow, check_version


class ContinueCall(Call):
    """Begins a new generation; the body that waits for it is dropped."""

    kind = StepKind.CONTINUE

    def __init__(self, body: Body, key: Key, args: str, version: int) -> None:
        super().__init__(key)
        self._body = body
        self._args = args
        self._version = version

    def go_live(self, now: int) -> None:
        self.lobby.end_with(self)

    def end_history(self) -> None:
        """Store the new generation; there is none after a cancel, which a shield may have kept off.

        Nor of a run that has begun to compensate: its code would have to fail as it did.
        """
        state = self.state
        if state.is_cancelled:
            self.lobby.raise_in(self, RunCancelled(f"run {self._body.run_id!r} was cancelled and cannot begin anew"))
            return
        if state.port.status not in LIFE[RunEvent.CONTINUE_AS_NEW]:
            self._body.resident.diverged(state.history.next_of_body())
            return
        self.stage = CLOSE[self.stage]
        operation = ContinueAsNew(
            fence=state.port.fence,
            args=self._args,
            version=self._version,
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


async def continue_as_new(
    branch: Branch, args: tuple[Any, ...], workflow: object, version: int | Literal["newest"] | None
) -> NoReturn:
    """End this history and go on with a new generation; see ``Context.continue_as_new``."""
    branch.check_task()
    body = branch.body
    own = body.workflow
    if workflow is not None and not (is_a(workflow, Workflow) and cast(Any, workflow).name == own.name):
        raise ValueError(
            f"continue_as_new goes on with the run's own workflow, {own.name!r}, not {short(workflow)}: "
            "start another one by ctx.start_child, or leave out workflow="
        )
    number = _version(body, version)
    if workflow is not None and cast(Any, workflow).version != number:
        other = cast(Any, workflow).version
        raise ValueError(
            f"continue_as_new goes on with version {number} of {own.name!r}, and workflow= is its version {other}: "
            f"say version={other} as well, or leave out workflow="
        )
    if branch.path or branch.open_nursery_count:
        raise RuntimeError("continue_as_new works only in the body itself, outside of its nurseries")
    where = f"the arguments of run {body.run_id!r}"
    next_one = own if number == own.version else body.registry.at((own.name, number))
    if next_one is None:  # whoever knows it checks them
        text, _ = body.codec.encode_arguments(args, (UNANNOTATED,) * len(args), where=where)
    else:
        text, _ = encode_bound(next_one, args, codec=body.codec, where=where)
    await body.lobby.perform(ContinueCall(body, branch.next_key("name", "(continue)"), text, number))
    raise AssertionError("the run has left")


def _version(body: Body, version: int | Literal["newest"] | None) -> int:
    """Return the version that a run goes on with."""
    own = body.workflow
    if version is None:
        return own.version
    if version == "newest":
        newest = body.registry.get(own.name)
        return own.version if newest is None else newest.version
    return check_version(version)
