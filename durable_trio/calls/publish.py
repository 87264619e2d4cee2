"""Values for others to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from durable_trio.calls.body import Body, Branch
from durable_trio.calls.sleep import SleepCall, constant
from durable_trio.codec import own_annotation
from durable_trio.limits import check_name
from durable_trio.stores.contract import NO_POSITION


async def publish(branch: Branch, key: str, value: Any) -> None:
    """Make a value readable by others; see ``Context.publish``."""
    branch.check_task()
    key = check_name("published key", key)
    body, state = branch.body, branch.body.state
    await _let_expire(branch, is_stored=state.coming_position <= body.stored_positions.get(key, NO_POSITION))
    where = f"published value {key!r} of run {body.run_id!r}"
    position = state.next_position()
    # Not while rows are to be delivered: the last one counts, and is written when the run goes live.
    is_news = not state.is_replaying and position > body.stored_positions.get(key, NO_POSITION)
    text = branch.encode_again(
        lambda codec: codec.encode(value, own_annotation(value), where=where).text, is_recorded=lambda: not is_news
    )
    await trio.lowlevel.checkpoint_if_cancelled()
    body.published[key] = (text, position)

    def submit(done: Callable[[Any], None]) -> None:
        if is_news:
            if body.step_values is not None:
                body.step_values.superseded(key)
            body.stored_positions[key] = position
            state.port.advance(done, published=((key, text),), position=position)
        else:
            done(True)

    await _commit(body, submit)  # also at replay, so that it takes the same place in the turn


async def _commit(body: Body, submit: Callable[[Callable[[Any], None]], None]) -> None:
    """Wait for a commit inside the running turn; never return if it is refused."""
    outcome = await body.lobby.extend(submit)
    if outcome is not True:
        body.state.check(outcome)
        await trio.lowlevel.checkpoint()


async def _let_expire(branch: Branch, *, is_stored: bool) -> None:
    """If a deadline is past due, which may be around the caller, wait until its expiry is delivered.

    For what leaves no row of its own, and so would not begin by the turns: that it waits is recorded before others can
    see it, so that it waits at replay, too. Then it waits as any call, with a row of its own if it was not cancelled.
    What ``is_stored`` has not waited, however late it is now.
    """
    body, state = branch.body, branch.body.state
    key = branch.reserve_key("(late)")
    if not state.history.answer(key):
        if state.is_replaying or is_stored or not body.lobby.is_past_due():
            return
        state.note(key)
        await _commit(body, state.port.advance)
    await body.lobby.perform(SleepCall(branch.body, branch.reserve_key("(late wait)"), constant(0)))
