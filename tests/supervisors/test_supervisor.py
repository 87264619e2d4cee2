"""What OTP documents for `supervisor`, case by case: starting, stopping, restarting, the intensity, backoff."""

# ruff: noqa: PT012  (what leaves the block of a supervisor is what is tested)

from __future__ import annotations

import functools
import math
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisors import (
    AutoShutdown,
    Backoff,
    Child,
    ChildStatus,
    Intensity,
    Restart,
    RestartIntensityExceeded,
    RestartScheduled,
    Strategy,
    open_supervisor,
)
from supervisors.children import takes_task_status
from tests.supervisors.troupe import BoomError, Troupe


# Starting and stopping
async def test_children_start_in_order_and_stop_in_reverse(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("abc")):
        assert troupe.heard() == "+a +b +c"
    assert troupe.heard() == "-c -b -a"


async def test_each_child_is_ready_before_the_next_is_started(autojump_clock: MockClock) -> None:
    log = []

    async def slow(name: str, *, task_status: trio.TaskStatus[None]) -> None:
        log.append(f"{name} starts at {trio.current_time():g}")
        await trio.sleep(2)
        task_status.started()
        await trio.sleep_forever()

    began_at = trio.current_time()
    async with open_supervisor(children=[Child("a", slow, args=("a",)), Child("b", slow, args=("b",))]):
        assert log == [f"a starts at {began_at:g}", f"b starts at {began_at + 2:g}"]
        assert trio.current_time() == began_at + 4


async def test_start_child_returns_what_the_child_gave_to_started(troupe: Troupe) -> None:
    async with open_supervisor() as supervisor:
        assert await supervisor.start_child(troupe.child("a")) == "a is ready"
        assert supervisor.child("a").value == "a is ready"


class Starts:
    """Callables of all kinds, with and without ``task_status``."""

    async def says(self, *, task_status: trio.TaskStatus[None]) -> None: ...

    async def silent(self) -> None: ...

    async def __call__(self, *, task_status: trio.TaskStatus[None]) -> None: ...

    @staticmethod
    async def has_a_variable() -> None:
        task_status = None
        assert task_status is None

    @staticmethod
    async def by_place(task_status: trio.TaskStatus[None]) -> None: ...

    @functools.wraps(says)
    async def stands_for_one_that_says(*args: Any, **options: Any) -> None: ...

    @functools.wraps(silent)
    async def stands_for_a_silent_one(*args: Any, task_status: trio.TaskStatus[None]) -> None: ...


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Starts().says, True),
        (Starts().silent, False),
        (Starts(), True),
        (Starts.has_a_variable, False),
        (Starts.by_place, True),
        (Starts().stands_for_one_that_says, True),
        (Starts().stands_for_a_silent_one, False),
        (functools.partial(Starts.by_place), True),
        (functools.partial(Starts().silent), False),
        (trio.sleep_forever, False),
        (print, False),
    ],
)
def test_who_says_when_he_is_ready_is_known_by_his_signature(start: Any, expected: bool) -> None:
    assert takes_task_status(start) is expected


async def test_a_child_without_task_status_is_ready_when_it_runs() -> None:
    ran = []

    async def serve() -> None:
        ran.append(True)
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        assert await supervisor.start_child(Child("a", serve)) is None
        assert ran == [True]


async def test_start_child_raises_a_crash_that_comes_before_started_and_forgets_the_child(troupe: Troupe) -> None:
    troupe.fails_at_start = {"b"}
    async with open_supervisor(children=troupe.children("a")) as supervisor:
        with pytest.raises(BoomError):
            await supervisor.start_child(troupe.child("b"))
        assert [child.name for child in supervisor.children()] == ["a"]
        troupe.fails_at_start = set()
        await supervisor.start_child(troupe.child("b"))
        assert troupe.heard() == "+a +b +b"


