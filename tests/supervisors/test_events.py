"""Events as values on bounded streams, and the tree as data and as a drawing."""

from __future__ import annotations

import gc
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisors import (
    Backoff,
    Child,
    ChildExited,
    ChildStarted,
    ChildStatus,
    DynamicSupervisorSpec,
    Event,
    EventsLost,
    ExitKind,
    Intensity,
    NodeKind,
    Restart,
    RestartScheduled,
    Strategy,
    SupervisorEnded,
    SupervisorSpec,
    SupervisorStarted,
    SupervisorStopping,
    TreeNode,
    format_tree,
    open_dynamic_supervisor,
    open_supervisor,
)


class BoomError(Exception):
    pass


async def serve() -> None:
    await trio.sleep_forever()


def brief(event: Event) -> str:
    """Write an event in a few words."""
    match event:
        case ChildStarted():
            return f"{event.path[-1]} started {event.restart_count}"
        case ChildExited():
            return f"{event.path[-1]} {event.exit.kind.value}"
        case RestartScheduled():
            return f"{event.path[-1]} restarts {'+'.join(event.names)} in {event.delay_seconds:g}"
        case SupervisorStopping():
            return f"{event.path[-1]} stops: {event.reason}"
        case SupervisorEnded():
            return f"{event.path[-1]} ended: {event.error!r}"
        case _:
            return type(event).__name__


async def test_the_life_of_a_child_in_events() -> None:
    order = trio.Event()

    async def crash_once() -> None:
        if order.is_set():
            await trio.sleep_forever()
        await order.wait()
        raise BoomError("at once")

    async with open_supervisor(strategy=Strategy.REST_FOR_ONE, name="top") as supervisor:
        events = supervisor.events()
        await supervisor.start_child(Child("a", crash_once))
        await supervisor.start_child(Child("b", serve))
        order.set()
        await wait_all_tasks_blocked()
    assert [brief(event) async for event in events] == [
        "a started 0",
        "b started 0",
        "a crashed",
        "a restarts a+b in 0",
        "b stopped",
        "a started 1",
        "b started 1",
        "top stops: its block ended",
        "b stopped",
        "a stopped",
        "top ended: None",
    ]


async def test_events_carry_the_time_the_path_and_the_error(autojump_clock: MockClock) -> None:
    async def crash() -> None:
        await trio.sleep(3)
        raise BoomError("after a while")

    began_at = trio.current_time()
    inner = SupervisorSpec(children=[Child("a", crash, restart=Restart.TEMPORARY)])
    async with open_supervisor(children=[Child("inner", inner)], name="top") as supervisor:
        events = supervisor.events()
        await trio.sleep(5)
        event = await anext(events)
    assert isinstance(event, ChildExited)
    assert (event.path, event.at - began_at) == (("top", "inner", "a"), 3)
    assert event.exit.kind is ExitKind.CRASHED
    assert isinstance(event.exit.error, BoomError)
    assert str(event.exit) == "crashed: BoomError: after a while"


async def test_a_listener_at_the_top_hears_what_happens_below() -> None:
    async with open_supervisor(name="top") as supervisor:
        events = supervisor.events()
        await supervisor.start_child(Child("inner", SupervisorSpec(children=[Child("a", serve)])))
        heard = [events.take_nowait() for _ in range(3)]
    assert [type(event) for event in heard] == [ChildStarted, SupervisorStarted, ChildStarted]
    assert isinstance(heard[0], ChildStarted)
    assert heard[0].path == ("top", "inner", "a")


async def test_a_slow_listener_loses_the_oldest_and_is_told_how_many() -> None:
    async with open_supervisor() as supervisor:
        slow, fast = supervisor.events(3), supervisor.events()
        for number in range(5):
            await supervisor.start_child(Child(str(number), serve))
        assert await anext(slow) == EventsLost(lost_count=2)
        rest = [await anext(slow) for _ in range(3)]
        assert [brief(event) for event in rest] == ["2 started 0", "3 started 0", "4 started 0"]
        assert slow.take_nowait() is None
        assert brief(await anext(fast)) == "0 started 0"


async def test_a_listener_waits_for_the_next_event_and_may_stop_listening() -> None:
    heard: list[str] = []

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with supervisor.events() as events:
            task_status.started()
            async for event in events:
                heard.append(brief(event))
                if len(heard) == 2:
                    break
        assert events.take_nowait() is None

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        await nursery.start(listen)
        for name in "abc":
            await supervisor.start_child(Child(name, serve))
            await wait_all_tasks_blocked()
    assert heard == ["a started 0", "b started 0"]


async def test_a_dropped_stream_is_forgotten() -> None:
    async with open_supervisor() as supervisor:
        supervisor.events()
        gc.collect()
        assert len(supervisor._event_source._streams) == 0


async def test_a_stream_opened_after_the_end_is_empty() -> None:
    async with open_supervisor() as supervisor:
        pass
    assert [event async for event in supervisor.events()] == []


