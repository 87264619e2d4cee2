"""Children that do not stop, nested supervisors, mailboxes."""

# ruff: noqa: PT012  (what leaves the block of a supervisor is what is tested)

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisors import (
    AutoShutdown,
    Child,
    ChildNotFound,
    ChildStatus,
    ChildUnstopped,
    DynamicSupervisor,
    DynamicSupervisorSpec,
    Intensity,
    Restart,
    RestartIntensityExceeded,
    Strategy,
    Supervisor,
    SupervisorSpec,
    UnstoppedChild,
    open_dynamic_supervisor,
    open_supervisor,
    run_supervisor,
)


class BoomError(Exception):
    pass


class Deaf:
    """A child that ignores its cancellation for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.starts_count = 0

    async def serve(self) -> None:
        self.starts_count += 1
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.seconds)


async def serve() -> None:
    await trio.sleep_forever()


async def crash_on(order: trio.Event) -> None:
    await order.wait()
    raise BoomError


# Children that do not stop


async def test_a_child_that_ignores_cancellation_is_reported_and_not_replaced(autojump_clock: MockClock) -> None:
    """Its siblings are stopped, and the failure leaves the block when the task has ended after all."""
    deaf, order = Deaf(60), trio.Event()
    children = [Child("crasher", crash_on, args=(order,)), Child("deaf", deaf.serve, shutdown=5), Child("c", serve)]
    events, failed_at = None, 0.0
    began_at = trio.current_time()
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(strategy=Strategy.REST_FOR_ONE, children=children) as supervisor:
            events = supervisor.events()
            order.set()
            try:
                await trio.sleep_forever()
            finally:
                failed_at = trio.current_time() - began_at
                assert supervisor.child("deaf").status is ChildStatus.UNSTOPPED
    assert failed_at == 5
    assert trio.current_time() - began_at == 60
    [error] = caught.value.exceptions
    assert isinstance(error, UnstoppedChild)
    assert (error.path, error.shutdown_seconds) == (("supervisor", "deaf"), 5)
    assert deaf.starts_count == 1
    assert events is not None
    assert [event.at - began_at async for event in events if isinstance(event, ChildUnstopped)] == [5]


async def test_the_others_are_stopped_though_one_does_not_stop_at_the_end(autojump_clock: MockClock) -> None:
    stopped_at = []

    async def note() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped_at.append(trio.current_time() - began_at)

    began_at = trio.current_time()
    children = [Child("a", note), Child("deaf", Deaf(60).serve, shutdown=5), Child("c", note)]
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(children=children):
            pass
    assert stopped_at == [0, 5]
    assert caught.group_contains(UnstoppedChild, depth=1)


async def test_terminate_child_raises_if_the_child_does_not_stop(autojump_clock: MockClock) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(children=[Child("deaf", Deaf(60).serve, shutdown=1)]) as supervisor:
            with trio.CancelScope(shield=True), pytest.raises(UnstoppedChild):
                await supervisor.terminate_child("deaf")
            await trio.sleep_forever()
    assert caught.group_contains(UnstoppedChild, depth=1)


async def test_the_failure_goes_up_at_once_through_all_supervisors(autojump_clock: MockClock) -> None:
    """Long before the task ends the root has stopped everything else, and its last resort was asked."""
    order = trio.Event()
    inner = SupervisorSpec(
        strategy=Strategy.ONE_FOR_ALL,
        children=[Child("deaf", Deaf(60).serve, shutdown=5), Child("crasher", crash_on, args=(order,))],
    )
    children = [Child("other", serve), Child("middle", SupervisorSpec(children=[Child("inner", inner)]))]
    asked: list[tuple[float, UnstoppedChild]] = []
    began_at = trio.current_time()

    def last_resort(error: UnstoppedChild) -> None:
        asked.append((trio.current_time() - began_at, error))

    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(children=children, name="root", on_unstopped=last_resort) as supervisor:
            order.set()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                assert trio.current_time() - began_at == 6
                assert supervisor.child("other").status is ChildStatus.STOPPED
    [(asked_at, error)] = asked
    assert (asked_at, error.path) == (5, ("root", "middle", "inner", "deaf"))
    assert caught.value.exceptions == (error,)
    assert trio.current_time() - began_at == 60


async def test_a_stuck_child_below_does_not_hold_up_the_stop_of_the_root(autojump_clock: MockClock) -> None:
    stopped_at = []

    async def note() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped_at.append(trio.current_time() - began_at)

    inner = SupervisorSpec(children=[Child("deaf", Deaf(60).serve, shutdown=5)])
    began_at = trio.current_time()
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(children=[Child("a", note), Child("inner", inner)]):
            pass
    assert stopped_at == [5]
    assert caught.group_contains(UnstoppedChild, depth=1)


async def test_a_dynamic_supervisor_reports_them_too(autojump_clock: MockClock) -> None:
    deaf = Deaf(60)
    with pytest.raises(ExceptionGroup) as caught:
        async with open_dynamic_supervisor() as supervisor:
            await supervisor.start_child(Child("deaf", deaf.serve, shutdown=2))
            await supervisor.start_child(Child("a", serve))
            with trio.CancelScope(shield=True), pytest.raises(UnstoppedChild):
                await supervisor.terminate_child("deaf")
            await trio.sleep_forever()
    assert caught.group_contains(UnstoppedChild, depth=1)
    assert deaf.starts_count == 1


# Nested supervisors


async def test_nested_supervisors_start_and_stop_in_order() -> None:
    log = []

    async def note(name: str) -> None:
        log.append(f"+{name}")
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"-{name}")

    def child(name: str) -> Child:
        return Child(name, note, args=(name,))

    inner = SupervisorSpec(children=[child("b"), child("c")])
    async with open_supervisor(children=[child("a"), Child("inner", inner), child("d")]) as supervisor:
        assert log == ["+a", "+b", "+c", "+d"]
        nested = supervisor.child("inner").value
        assert isinstance(nested, Supervisor)
        await nested.start_child(child("e"))
        assert supervisor.child("inner", "e").status is ChildStatus.RUNNING
        log.clear()
    assert log == ["-d", "-e", "-c", "-b", "-a"]


async def test_a_nested_supervisor_that_gives_up_is_restarted_by_the_one_above() -> None:
    starts, orders = [], [trio.Event() for _ in range(2)]

    async def fragile() -> None:
        starts.append(True)
        if len(starts) <= len(orders):
            await orders[len(starts) - 1].wait()
            raise BoomError
        await trio.sleep_forever()

    inner = SupervisorSpec(intensity=Intensity(1, per=5), children=[Child("fragile", fragile)])
    async with open_supervisor(children=[Child("inner", inner)]) as supervisor:
        first = supervisor.child("inner").value
        orders[0].set()
        await wait_all_tasks_blocked()
        assert supervisor.child("inner").value is first
        orders[1].set()
        await wait_all_tasks_blocked()
        assert supervisor.child("inner").value is not first
        assert supervisor.child("inner").restart_count == 1
        assert "RestartIntensityExceeded" in (supervisor.child("inner").last_error or "")
        assert len(starts) == 3


async def test_giving_up_goes_all_the_way_up() -> None:
    async def broken() -> None:
        raise BoomError

    inner = SupervisorSpec(intensity=Intensity(1, per=5), children=[Child("broken", broken)])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(intensity=Intensity(1, per=5), children=[Child("inner", inner)], name="root"):
            await trio.sleep_forever()
    [error] = caught.value.exceptions
    assert isinstance(error, RestartIntensityExceeded)
    assert error.path == ("root",)
    assert isinstance(error.__cause__, ExceptionGroup)


async def test_automatic_shutdown_of_a_nested_supervisor_is_a_normal_end_of_it() -> None:
    """So a transient supervisor is not restarted, and a significant one hands the shutdown on."""
    order = trio.Event()
    last = Child("last", order.wait, restart=Restart.TRANSIENT, significant=True)
    inner = SupervisorSpec(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, children=[last])
    outer = Child("inner", inner, restart=Restart.TRANSIENT, significant=True)
    async with open_supervisor(auto_shutdown=AutoShutdown.ALL_SIGNIFICANT, children=[outer]):
        order.set()
        await trio.sleep_forever()


async def test_a_nested_dynamic_supervisor() -> None:
    async with open_supervisor(children=[Child("runs", DynamicSupervisorSpec(max_children=5))]) as supervisor:
        runs = supervisor.child("runs").value
        assert isinstance(runs, DynamicSupervisor)
        await runs.start_child(Child("r1", serve))
        assert supervisor.child("runs", "r1").status is ChildStatus.RUNNING
        with pytest.raises(ChildNotFound, match="runs/r1' has no child 'x'"):
            supervisor.child("runs", "r1", "x")


async def test_run_supervisor_runs_a_dynamic_one_too() -> None:
    async with trio.open_nursery() as nursery:
        supervisor: Any = await nursery.start(run_supervisor, DynamicSupervisorSpec())
        assert isinstance(supervisor, DynamicSupervisor)
        nursery.cancel_scope.cancel()


# Mailboxes


async def test_a_mailbox_outlives_a_restart_of_its_child() -> None:
    got = []

    async def read(*, mailbox: trio.MemoryReceiveChannel[str]) -> None:
        async with mailbox:
            async for message in mailbox:
                if message == "crash":
                    raise BoomError
                got.append(message)

    async with open_supervisor(children=[Child("reader", read, mailbox=10)]) as supervisor:
        async with supervisor.mailbox("reader") as sender:
            for message in ("one", "crash", "two"):
                await sender.send(message)
        await wait_all_tasks_blocked()
        assert got == ["one", "two"]
        assert supervisor.child("reader").restart_count == 1


async def test_a_mailbox_is_bounded_and_breaks_when_its_place_is_gone() -> None:
    async def idle(*, mailbox: trio.MemoryReceiveChannel[str], task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    async with open_supervisor(children=[Child("a", idle, mailbox=1)]) as supervisor:
        sender = supervisor.mailbox("a")
        sender.send_nowait("kept")
        with pytest.raises(trio.WouldBlock):
            sender.send_nowait("too much")
        await supervisor.terminate_child("a")
        await supervisor.delete_child("a")
        with pytest.raises(trio.BrokenResourceError):
            await sender.send("too late")


async def test_mailboxes_close_with_their_supervisor() -> None:
    async def idle(*, mailbox: trio.MemoryReceiveChannel[str]) -> None:
        await trio.sleep_forever()

    async with open_supervisor(children=[Child("a", idle, mailbox=1)]) as supervisor:
        sender = supervisor.mailbox("a")
    with pytest.raises(trio.BrokenResourceError):
        await sender.send("too late")


async def test_a_child_without_a_mailbox_says_so() -> None:
    async with open_supervisor(children=[Child("a", serve)]) as supervisor:
        with pytest.raises(ValueError, match="no mailbox"):
            supervisor.mailbox("a")
