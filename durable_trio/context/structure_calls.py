"""The part of a context that gives a body its structure: branches, deadlines, versions, generations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import trio

from durable_trio.calls.generation import ContinueCall
from durable_trio.clock import due_after, seconds_of
from durable_trio.context.base import ContextBase
from durable_trio.context.nursery import DurableNursery
from durable_trio.failures import CARRYING
from durable_trio.limits import NURSERY_DEPTH_MAX
from durable_trio.starting import encode_bound
from durable_trio.turns.deadlines import DeadlineScope


class StructureMethods(ContextBase):
    """Branches and deadlines as trio's nurseries and scopes, and changes of code."""

    @asynccontextmanager
    async def open_nursery(self) -> AsyncIterator[DurableNursery]:
        """Open a nursery of durable branches: the block ends when all of them have.

        As in trio, one that fails cancels the others and the block, and failures come out as an ``ExceptionGroup``.

        Raises:
            RecursionError: 100 of them are open around this one, in this branch and those around it.
        """
        self._check_task()
        depth = self._depth + self._open_nursery_count
        if depth >= NURSERY_DEPTH_MAX:
            raise RecursionError(
                f"run {self._env.run_id!r} has {depth} nurseries open around this one; at most {NURSERY_DEPTH_MAX} may "
                "nest, because a failure inside would come out as as many groups in each other"
            )
        path = str(self._next_key("nursery name", "nursery"))
        self._open_nursery_count += 1
        try:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                with CARRYING:
                    yield DurableNursery(self, path, nursery, depth + 1)
        finally:
            self._open_nursery_count -= 1

    @contextmanager
    def move_on_after(self, duration: float | timedelta, *, shield: bool = False) -> Iterator[DeadlineScope]:
        """Leave the block when ``duration`` seconds have passed since it was entered, over any number of restarts.

        The time of entry is that of the last recorded outcome, so it is the same at replay; the expiry is a row.

        Args:
            shield: keep cancellation from outside off the block, as in trio.
        """
        self._check_task()
        seconds = seconds_of(duration)
        turns = self._env.turns
        due_at = due_after(turns.last_stamp, seconds)
        scope = DeadlineScope(self._next_key("deadline name", "deadline"), due_at, shield=shield)
        turns.enter_deadline(scope)
        try:
            with scope.scope, CARRYING:
                yield scope
        finally:
            turns.exit_deadline(scope)

    @contextmanager
    def fail_after(self, duration: float | timedelta, *, shield: bool = False) -> Iterator[DeadlineScope]:
        """Like ``move_on_after``, and raise ``trio.TooSlowError`` if the block was left because of it."""
        with self.move_on_after(duration, shield=shield) as scope:
            yield scope
        if scope.cancelled_caught:
            raise trio.TooSlowError

    def patched(self, change_id: str) -> bool:
        """Return whether this run takes the new way of a change, so that old and new runs live side by side.

        True for a run that reaches it with no recorded history beyond it, and at every replay of it; False for
        one whose history goes on here, which was recorded by the code before the change.
        """
        self._check_task()
        key = self._next_key("change id", change_id)
        turns = self._env.turns
        if turns.history.take_patch(key):
            return True
        if turns.is_replaying or turns.has_unmatched_waits():
            return False
        turns.note(key)
        return True

    async def continue_as_new(self, *args: Any) -> NoReturn:
        """End this history and go on with a new generation under the same id, with new arguments.

        Unread signals carry over; registered compensations are dropped; what was published stays. Keeps a run that
        goes on for ever from growing a history that does.

        Raises:
            RuntimeError: not in the body itself, or inside an open nursery of it.
            CodecError: an argument cannot be stored.
        """
        self._check_task()
        env = self._env
        if self._branch or self._open_nursery_count:
            raise RuntimeError("continue_as_new works only in the body itself, outside of its nurseries")
        env.workflow.annotations_for(args)  # raises if there are too few or too many
        text, _ = encode_bound(env.workflow, args, codec=env.codec, where=f"the arguments of run {env.run_id!r}")
        await env.turns.perform(ContinueCall(env, self._next_key("name", "(continue)"), text))
        raise AssertionError("the run has left")
