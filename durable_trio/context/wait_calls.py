"""The part of a context that waits and tells: ``sleep``, ``sleep_until``, ``wait_signal`` and ``publish``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

import trio

from durable_trio.calls.waits import SignalCall, SleepCall, after, constant
from durable_trio.clock import from_datetime, seconds_of
from durable_trio.codec import UNANNOTATED
from durable_trio.context.base import ContextBase
from durable_trio.errors import CodecError
from durable_trio.limits import check_name
from durable_trio.stores.contract import NO_POSITION

T = TypeVar("T")


class WaitMethods(ContextBase):
    """Durable waits, and values for others to see."""

    async def sleep(self, duration: float | timedelta, *, name: str = "sleep") -> None:
        """Sleep for some seconds, over any number of restarts; the first due time is kept. Zero is due at once.

        Raises:
            ValueError: the duration is NaN.
        """
        self._check_task()
        seconds = seconds_of(duration)
        await self._env.turns.perform(SleepCall(self._env, self._next_key("sleep name", name), after(seconds)))

    async def sleep_until(self, when: datetime, *, name: str = "sleep") -> None:
        """Sleep until an instant, over any number of restarts; a past one is due at once.

        Raises:
            ValueError: the datetime has no time zone.
        """
        self._check_task()
        due_at = from_datetime(when)
        await self._env.turns.perform(SleepCall(self._env, self._next_key("sleep name", name), constant(due_at)))

    @overload
    async def wait_signal(self, name: str, type: type[T], *, timeout: float | timedelta | None = None) -> T: ...
    @overload
    async def wait_signal(self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None) -> Any: ...
    async def wait_signal(self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None) -> Any:
        """Return the payload of the next signal of that name; one that came before the wait counts.

        Args:
            type: what the payload is converted to; default plain JSON.
            timeout: seconds after which to give up; the due time is kept over restarts.

        Raises:
            SignalTimeout: none came in time; recorded, and a later one is kept for the next wait.
            CodecError: the payload is of another type; the signal is consumed.
        """
        self._check_task()
        seconds = None if timeout is None else seconds_of(timeout, what="timeout")
        key = self._next_key("signal name", name)
        call = SignalCall(self._env, key, key.name, seconds)
        env = self._env
        row = await env.turns.perform(call)
        if row.error is not None:
            return env.deliver(call, row, type)
        # The payload is the sender's, not the code's: one of another type is the body's to handle, now and at replay.
        try:
            return env.codec.decode(row.result or "null", type, where=env.where("signal", call.key))
        except CodecError:
            env.check_stored(row.result or "null", f"history, the row with key {str(row.key)!r}, result")
            raise

    async def publish(self, key: str, value: Any) -> None:
        """Make a plain JSON value readable by ``run.value(key)`` and in ``watch``; a new one replaces the old.

        It never goes back: what was published before is not written again when the run is taken up again. In a durable
        scope whose time is over nothing is published any more.

        Raises:
            CodecError: not made of exact JSON types.
        """
        self._check_task()
        key = check_name("published key", key)
        env, turns = self._env, self._env.turns
        await self._let_expire(is_stored=turns.coming_position <= env.stored_positions.get(key, NO_POSITION))
        where = f"published value {key!r} of run {env.run_id!r}"
        position = turns.next_position()
        # Not while rows are to be delivered: the last one counts, and is written when the run goes live.
        is_news = not turns.is_replaying and position > env.stored_positions.get(key, NO_POSITION)
        text = self._encode_again(
            lambda codec: codec.encode(value, UNANNOTATED, where=where).text, is_recorded=lambda: not is_news
        )
        await trio.lowlevel.checkpoint_if_cancelled()
        env.published[key] = (text, position)

        def publish(done: Callable[[Any], None]) -> None:
            if is_news:
                env.stored_positions[key] = position
                turns.port.advance(done, published=((key, text),), position=position, now=env.clock.stamp())
            else:
                done(True)

        outcome = await turns.extend(publish)  # also at replay, so that it takes the same place in the turn
        if outcome is not True:
            turns.check(outcome)
            await trio.lowlevel.checkpoint()

    async def _let_expire(self, *, is_stored: bool) -> None:
        """If a deadline is past due, which may be around the caller, wait until its expiry is delivered.

        For what leaves no row of its own, and so would not begin by the turns: that it has waited is recorded, so that
        it waits at replay, too. Then it waits as any call, with a row of its own if it was not cancelled. What
        ``is_stored`` has not waited, however late it is now.
        """
        turns = self._env.turns
        key = self.reserve_key("(late)")
        if not turns.history.take_patch(key):
            if turns.is_replaying or is_stored or not turns.is_past_due():
                return
            turns.note(key)
        await turns.perform(SleepCall(self._env, self.reserve_key("(late wait)"), constant(0)))
