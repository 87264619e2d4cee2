"""The dynamic supervisor: independent children, started on demand, in any number."""

# ruff: noqa: PT012  (what leaves the block of a supervisor is what is tested)

from __future__ import annotations

import contextvars
import statistics
import time

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisors import (
    AutoShutdown,
    Backoff,
    Child,
    ChildNotFound,
    ChildStatus,
    DynamicSupervisorSpec,
    Intensity,
    Restart,
    RestartIntensityExceeded,
    SupervisorClosed,
    TooManyChildren,
    open_dynamic_supervisor,
    open_supervisor,
)
from tests.supervisors.troupe import BoomError


async def serve() -> None:
    await trio.sleep_forever()


async def test_ten_thousand_children_start_and_stop_in_a_few_seconds() -> None:
    """And the last thousand start as fast as the first: a start costs O(1)."""
    stopped_count = 0

    async def note() -> None:
        nonlocal stopped_count
        try:
            await trio.sleep_forever()
        finally:
            stopped_count += 1

    began_at = time.thread_time()  # of this thread: other processes may be busy too
    batch_seconds = []
    async with open_dynamic_supervisor() as supervisor:
        for batch in range(10):
            batch_began_at = time.thread_time()
            for number in range(1_000):
                await supervisor.start_child(Child(f"{batch}-{number}", note))
            batch_seconds.append(time.thread_time() - batch_began_at)
        assert supervisor.child_count == 10_000
        assert supervisor.child("9-999").status is ChildStatus.RUNNING
    assert stopped_count == 10_000
    assert supervisor.child_count == 0
    assert time.thread_time() - began_at < 10
    assert statistics.median(batch_seconds[-5:]) < 5 * min(batch_seconds)  # one may have met the garbage collector


async def test_children_start_independently_of_each_other(autojump_clock: MockClock) -> None:
    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(5)
        task_status.started()
        await trio.sleep_forever()

    began_at = trio.current_time()
    async with open_dynamic_supervisor() as supervisor:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(supervisor.start_child, Child(str(number), slow))
        assert trio.current_time() - began_at == 5


async def test_all_children_are_stopped_at_the_same_time(autojump_clock: MockClock) -> None:
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(4)

    began_at = trio.current_time()
    async with open_dynamic_supervisor() as supervisor:
        for number in range(10):
            await supervisor.start_child(Child(str(number), tidy))
    assert trio.current_time() - began_at == 4


@pytest.mark.parametrize(
    ("restart", "is_crash", "starts_count"),
    [
        (Restart.PERMANENT, True, 2),
        (Restart.PERMANENT, False, 2),
        (Restart.TRANSIENT, True, 2),
        (Restart.TRANSIENT, False, 1),
        (Restart.TEMPORARY, True, 1),
    ],
)
async def test_restart_types(restart: Restart, is_crash: bool, starts_count: int) -> None:
    starts, order = [], trio.Event()

    async def once() -> None:
        starts.append(True)
        if len(starts) > 1:
            await trio.sleep_forever()
        await order.wait()
        if is_crash:
            raise BoomError

    async with open_dynamic_supervisor() as supervisor:
        await supervisor.start_child(Child("a", once, restart=restart))
        order.set()
        await wait_all_tasks_blocked()
        assert len(starts) == starts_count
        assert [child.restart_count for child in supervisor.children()] == ([1] if starts_count == 2 else [])


async def test_a_child_that_has_ended_gives_its_name_free() -> None:
    async def done() -> None:
        await trio.lowlevel.checkpoint()

    async with open_dynamic_supervisor() as supervisor:
        for _ in range(3):
            await supervisor.start_child(Child("a", done, restart=Restart.TEMPORARY))
            await wait_all_tasks_blocked()
        assert supervisor.child_count == 0


async def test_the_limit_of_children() -> None:
    async with open_dynamic_supervisor(max_children=2) as supervisor:
        await supervisor.start_child(Child("a", serve))
        await supervisor.start_child(Child("b", serve))
        with pytest.raises(TooManyChildren, match="2 children already"):
            await supervisor.start_child(Child("c", serve))
        await supervisor.terminate_child("a")
        await supervisor.start_child(Child("c", serve))


async def test_equal_and_unknown_names_are_refused() -> None:
    async with open_dynamic_supervisor(max_children=1) as supervisor:
        await supervisor.start_child(Child("a", serve))
        with pytest.raises(ValueError, match="'a' already"):
            await supervisor.start_child(Child("a", serve))
        with pytest.raises(ChildNotFound):
            await supervisor.terminate_child("b")
        with pytest.raises(ValueError, match="auto_shutdown is NEVER"):
            await supervisor.start_child(Child("c", serve, restart=Restart.TRANSIENT, significant=True))
    assert AutoShutdown.NEVER.value == "never"


async def test_a_crash_before_started_is_raised_and_the_child_forgotten() -> None:
    async def broken(*, task_status: trio.TaskStatus[None]) -> None:
        raise BoomError

    async with open_dynamic_supervisor() as supervisor:
        with pytest.raises(BoomError):
            await supervisor.start_child(Child("a", broken))
        assert supervisor.children() == ()


async def test_start_child_gives_the_value_of_started() -> None:
    async def valued(*, task_status: trio.TaskStatus[int]) -> None:
        task_status.started(42)
        await trio.sleep_forever()

    async with open_dynamic_supervisor() as supervisor:
        assert await supervisor.start_child(Child("a", valued)) == 42


