"""While a body rests with one task no step of anybody's is seen for it; whatever wakes it has them seen before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from durable_trio.turns.quiet import BODY, watching
from tests.turns.kit import NamedCall, Rig, entry, look


def steps_are_seen() -> bool:
    return "after_task_step" in trio.lowlevel.current_task()._runner.instruments


def waiting(name: str) -> NamedCall:
    return NamedCall(name, waits_for=name)


async def test_no_step_is_seen_while_a_body_waits_and_each_is_once_it_is_woken() -> None:
    rig = Rig()

    async def body() -> None:
        await rig.perform(waiting("first"))
        assert steps_are_seen()
        await rig.perform(waiting("second"))

    async with rig.body(body):
        for number, name in enumerate(("first", "second"), 1):
            assert not rig.turns.state.is_afoot
            assert not steps_are_seen()
            rig.turns.message(look([entry(number, "signal", name)], after=number - 1))
            assert not steps_are_seen()  # it has to be committed before
            rig.outlet.commit()
            assert steps_are_seen()
            assert rig.turns.state.runnable_count == 1
            await wait_all_tasks_blocked()
    assert rig.log == ["first", "second"]
    assert (rig.turns.state.is_afoot, rig.turns.state.runnable_count) == (False, 0)


async def _in_a_nursery(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.perform, waiting("one"))
        nursery.start_soon(rig.perform, waiting("two"))


async def _at_something_else(_: Rig) -> None:
    await trio.sleep_forever()


async def _at_a_step(rig: Rig) -> None:
    call = NamedCall("step")
    rig.turns.lobby.busy(call)
    await rig.perform(call)


@pytest.mark.parametrize("blocked", [_in_a_nursery, _at_something_else, _at_a_step])
async def test_a_body_that_somebody_else_may_wake_stays_afoot(blocked: Callable[[Rig], object]) -> None:
    rig = Rig()

    async with rig.body(lambda: blocked(rig)):  # type: ignore[arg-type, return-value]
        assert rig.turns.state.is_afoot
        assert steps_are_seen()


async def test_one_that_rests_beside_one_that_is_afoot_is_counted_right() -> None:
    resting, busy = Rig(), Rig()
    goes_on = trio.Event()

    async def wait_twice() -> None:
        await resting.perform(waiting("first"))
        await resting.perform(waiting("second"))

    async def wait_for_event() -> None:
        await goes_on.wait()
        await busy.perform(waiting("go"))

    async with busy.body(wait_for_event), resting.body(wait_twice):
        assert (busy.turns.state.is_afoot, resting.turns.state.is_afoot) == (True, False)
        resting.turns.message(look([entry(1, "signal", "first")]))
        resting.outlet.commit()
        await wait_all_tasks_blocked()
        assert resting.log == ["first"]
        assert resting.turns.state.runnable_count == 0
        assert not resting.turns.state.is_afoot
        assert steps_are_seen()
        goes_on.set()
        await wait_all_tasks_blocked()
        assert not steps_are_seen()


async def test_a_cancelled_scope_wakes_one_that_rests_and_its_clean_up_is_seen() -> None:
    rig = Rig()
    seen: list[bool] = []

    async def body() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            try:
                await rig.perform(waiting("go"))
            finally:
                seen.append(steps_are_seen())
        await rig.perform(waiting("again"))

    scopes: list[trio.CancelScope] = []
    async with rig.body(body):
        assert not steps_are_seen()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        assert rig.log == ["go: Cancelled"]
        assert seen == [True]
        assert not steps_are_seen()
        assert rig.turns.state.runnable_count == 0


@pytest.mark.parametrize("is_shielded", [False, True])
async def test_one_that_rests_leaves_with_its_steps_seen(is_shielded: bool) -> None:
    """What it does after that is counted, so that it is abandoned if it goes on and on."""
    rig = Rig()
    seen: list[tuple[bool, int]] = []

    async def body() -> None:
        with trio.CancelScope(shield=is_shielded):
            try:
                await rig.perform(waiting("go"))
            finally:
                seen.append((steps_are_seen(), rig.turns.state.runnable_count))

    async with rig.body(body):
        assert not steps_are_seen()
    assert seen == [(True, 1)]
    assert not rig.turns.state.is_afoot


async def test_a_task_that_is_put_into_a_body_that_rests_is_seen() -> None:
    rig = Rig()

    async def wait_until(event: trio.Event) -> None:
        await event.wait()

    async with rig.body(lambda: rig.perform(waiting("go"))), trio.open_nursery() as nursery:
        assert not steps_are_seen()
        event = trio.Event()
        before = BODY.set(rig.turns.state)
        nursery.start_soon(wait_until, event)
        BODY.reset(before)
        assert steps_are_seen()
        await wait_all_tasks_blocked()
        assert rig.turns.state.runnable_count == 0
        event.set()
        assert rig.turns.state.runnable_count == 1


async def test_where_nobody_watches_any_more_no_step_is_seen() -> None:
    rig, block = Rig(), watching()
    with block:
        async with rig.body(trio.sleep_forever):
            assert steps_are_seen()
    assert not steps_are_seen()
