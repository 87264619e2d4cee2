"""The calls of a supervisor: starting, terminating, restarting and deleting a child; and children that misbehave."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisors import (
    AutoShutdown,
    Child,
    ChildNotFound,
    ChildRunning,
    ChildStarted,
    ChildStatus,
    Intensity,
    Restart,
    SupervisorClosed,
    SupervisorSpec,
    open_dynamic_supervisor,
    open_supervisor,
    run_supervisor,
)
from tests.supervisors.troupe import BoomError, Troupe


# The calls
async def test_equal_names_are_refused(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("a")) as supervisor:
        with pytest.raises(ValueError, match="'a' already"):
            await supervisor.start_child(troupe.child("a"))
        await supervisor.terminate_child("a")
        with pytest.raises(ValueError, match="'a' already"):
            await supervisor.start_child(troupe.child("a"))
        assert troupe.heard() == "+a -a"


async def test_a_terminated_child_stays_down_until_it_is_restarted(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("ab")) as supervisor:
        await supervisor.terminate_child("a")
        assert supervisor.child("a").status is ChildStatus.STOPPED
        await supervisor.terminate_child("a")
        assert await supervisor.restart_child("a") == "a is ready"
        assert troupe.heard() == "+a +b -a +a"
    assert troupe.heard() == "-b -a"


async def test_terminating_a_temporary_child_forgets_it(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("a", restart=Restart.TEMPORARY)) as supervisor:
        await supervisor.terminate_child("a")
        with pytest.raises(ChildNotFound, match="no child 'a'"):
            supervisor.child("a")


async def test_restart_and_delete_refuse_a_running_child(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("a")) as supervisor:
        with pytest.raises(ChildRunning):
            await supervisor.restart_child("a")
        with pytest.raises(ChildRunning):
            await supervisor.delete_child("a")
        await supervisor.terminate_child("a")
        await supervisor.delete_child("a")
        assert supervisor.children() == ()


async def test_a_restart_child_that_fails_leaves_the_child_down(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("a")) as supervisor:
        await supervisor.terminate_child("a")
        troupe.fails_at_start = {"a"}
        with pytest.raises(BoomError):
            await supervisor.restart_child("a")
        assert supervisor.child("a").status is ChildStatus.STOPPED


async def test_unknown_names_are_an_error_that_names_the_known_ones(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("a")) as supervisor:
        for call in (supervisor.terminate_child, supervisor.restart_child, supervisor.delete_child):
            with pytest.raises(ChildNotFound, match="no child 'b'; it has 'a'"):
                await call("b")


async def test_a_cancelled_start_child_stops_and_forgets_the_child(autojump_clock: MockClock, troupe: Troupe) -> None:
    stopped = []

    async def never_ready(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped.append(True)

    async with open_supervisor() as supervisor:
        with trio.move_on_after(1) as scope:
            await supervisor.start_child(Child("a", never_ready))
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert stopped == [True]
        assert supervisor.children() == ()
        await supervisor.start_child(troupe.child("a"))


async def test_a_cancelled_restart_child_leaves_the_child_down(autojump_clock: MockClock) -> None:
    starts = []

    async def ready_the_first_time(*, task_status: trio.TaskStatus[None]) -> None:
        starts.append(True)
        if len(starts) == 1:
            task_status.started()
        await trio.sleep_forever()

    async with open_supervisor(children=[Child("a", ready_the_first_time)]) as supervisor:
        await supervisor.terminate_child("a")
        with trio.move_on_after(1):
            await supervisor.restart_child("a")
        await wait_all_tasks_blocked()
        assert supervisor.child("a").status is ChildStatus.STOPPED
        assert len(starts) == 2


async def test_a_start_cancelled_before_its_turn_starts_nothing(autojump_clock: MockClock, troupe: Troupe) -> None:
    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(5)
        task_status.started()
        await trio.sleep_forever()

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_child, Child("slow", slow))
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await supervisor.start_child(troupe.child("a"))
        await trio.sleep(10)
        assert troupe.heard() == ""
        assert [child.name for child in supervisor.children()] == ["slow"]


async def test_a_cancelled_terminate_child_stops_the_child_all_the_same(autojump_clock: MockClock) -> None:
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    async with open_supervisor(children=[Child("a", tidy)]) as supervisor:
        with trio.move_on_after(1):
            await supervisor.terminate_child("a")
        assert supervisor.child("a").status is ChildStatus.STOPPING
        await trio.sleep(3)
        assert supervisor.child("a").status is ChildStatus.STOPPED


async def test_calls_after_the_end_are_refused(troupe: Troupe) -> None:
    async with open_supervisor() as supervisor:
        pass
    with pytest.raises(SupervisorClosed):
        await supervisor.start_child(troupe.child("a"))


async def test_a_call_that_waits_when_the_supervisor_stops_is_refused(troupe: Troupe) -> None:
    async def never_ready(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    refused: list[bool] = []

    async def ask() -> None:
        try:
            await supervisor.start_child(Child("never", never_ready))
        except SupervisorClosed:
            refused.append(True)

    async with trio.open_nursery() as outside, open_supervisor() as supervisor:
        outside.start_soon(ask)
        await wait_all_tasks_blocked()
    assert refused == [True]


async def test_nothing_is_started_once_the_supervisor_has_decided_to_stop() -> None:
    """The request is in the inbox already when the end of the significant child is handled."""
    order = trio.Event()
    refused: list[bool] = []

    async def late() -> None:
        pytest.fail("it was started")

    async def ask() -> None:
        await order.wait()
        try:
            await supervisor.start_child(Child("late", late))
        except SupervisorClosed:
            refused.append(True)

    last = Child("last", order.wait, restart=Restart.TRANSIENT, significant=True)
    auto_shutdown = AutoShutdown.ANY_SIGNIFICANT
    async with trio.open_nursery() as outside, open_supervisor(auto_shutdown=auto_shutdown) as supervisor:
        events = supervisor.events()
        await supervisor.start_child(last)
        outside.start_soon(ask)
        await wait_all_tasks_blocked()
        order.set()
        await trio.sleep_forever()
    assert refused == [True]
    assert {event.path[-1] async for event in events if isinstance(event, ChildStarted)} == {"last"}


async def test_a_child_may_terminate_itself(troupe: Troupe) -> None:
    async def tired() -> None:
        await supervisor.terminate_child("a")

    async with open_supervisor() as supervisor:
        await supervisor.start_child(Child("a", tired))
        await wait_all_tasks_blocked()
        assert supervisor.child("a").status is ChildStatus.STOPPED


# Odd exits
async def test_a_child_that_raises_while_it_is_cancelled_does_not_take_the_others_down(troupe: Troupe) -> None:
    """What comes out is a group of Cancelled and the error; only outside its own scope is it the error alone."""

    async def clumsy() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise BoomError

    async with open_supervisor(children=[troupe.child("a"), Child("clumsy", clumsy)]) as supervisor:
        await supervisor.terminate_child("clumsy")
        assert supervisor.child("a").status is ChildStatus.RUNNING
        assert "BoomError" in (supervisor.child("clumsy").last_error or "")


async def test_a_keyboard_interrupt_in_a_child_is_no_crash_but_ends_everything(troupe: Troupe) -> None:
    async def interrupted() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_supervisor(children=[troupe.child("a"), Child("b", interrupted)]):
            await trio.sleep_forever()
    assert caught.group_contains(KeyboardInterrupt)
    assert troupe.heard() == "+a -a"


async def test_a_child_may_be_any_callable_even_without_a_signature(troupe: Troupe) -> None:
    class Service:
        __signature__ = "not one"

        async def __call__(self) -> None:
            await trio.sleep_forever()

    async with open_supervisor(children=[Child("a", Service())]) as supervisor:
        assert supervisor.child("a").status is ChildStatus.RUNNING


async def test_run_supervisor_runs_one_as_a_task(troupe: Troupe) -> None:
    spec = SupervisorSpec(children=troupe.children("ab"))
    async with trio.open_nursery() as nursery:
        supervisor = await nursery.start(run_supervisor, spec)
        assert troupe.heard() == "+a +b"
        supervisor.stop()
    assert troupe.heard() == "-b -a"


@pytest.mark.parametrize("open_one", [open_supervisor, open_dynamic_supervisor])
async def test_a_child_that_cannot_even_be_called_is_not_ready(open_one: Any) -> None:
    """Wrong arguments, a mailbox that it does not take, no async function: the caller hears, and nothing is left."""

    async def needs_one(argument: int) -> None:
        await trio.sleep_forever()

    def plain() -> None: ...

    async with open_one(intensity=Intensity(0)) as supervisor:
        with pytest.raises(TypeError, match="argument"):
            await supervisor.start_child(Child("a", needs_one))
        with pytest.raises(TypeError, match="mailbox"):
            await supervisor.start_child(Child("a", needs_one, args=(1,), mailbox=1))
        with pytest.raises(TypeError, match=r"'a'.*async function is needed; this one returned None"):
            await supervisor.start_child(Child("a", plain))  # type: ignore[arg-type]
        assert supervisor.children() == ()


@pytest.mark.parametrize("open_one", [open_supervisor, open_dynamic_supervisor])
async def test_a_cancelled_start_returns_when_the_child_is_gone(autojump_clock: MockClock, open_one: Any) -> None:
    """So its name is free."""

    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await trio.sleep(60)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async def quick() -> None:
        await trio.sleep_forever()

    async with open_one() as supervisor:
        with trio.move_on_after(1) as scope:
            await supervisor.start_child(Child("a", slow))
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(3, abs=0.5)
        assert supervisor.children() == ()
        await supervisor.start_child(Child("a", quick))


async def test_a_start_that_is_cancelled_before_its_turn_starts_nothing(autojump_clock: MockClock) -> None:
    """It does not wait for the one whose turn it is."""
    started = []

    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(60)
        task_status.started()
        await trio.sleep_forever()

    async def note() -> None:
        started.append("b")
        await trio.sleep_forever()

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_child, Child("a", slow))
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await supervisor.start_child(Child("b", note))
        assert trio.current_time() == pytest.approx(1, abs=0.5)
        await trio.sleep(100)
        assert started == []
        assert [child.name for child in supervisor.children()] == ["a"]
