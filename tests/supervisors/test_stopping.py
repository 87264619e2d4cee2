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


def leaves(error: BaseException) -> list[BaseException]:
    """Return what is in a group, however deep."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]


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


async def test_a_mailbox_outlives_a_restart_of_the_supervisor_above_its_child() -> None:
    """Also what was sent meanwhile, and two levels further down; a sender need not know of any restart."""
    got = []
    crash = trio.Event()
    crash_count = 0

    async def crash_once(order: trio.Event) -> None:
        nonlocal crash_count
        await order.wait()
        crash_count += 1
        if crash_count > 1:
            await trio.sleep_forever()
        raise BoomError

    async def read(*, mailbox: trio.MemoryReceiveChannel[str]) -> None:
        async for message in mailbox:
            got.append(message)

    reader = SupervisorSpec(children=[Child("reader", read, mailbox=10)])
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        await supervisor.start_child(Child("outer", SupervisorSpec(children=[Child("inner", reader)])))
        await supervisor.start_child(Child("crasher", crash_once, args=(crash,)))
        before: Supervisor = supervisor.child("outer", "inner").value
        async with before.mailbox("reader") as sender:
            await sender.send("one")
            await wait_all_tasks_blocked()
            crash.set()
            await before.wait_ended()
            await sender.send("two")
            await wait_all_tasks_blocked()
            assert supervisor.child("outer", "inner").value is not before
            assert got == ["one", "two"]


async def test_mailboxes_below_a_supervisor_break_when_its_place_is_gone() -> None:
    async def idle(*, mailbox: trio.MemoryReceiveChannel[str]) -> None:
        await trio.sleep_forever()

    spec = SupervisorSpec(children=[Child("declared", idle, mailbox=1)])
    async with open_supervisor() as supervisor:
        nested = await supervisor.start_child(Child("nested", spec))
        await nested.start_child(Child("added", idle, mailbox=1))
        declared, added = nested.mailbox("declared"), nested.mailbox("added")
        await supervisor.terminate_child("nested")
        with pytest.raises(trio.BrokenResourceError):
            added.send_nowait("nobody will start it again")
        declared.send_nowait("for the next one")
        await supervisor.delete_child("nested")
        with pytest.raises(trio.BrokenResourceError):
            declared.send_nowait("too late")


# What ends the program


async def test_what_ends_the_program_stops_the_siblings_in_order_within_their_deadlines(
    autojump_clock: MockClock,
) -> None:
    ended: list[tuple[str, float]] = []
    unstopped: list[UnstoppedChild] = []
    interrupt = trio.Event()

    async def slow(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ended.append((name, trio.current_time()))

    async def interrupted() -> None:
        await interrupt.wait()
        raise KeyboardInterrupt

    deaf = Deaf(30)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_supervisor(on_unstopped=unstopped.append) as supervisor:
            await supervisor.start_child(Child("first", slow, args=("first",)))
            await supervisor.start_child(Child("interrupted", interrupted))
            await supervisor.start_child(Child("deaf", deaf.serve, shutdown=5))
            await supervisor.start_child(Child("last", slow, args=("last",)))
            began_at = trio.current_time()
            interrupt.set()
            await trio.sleep_forever()
    assert [(name, round(at - began_at)) for name, at in ended] == [("last", 1), ("first", 7)]
    assert [error.path for error in unstopped] == [("supervisor", "deaf")]
    assert caught.group_contains(KeyboardInterrupt)
    assert caught.group_contains(UnstoppedChild)


@pytest.mark.parametrize("open_one", [open_supervisor, open_dynamic_supervisor])
async def test_what_ends_the_program_leaves_a_nested_supervisor_too(open_one: Any) -> None:
    """Alone: nothing else has failed."""

    async def exit() -> None:
        await trio.lowlevel.checkpoint()
        raise SystemExit(3)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_one() as supervisor:
            nested = await supervisor.start_child(Child("nested", SupervisorSpec(children=[Child("exits", exit)])))
            await trio.sleep_forever()
    assert [type(error) for error in leaves(caught.value)] == [SystemExit]
    assert nested.tree().status is ChildStatus.STOPPED


async def test_a_child_that_ends_the_program_before_it_is_ready_is_all_that_is_raised() -> None:
    async def exit(*, task_status: trio.TaskStatus[None]) -> None:
        raise SystemExit(3)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_supervisor(children=[Child("exits", exit)]):
            pass
    assert [type(error) for error in leaves(caught.value)] == [SystemExit]


# A tree that has ended


async def test_the_tree_of_a_supervisor_that_has_ended_says_so() -> None:
    async with open_supervisor(children=[Child("a", serve)]) as supervisor:
        pass
    assert supervisor.tree().status is ChildStatus.STOPPED
    assert "stopped" in supervisor.format_tree().splitlines()[0]


@pytest.mark.parametrize("open_one", [open_supervisor, open_dynamic_supervisor])
async def test_with_no_time_to_stop_a_child_is_cancelled_and_no_more(open_one: Any) -> None:
    """It is no failure: there are some passes of the loop for it to end."""
    async with open_one() as supervisor:
        await supervisor.start_child(Child("a", serve, shutdown=0))
        await supervisor.start_child(Child("b", SupervisorSpec(children=[Child("c", serve, shutdown=0)]), shutdown=0))
        await supervisor.terminate_child("a")


@pytest.mark.parametrize("spec", [SupervisorSpec, DynamicSupervisorSpec])
async def test_a_child_that_crashes_at_the_opening_is_named_by_a_note(spec: Any) -> None:
    async def crash(*, task_status: trio.TaskStatus[None]) -> None:
        raise BoomError

    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(children=[Child("nested", spec(children=[Child("crashes", crash)]))]):
            pass
    (error,) = leaves(caught.value)
    assert error.__notes__ == ["child 'supervisor/nested/crashes' crashed before it was ready"]
