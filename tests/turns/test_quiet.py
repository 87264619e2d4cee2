"""Noticing when a body is blocked: its tasks and nobody else's, and what each waits for."""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from durable_trio.turns.foreign import foreign_wait
from durable_trio.turns.lane import Lane
from durable_trio.turns.quiet import BODY, watching


class Noting:
    """What the instrument needs of a run; notes at each quiet how many tasks there were."""

    def __init__(self) -> None:
        self.runnable_count = 0
        self.tasks: set[trio.lowlevel.Task] = set()
        self.lane = Lane()
        self.is_afoot = False
        self.quiets: list[int] = []
        self.pump = lambda: self.quiets.append(len(self.tasks))

    def failed(self, error: BaseException) -> None:
        raise error


def start(nursery: trio.Nursery, watched: Noting, fn: Any, *args: Any) -> None:
    context = copy_context()
    context.run(BODY.set, watched)
    context.run(partial(nursery.start_soon, fn, *args))


async def test_a_body_is_quiet_when_all_of_its_tasks_are_blocked() -> None:
    watched = Noting()
    order: list[str] = []
    go = trio.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(child, name)
            order.append("main")

    async def child(name: str) -> None:
        await trio.lowlevel.checkpoint()
        order.append(name)
        await go.wait()

    with watching():
        async with trio.open_nursery() as nursery:
            start(nursery, watched, main)
            await wait_all_tasks_blocked()
            assert watched.quiets == [4]
            assert watched.runnable_count == 0
            assert sorted(order) == ["a", "b", "c", "main"]
            go.set()
        assert (watched.tasks, watched.runnable_count) == (set(), 0)


async def test_tasks_outside_of_a_body_and_other_bodies_do_not_count() -> None:
    one, two = Noting(), Noting()

    async def busy(passes: int) -> None:
        for _ in range(passes):
            await trio.lowlevel.checkpoint()

    with watching():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy, 50)
            start(nursery, one, busy, 3)
            start(nursery, two, busy, 30)
    assert len(one.quiets) == len(two.quiets) == 1  # once each, at its end: it never blocked before
    assert (one.runnable_count, two.runnable_count) == (0, 0)


async def test_what_a_task_starts_with_the_variable_cleared_is_no_body() -> None:
    watched = Noting()

    async def step() -> None:
        for _ in range(10):
            await trio.lowlevel.checkpoint()

    async def main(nursery: trio.Nursery) -> None:
        cleared = copy_context()
        cleared.run(BODY.set, None)
        cleared.run(nursery.start_soon, step)
        await trio.sleep_forever()

    with watching():
        async with trio.open_nursery() as nursery:
            start(nursery, watched, main, nursery)
            await wait_all_tasks_blocked()
            assert watched.quiets == [1]
            nursery.cancel_scope.cancel()


async def test_two_tasks_that_one_thing_wakes_always_go_in_the_order_of_their_ages() -> None:
    """Trio keeps those who wait for an event in a set, and shuffles what is runnable at once."""
    for _ in range(30):
        order: list[int] = []
        event = trio.Event()

        async def child(number: int, order: list[int] = order, event: trio.Event = event) -> None:
            await event.wait()
            order.append(number)
            await trio.lowlevel.checkpoint()
            order.append(number)

        async def main(event: trio.Event = event, child: Any = child) -> None:
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(child, number)
                await trio.testing.wait_all_tasks_blocked()
                event.set()

        with watching():
            async with trio.open_nursery() as nursery:
                start(nursery, Noting(), main)
        assert order == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


async def test_blocks_may_overlap_and_the_last_one_takes_the_instrument_out() -> None:
    watched = Noting()

    async def checkpoint() -> None:
        await trio.lowlevel.checkpoint()

    async def once() -> int:
        before = len(watched.quiets)
        async with trio.open_nursery() as nursery:
            start(nursery, watched, checkpoint)
        return len(watched.quiets) - before

    first, second = watching(), watching()
    first.__enter__()
    second.__enter__()
    assert await once() == 1
    first.__exit__(None, None, None)
    assert await once() == 1
    second.__exit__(None, None, None)
    assert await once() == 0
    with watching():
        assert await once() == 1


async def sleep() -> None:
    await trio.sleep_forever()


async def event() -> None:
    await trio.Event().wait()


async def channel() -> None:
    send, receive = trio.open_memory_channel[int](0)
    async with send, receive:
        await receive.receive()


async def lock() -> None:
    own = trio.Lock()
    async with trio.open_nursery() as nursery:
        async with own:
            nursery.start_soon(own.acquire)
            await trio.Event().wait()


async def nursery_exit() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(event)


async def socket() -> None:
    one, two = trio.socket.socketpair()
    with one, two:
        await one.recv(1)


@pytest.mark.parametrize(
    ("fn", "is_foreign"),
    [(sleep, True), (socket, True), (event, False), (channel, False), (nursery_exit, False), (lock, False)],
)
async def test_a_wait_for_something_outside_the_process_is_told_from_one_for_another_task(
    fn: Any, is_foreign: bool
) -> None:
    tasks: list[trio.lowlevel.Task] = []

    async def main() -> None:
        tasks.append(trio.lowlevel.current_task())
        await fn()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(main)
        await wait_all_tasks_blocked()
        place = foreign_wait(tasks[0])
        if is_foreign:
            assert place is not None
            assert "test_quiet.py:" in place
            assert place.endswith(f"in {fn.__name__}")
        else:
            assert place is None
        nursery.cancel_scope.cancel()


async def test_a_wait_for_another_task_is_named_where_that_task_may_be_nobodys() -> None:
    tasks: list[trio.lowlevel.Task] = []

    async def main() -> None:
        tasks.append(trio.lowlevel.current_task())
        await event()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(main)
        await wait_all_tasks_blocked()
        assert foreign_wait(tasks[0]) is None
        assert "in event" in str(foreign_wait(tasks[0], also_in_process=True))
        nursery.cancel_scope.cancel()