async def test_a_stream_keeps_at_least_one_event() -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(ValueError, match="at least 1"):
            supervisor.events(0)


# The tree


async def test_the_tree_as_data(autojump_clock: MockClock) -> None:
    inner = SupervisorSpec(strategy=Strategy.ONE_FOR_ALL, children=[Child("a", serve)])
    children = [Child("inner", inner), Child("b", serve, restart=Restart.TEMPORARY)]
    async with open_supervisor(children=children, intensity=Intensity(2, per=10), name="top") as supervisor:
        await trio.sleep(7)
        tree = supervisor.tree()
    expected = TreeNode(
        name="top",
        kind=NodeKind.SUPERVISOR,
        status=ChildStatus.RUNNING,
        strategy=Strategy.ONE_FOR_ONE,
        intensity=Intensity(2, per=10),
        children=(
            TreeNode(
                name="inner",
                kind=NodeKind.SUPERVISOR,
                status=ChildStatus.RUNNING,
                restart=Restart.PERMANENT,
                strategy=Strategy.ONE_FOR_ALL,
                intensity=Intensity(),
                up_seconds=7,
                children=(
                    TreeNode(
                        name="a",
                        kind=NodeKind.TASK,
                        status=ChildStatus.RUNNING,
                        restart=Restart.PERMANENT,
                        up_seconds=7,
                    ),
                ),
            ),
            TreeNode(name="b", kind=NodeKind.TASK, status=ChildStatus.RUNNING, restart=Restart.TEMPORARY, up_seconds=7),
        ),
    )
    assert tree == expected


async def test_the_tree_as_a_drawing(autojump_clock: MockClock) -> None:
    async def crash() -> None:
        await trio.sleep(1)
        raise BoomError("connection lost\nand a second line")

    readers = Child("readers", SupervisorSpec(strategy=Strategy.REST_FOR_ONE, children=[Child("socket", serve)]))
    flaky = Child("flaky", crash, backoff=Backoff(first=60, longest=60, jitter=0))
    async with open_supervisor(children=[readers, flaky, Child("runs", DynamicSupervisorSpec())]) as supervisor:
        runs: Any = supervisor.child("runs").value
        for number in range(3):
            await runs.start_child(Child(f"r{number}", serve, restart=Restart.TEMPORARY))
        await trio.sleep(75)
        drawing = supervisor.format_tree(children_max=2)
        assert supervisor.format_tree() == format_tree(supervisor.tree())
    assert drawing.splitlines() == [
        "supervisor    one_for_one · running · 0 of 3 restarts in 5 s",
        "├─ readers    rest_for_one · running · up 1 min 15 s · 0 of 3 restarts in 5 s",
        "│  └─ socket  task · running · up 1 min 15 s",
        "├─ flaky      task · waiting · restarted 1× · BoomError: connection lost",
        "└─ … 1 more",
    ]


def test_long_errors_and_times_are_drawn_short() -> None:
    node = TreeNode(
        name="a",
        kind=NodeKind.PROCESS,
        status=ChildStatus.RUNNING,
        pid=42,
        up_seconds=7_384,
        restart_count=2,
        last_error="x" * 200,
    )
    drawing = format_tree(node)
    assert drawing.startswith("a  process · running · pid 42 · up 2 h 3 min · restarted 2× · xxx")
    assert drawing.endswith("x…")
    assert len(drawing) < 170


async def test_a_dynamic_supervisor_with_many_children_is_drawn_in_few_lines() -> None:
    async with open_dynamic_supervisor(name="runs") as supervisor:
        for number in range(100):
            await supervisor.start_child(Child(str(number), serve))
        lines = supervisor.format_tree(children_max=3).splitlines()
    assert lines[0].startswith("runs")
    assert "dynamic · running · 100 children" in lines[0]
    assert lines[-1] == "└─ … 97 more"
    assert len(lines) == 5


async def test_children_are_reported_as_values() -> None:
    async with open_supervisor(children=[Child("a", serve)]) as supervisor:
        [info] = supervisor.children()
        assert (info.name, info.kind, info.status, info.pid) == ("a", NodeKind.TASK, ChildStatus.RUNNING, None)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            info.name = "b"  # type: ignore[misc]


async def test_a_stream_of_events_is_the_receiving_end_of_a_channel() -> None:
    async with open_supervisor() as supervisor:
        events: trio.abc.ReceiveChannel[Event] = supervisor.events()
        await supervisor.start_child(Child("a", serve))
        assert brief(await events.receive()) == "a started 0"
        async with supervisor.events() as closed:
            await supervisor.terminate_child("a")
        assert brief(await closed.receive()) == "a stopped"
        with pytest.raises(trio.EndOfChannel):
            await closed.receive()
    assert [brief(event) async for event in events][-1] == "supervisor ended: None"
    with pytest.raises(trio.EndOfChannel):
        await events.receive()
