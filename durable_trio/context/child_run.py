"""``ChildRun``: what a body has of a child that it has started."""

from __future__ import annotations

from typing import Generic, TypeVar

from durable_trio.calls.body import Body
from durable_trio.calls.child import Child, cancel_child, end_of_child

R = TypeVar("R")


class ChildRun(Generic[R]):
    """A child that the run has started."""

    def __init__(self, body: Body, child: Child) -> None:
        self.id = child.run_id
        self._body = body
        self._child = child

    def __repr__(self) -> str:
        return f"ChildRun({self.id!r})"

    async def result(self) -> R:
        """Wait until the child has ended, and return its result.

        *Cancellation:* ends the wait, not the child.

        Raises:
            RunFailed, RunCancelled, RunExpired: it did not complete.
        """
        result: R = await end_of_child(self._body, self._child)
        return result

    async def cancel(self) -> bool:
        """Ask the child to cancel; see ``engine.cancel``. Recorded: asked once."""
        return await cancel_child(self._body, self._child)