async def test_a_child_that_returns_before_started_did_not_start() -> None:
    async def forgetful(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.lowlevel.checkpoint()

    async with open_supervisor() as supervisor:
        with pytest.raises(RuntimeError, match="without calling task_status"):
            await supervisor.start_child(Child("a", forgetful))


async def test_started_twice_is_an_error() -> None:
    async def eager(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with pytest.raises(RuntimeError, match="twice"):
            task_status.started()
        await trio.sleep_forever()

    async with open_supervisor(children=[Child("a", eager)]) as supervisor:
        assert supervisor.child("a").status is ChildStatus.RUNNING


async def test_a_failing_first_child_stops_those_before_it_and_leaves_the_block_unentered(troupe: Troupe) -> None:
    troupe.fails_at_start = {"c"}
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(children=troupe.children("abcd")):
            pytest.fail("the block was entered")
    assert caught.group_contains(BoomError, depth=1)
    assert troupe.heard() == "+a +b +c -b -a"


async def test_an_error_of_the_block_stops_the_children_and_comes_out(troupe: Troupe) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(children=troupe.children("ab")):
            raise BoomError("block")
    assert caught.group_contains(BoomError, depth=1)
    assert troupe.heard() == "+a +b -b -a"


async def test_cancelling_the_block_stops_the_children_in_reverse(troupe: Troupe) -> None:
    with trio.CancelScope() as scope:
        async with open_supervisor(children=troupe.children("abc")):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert troupe.heard() == "+a +b +c -c -b -a"


async def test_cancelling_while_children_start_stops_those_that_did(autojump_clock: MockClock, troupe: Troupe) -> None:
    async def never_ready(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        async with open_supervisor(children=[troupe.child("a"), Child("never", never_ready), troupe.child("c")]):
            pytest.fail("the block was entered")
    assert scope.cancelled_caught
    assert troupe.heard() == "+a -a"


async def test_a_child_has_its_shutdown_seconds_to_clean_up(autojump_clock: MockClock) -> None:
    cleaned_at = []

    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(4)
            cleaned_at.append(trio.current_time())

    began_at = trio.current_time()
    async with open_supervisor(children=[Child("a", tidy), Child("b", tidy)]):
        pass
    assert cleaned_at == [began_at + 4, began_at + 8]


async def test_stop_ends_the_block_quietly(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("ab")) as supervisor:
        supervisor.stop()
        await supervisor.wait_ended()
        pytest.fail("the block went on")
    await supervisor.wait_ended()
    assert troupe.heard() == "+a +b -b -a"


async def test_children_inherit_the_context_of_the_supervisor_and_not_of_the_caller(troupe: Troupe) -> None:
    import contextvars

    who = contextvars.ContextVar("who", default="supervisor")
    seen = []

    async def look() -> None:
        seen.append(who.get())
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        who.set("caller")
        await supervisor.start_child(Child("a", look))
    assert seen == ["supervisor"]


# Strategies
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, "-b +b"),
        (Strategy.ONE_FOR_ALL, "-b -d -c -a +a +b +c +d"),
        (Strategy.REST_FOR_ONE, "-b -d -c +b +c +d"),
    ],
)
async def test_strategies(troupe: Troupe, strategy: Strategy, expected: str) -> None:
    async with open_supervisor(strategy=strategy, children=troupe.children("abcd")) as supervisor:
        troupe.heard()
        await troupe.crash("b")
        assert troupe.heard() == expected
        assert all(child.status is ChildStatus.RUNNING for child in supervisor.children())


async def test_a_child_started_later_is_part_of_the_order(troupe: Troupe) -> None:
    async with open_supervisor(strategy=Strategy.REST_FOR_ONE, children=troupe.children("ab")) as supervisor:
        await supervisor.start_child(troupe.child("c"))
        troupe.heard()
        await troupe.crash("b")
        assert troupe.heard() == "-b -c +b +c"


async def test_a_crash_during_the_restart_of_a_group_restarts_from_there(mock_clock: MockClock, troupe: Troupe) -> None:
    """OTP: a start that fails during a restart is tried again, and counts as one more restart. (Time stands still.)"""
    strategy, intensity = Strategy.REST_FOR_ONE, Intensity(3, per=5)
    async with open_supervisor(strategy=strategy, intensity=intensity, children=troupe.children("abcd")) as supervisor:
        troupe.heard()
        troupe.fails_at_next_start = {"c"}
        await troupe.crash("a")
        assert troupe.heard() == "-a -d -c -b +a +b +c +c +d"
        assert supervisor.tree().restarts_in_window == 2


async def test_with_one_for_all_a_crash_during_the_restart_begins_again_with_the_first(
    mock_clock: MockClock, troupe: Troupe
) -> None:
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, children=troupe.children("abc")):
        troupe.heard()
        troupe.fails_at_next_start = {"b"}
        await troupe.crash("c")
        assert troupe.heard() == "-c -b -a +a +b -a +a +b +c"


async def test_a_crash_of_two_at_the_same_moment_restarts_both(troupe: Troupe) -> None:
    async with open_supervisor(children=troupe.children("ab")):
        troupe.heard()
        troupe._orders["a"][0].send_nowait(True)
        await troupe.crash("b")
        assert sorted(troupe.heard().split()) == ["+a", "+b", "-a", "-b"]