async def test_a_cancelled_start_child_stops_the_child(autojump_clock: MockClock) -> None:
    async def never_ready(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    async with open_dynamic_supervisor() as supervisor:
        with trio.move_on_after(1):
            await supervisor.start_child(Child("a", never_ready))
        await wait_all_tasks_blocked()
        assert supervisor.children() == ()


async def test_the_intensity_is_that_of_the_supervisor() -> None:
    orders = {name: trio.Event() for name in "ab"}

    async def crash_on(name: str) -> None:
        await orders[name].wait()
        raise BoomError

    with pytest.raises(ExceptionGroup) as caught:
        async with open_dynamic_supervisor(intensity=Intensity(1, per=5)) as supervisor:
            for name in orders:
                await supervisor.start_child(Child(name, crash_on, args=(name,)))
            orders["a"].set()
            await trio.sleep_forever()
    assert caught.group_contains(RestartIntensityExceeded, depth=1)


async def test_backoff_and_a_crash_before_started_at_a_restart(autojump_clock: MockClock) -> None:
    started_at = []

    async def moody(*, task_status: trio.TaskStatus[None]) -> None:
        started_at.append(trio.current_time() - began_at)
        if len(started_at) == 2:
            raise BoomError
        task_status.started()
        if len(started_at) == 1:
            raise BoomError
        await trio.sleep_forever()

    began_at = trio.current_time()
    async with open_dynamic_supervisor() as supervisor:
        await supervisor.start_child(Child("a", moody, backoff=Backoff(first=1, jitter=0)))
        await trio.sleep(0.5)
        assert supervisor.child("a").status is ChildStatus.WAITING
        await trio.sleep(10)
        assert started_at == [0, 1, 3]
        assert supervisor.child("a").status is ChildStatus.RUNNING


@pytest.mark.parametrize("is_terminated", [True, False])
async def test_a_wait_for_a_restart_ends_with_the_child_or_the_supervisor(
    autojump_clock: MockClock, is_terminated: bool
) -> None:
    starts = []

    async def broken() -> None:
        starts.append(True)
        raise BoomError

    began_at = trio.current_time()
    async with open_dynamic_supervisor() as supervisor:
        await supervisor.start_child(Child("a", broken, backoff=Backoff(first=10, jitter=0)))
        await trio.sleep(1)
        if is_terminated:
            await supervisor.terminate_child("a")
            await trio.sleep(20)
            assert supervisor.children() == ()
    assert trio.current_time() - began_at == (21 if is_terminated else 1)
    assert len(starts) == 1


async def test_children_inherit_the_context_of_the_supervisor_and_not_of_the_caller() -> None:
    who = contextvars.ContextVar("who", default="supervisor")
    seen = []

    async def look() -> None:
        seen.append(who.get())
        await trio.sleep_forever()

    async with open_dynamic_supervisor() as supervisor:
        who.set("caller")
        await supervisor.start_child(Child("a", look))
    assert seen == ["supervisor"]


async def test_first_children_start_together_and_the_block_is_entered_when_all_are_ready(
    autojump_clock: MockClock,
) -> None:
    async def slow(seconds: float, *, task_status: trio.TaskStatus[float]) -> None:
        await trio.sleep(seconds)
        task_status.started(seconds)
        await trio.sleep_forever()

    children = [Child(f"slow-{seconds}", slow, args=(seconds,)) for seconds in (3, 1, 2)]
    async with open_dynamic_supervisor(children=children, max_children=4) as supervisor:
        assert trio.current_time() == pytest.approx(3)
        assert [child.value for child in supervisor.children()] == [3, 1, 2]
        await supervisor.start_child(Child("more", serve))
        with pytest.raises(TooManyChildren):
            await supervisor.start_child(Child("too many", serve))


async def test_a_first_child_that_crashes_before_it_is_ready_ends_the_supervisor() -> None:
    async def broken(*, task_status: trio.TaskStatus[None]) -> None:
        raise BoomError("not today")

    stopped = trio.Event()

    async def well() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped.set()

    with pytest.raises(ExceptionGroup) as caught:
        async with open_dynamic_supervisor(children=[Child("well", well), Child("broken", broken)]):
            raise AssertionError("never entered")
    assert caught.group_contains(BoomError, match="not today")
    assert stopped.is_set()


async def test_first_children_come_again_when_the_supervisor_above_restarts_theirs(autojump_clock: MockClock) -> None:
    started: list[str] = []

    async def note(name: str) -> None:
        started.append(name)
        is_second = len(started) == 2
        await trio.sleep(1)
        if is_second:
            raise BoomError
        await trio.sleep_forever()

    nested = DynamicSupervisorSpec(
        intensity=Intensity(0, per=5), children=[Child("a", note, args=("a",)), Child("b", note, args=("b",))]
    )
    async with open_supervisor(children=[Child("nested", nested)]) as root:
        await trio.sleep(1.5)
        assert sorted(started[2:]) == ["a", "b"]
        assert root.child("nested").restart_count == 1


def test_first_children_are_checked_as_values() -> None:
    with pytest.raises(ValueError, match="two children are named 'a'"):
        DynamicSupervisorSpec(children=[Child("a", serve), Child("a", serve)])
    with pytest.raises(ValueError, match="2 children are more than max_children, 1"):
        DynamicSupervisorSpec(max_children=1, children=[Child("a", serve), Child("b", serve)])


async def test_calls_after_the_end_are_refused() -> None:
    async with open_dynamic_supervisor() as supervisor:
        pass
    with pytest.raises(SupervisorClosed):
        await supervisor.start_child(Child("a", serve))
    with pytest.raises(SupervisorClosed):
        await supervisor.terminate_child("a")