# Restart types
@pytest.mark.parametrize(
    ("restart", "is_crash", "status"),
    [
        (Restart.PERMANENT, True, ChildStatus.RUNNING),
        (Restart.PERMANENT, False, ChildStatus.RUNNING),
        (Restart.TRANSIENT, True, ChildStatus.RUNNING),
        (Restart.TRANSIENT, False, ChildStatus.FINISHED),
        (Restart.TEMPORARY, True, None),
        (Restart.TEMPORARY, False, None),
    ],
)
async def test_restart_types(troupe: Troupe, restart: Restart, is_crash: bool, status: ChildStatus | None) -> None:
    """A temporary child is forgotten when it ends; the specification of a transient one is kept."""
    async with open_supervisor(children=troupe.children("a", restart=restart)) as supervisor:
        await (troupe.crash("a") if is_crash else troupe.finish("a"))
        assert [child.status for child in supervisor.children()] == ([status] if status else [])


async def test_a_temporary_child_is_not_restarted_with_its_siblings(troupe: Troupe) -> None:
    children = [troupe.child("a", restart=Restart.TEMPORARY), troupe.child("b")]
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, children=children) as supervisor:
        troupe.heard()
        await troupe.crash("b")
        assert troupe.heard() == "-b -a +b"
        assert [child.name for child in supervisor.children()] == ["b"]


async def test_one_for_all_starts_also_those_that_had_finished_or_were_terminated(troupe: Troupe) -> None:
    """OTP: all child processes are restarted, from their kept specifications."""
    children = [troupe.child("a", restart=Restart.TRANSIENT), troupe.child("b"), troupe.child("c")]
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, children=children) as supervisor:
        await troupe.finish("a")
        await supervisor.terminate_child("b")
        troupe.heard()
        await troupe.crash("c")
        assert troupe.heard() == "-c +a +b +c"


# Intensity
async def test_the_restart_over_the_intensity_stops_the_others_and_fails_upwards(troupe: Troupe) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(intensity=Intensity(3, per=5), children=troupe.children("ab")):
            for _ in range(3):
                await troupe.crash("a")
            assert troupe.heard() == "+a +b -a +a -a +a -a +a"
            await troupe.crash("a")
            pytest.fail("the block went on")
    assert troupe.heard() == "-a -b"
    [exceeded] = caught.value.exceptions
    assert isinstance(exceeded, RestartIntensityExceeded)
    assert (exceeded.child, exceeded.restarts, exceeded.per_seconds) == ("a", 3, 5)
    assert isinstance(exceeded.__cause__, BoomError)


async def test_the_intensity_is_counted_over_all_children_of_the_supervisor(troupe: Troupe) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(intensity=Intensity(1, per=5), children=troupe.children("ab")):
            await troupe.crash("a")
            await troupe.crash("b")
    assert caught.group_contains(RestartIntensityExceeded, match="'b'", depth=1)


async def test_the_window_of_the_intensity_slides(autojump_clock: MockClock, troupe: Troupe) -> None:
    async with open_supervisor(intensity=Intensity(1, per=5), children=troupe.children("a")) as supervisor:
        for _ in range(5):
            await troupe.crash("a")
            await trio.sleep(5.1)
        assert supervisor.child("a").restart_count == 5


async def test_an_intensity_of_zero_allows_no_restart(troupe: Troupe) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(intensity=Intensity(0, per=5), children=troupe.children("a")):
            await troupe.crash("a")
    assert caught.group_contains(RestartIntensityExceeded, depth=1)


async def test_a_group_counts_as_one_restart(troupe: Troupe) -> None:
    strategy, intensity = Strategy.ONE_FOR_ALL, Intensity(1, per=5)
    async with open_supervisor(strategy=strategy, intensity=intensity, children=troupe.children("abc")) as supervisor:
        await troupe.crash("a")
        assert supervisor.tree().restarts_in_window == 1


async def test_a_child_that_crashes_at_every_start_uses_up_the_intensity() -> None:
    starts = []

    async def broken() -> None:
        starts.append(True)
        raise BoomError

    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor(intensity=Intensity(3, per=5)) as supervisor:
            await supervisor.start_child(Child("a", broken))
            await trio.sleep_forever()
    assert caught.group_contains(RestartIntensityExceeded, depth=1)
    assert len(starts) == 4


# Automatic shutdown
@pytest.mark.parametrize("restart", [Restart.TRANSIENT, Restart.TEMPORARY])
async def test_any_significant_child_that_finishes_ends_the_supervisor(troupe: Troupe, restart: Restart) -> None:
    children = [troupe.child("a"), *troupe.children("bc", restart=restart, significant=True)]
    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, children=children):
        troupe.heard()
        await troupe.finish("b")
        pytest.fail("the block went on")
    assert troupe.heard() == "-b -c -a"


async def test_all_significant_children_must_finish(troupe: Troupe) -> None:
    children = [troupe.child("a"), *troupe.children("bc", restart=Restart.TRANSIENT, significant=True)]
    async with open_supervisor(auto_shutdown=AutoShutdown.ALL_SIGNIFICANT, children=children):
        await troupe.finish("b")
        assert troupe.heard() == "+a +b +c -b"
        await troupe.finish("c")
        pytest.fail("the block went on")
    assert troupe.heard() == "-c -a"


async def test_a_significant_child_that_is_restarted_or_terminated_ends_nothing(troupe: Troupe) -> None:
    children = troupe.children("a", restart=Restart.TRANSIENT, significant=True)
    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, children=children) as supervisor:
        await troupe.crash("a")
        await supervisor.terminate_child("a")
        await wait_all_tasks_blocked()
        assert troupe.heard() == "+a -a +a -a"


async def test_a_significant_child_needs_a_supervisor_that_heeds_it(troupe: Troupe) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(ValueError, match="auto_shutdown is NEVER"):
            await supervisor.start_child(troupe.child("a", restart=Restart.TRANSIENT, significant=True))


# Backoff
async def test_backoff_delays_restarts_and_starts_over_after_good_behaviour(autojump_clock: MockClock) -> None:
    ran_seconds = iter([0.0, 0.0, 0.0, 60.0, 0.0, math.inf])
    started_at = []

    async def serve() -> None:
        started_at.append(trio.current_time())
        await trio.sleep(next(ran_seconds))
        raise BoomError

    backoff = Backoff(first=1, factor=2, longest=3, jitter=0, reset_after=60)
    began_at = trio.current_time()
    async with open_supervisor(intensity=Intensity(9, per=5)) as supervisor:
        await supervisor.start_child(Child("a", serve, backoff=backoff))
        await trio.sleep(100)
    # Delays 1, 2, 3, then 60 s of running, and 1 again, and 2.
    assert [at - began_at for at in started_at] == [0, 1, 3, 6, 67, 69]


async def test_the_source_of_jitter_can_be_seeded(autojump_clock: MockClock) -> None:
    async def broken() -> None:
        raise BoomError

    async def delays(seed: int) -> list[float]:
        backoff = Backoff(first=1, jitter=1)
        intensity = Intensity(4, per=100)
        with pytest.raises(ExceptionGroup):
            async with open_supervisor(random=Random(seed), intensity=intensity) as supervisor:
                events = supervisor.events()
                await supervisor.start_child(Child("a", broken, backoff=backoff))
                await trio.sleep_forever()
        return [event.delay_seconds async for event in events if isinstance(event, RestartScheduled)]

    first = await delays(1)
    assert len(set(first)) == 4
    assert first == await delays(1)
    assert first != await delays(2)


async def test_a_child_that_waits_for_its_restart_holds_up_nobody(autojump_clock: MockClock, troupe: Troupe) -> None:
    backoff = Backoff(first=10, jitter=0)
    children = [troupe.child("a", backoff=backoff), troupe.child("b")]
    async with open_supervisor(children=children) as supervisor:
        await troupe.crash("a")
        assert supervisor.child("a").status is ChildStatus.WAITING
        await troupe.crash("b")
        await supervisor.start_child(troupe.child("c"))
        assert troupe.heard() == "+a +b -a -b +b +c"
        await trio.sleep(11)
        assert troupe.heard() == "+a"


async def test_a_group_waits_together_and_is_started_in_order(autojump_clock: MockClock, troupe: Troupe) -> None:
    """c has the longer wait before it; a later crash of a neither shortens it nor overtakes."""
    children = [
        troupe.child("a", backoff=Backoff(first=2, jitter=0)),
        troupe.child("b"),
        troupe.child("c", backoff=Backoff(first=10, jitter=0)),
    ]
    async with open_supervisor(strategy=Strategy.REST_FOR_ONE, children=children):
        await troupe.crash("c")
        await troupe.crash("a")
        assert troupe.heard() == "+a +b +c -c -a -b"
        await trio.sleep(3)
        assert troupe.heard() == "+a +b"
        await trio.sleep(8)
        assert troupe.heard() == "+c"


async def test_terminating_a_child_that_waits_for_its_restart_ends_the_wait(
    autojump_clock: MockClock, troupe: Troupe
) -> None:
    async with open_supervisor(children=troupe.children("a", backoff=Backoff(first=10))) as supervisor:
        await troupe.crash("a")
        await supervisor.terminate_child("a")
        await trio.sleep(20)
        assert troupe.heard() == "+a -a"
        assert supervisor.child("a").status is ChildStatus.STOPPED
