"""Nothing begins in a durable scope whose time is over, neither at its entry nor when a run is taken up again."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Retry, RunExpired, StepKind, workflow
from durable_trio.calls.child import Child
from durable_trio.context.child_run import ChildRun
from durable_trio.engine.engine import open_engine
from durable_trio.stores.contract import Operation
from durable_trio.testing import CrashingStore, SimulatedCrash, VirtualClock
from durable_trio.testing.probes import kinds_of
from tests.kit.schedules import OFTEN, Notes, Program, attempt, crash_everywhere, replay_often

begun: list[str] = []


@pytest.fixture(autouse=True)
def nothing_begun() -> None:
    begun.clear()


async def nothing() -> None:  # in a thread virtual time would leap
    pass


async def note(text: str = "step") -> str:
    begun.append(text)
    return text


def note_sync(text: str = "sync step") -> str:
    begun.append(text)
    return text


def note_row(connection: Any) -> None:
    begun.append("transaction")


@workflow
async def child(ctx: Context) -> None:
    begun.append("child")


async def branch(ctx: Context) -> None:
    await ctx.step("in a branch", note)


async def in_a_nursery(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch)
        nursery.start_soon(branch)


async def in_a_trio_nursery(ctx: Context) -> None:
    async with trio.open_nursery():
        await ctx.step("step", note)


async def in_nested_scopes(ctx: Context) -> None:
    with ctx.move_on_after(50), ctx.fail_after(60):
        await ctx.step("step", note)


async def waits_for_nothing(ctx: Context) -> None:
    await ctx.wait_signal("never")
    begun.append("wait")


async def sleeps(ctx: Context) -> None:
    await ctx.sleep(0)
    begun.append("sleep")


async def publishes(ctx: Context) -> None:
    await ctx.publish("it", 1)
    begun.append("publish")


async def publishes_twice(ctx: Context) -> None:
    async def publish(ctx: Context, key: str) -> None:
        await ctx.publish(key, 1)
        begun.append("publish")

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(publish, "it")
        nursery.start_soon(publish, "it too")


async def cancels_a_child(ctx: Context) -> None:
    await ChildRun(ctx._body, Child("child of nobody", "child", None)).cancel()
    begun.append("cancelled")


async def waits_for_a_child(ctx: Context) -> None:
    await ChildRun(ctx._body, Child("child of nobody", "child", None)).result()
    begun.append("child's end")


async def sleeps_until(ctx: Context) -> None:
    await ctx.sleep_until(ctx.now())
    begun.append("sleep")


WHAT: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "step": lambda ctx: ctx.step("it", note),
    "sync step": lambda ctx: ctx.step("it", note_sync),
    "at most once": lambda ctx: ctx.step("it", note, at_most_once=True),
    "with retries": lambda ctx: ctx.step("it", note, retry=Retry.fixed(3, 1)),
    "transaction": lambda ctx: ctx.transaction("it", note_row),
    "map": lambda ctx: ctx.map("it", note, ["a", "b"]),
    "child": lambda ctx: ctx.start_child(child),
    "run child": lambda ctx: ctx.run_child(child),
    "continue": lambda ctx: ctx.continue_as_new("continue", 0),
    "nursery": in_a_nursery,
    "trio nursery": in_a_trio_nursery,
    "nested": in_nested_scopes,
    "wait": waits_for_nothing,
    "sleep": sleeps,
    "sleep until": sleeps_until,
    "publish": publishes,
    "publish in branches": publishes_twice,
    "cancel a child": cancels_a_child,
    "result of a child": waits_for_a_child,
}


@workflow(max_recoveries=OFTEN)
async def at_entry(ctx: Context, name: str, seconds: float) -> str:
    with ctx.move_on_after(seconds) as scope:
        await WHAT[name](ctx)
    caught = scope.cancelled_caught
    await ctx.step("after", nothing)
    return "in time" if not caught else "too late"


@pytest.mark.parametrize("seconds", [0, -5])
@pytest.mark.parametrize("name", WHAT)
async def test_nothing_begins_in_a_scope_that_is_over_at_its_entry(
    name: str, seconds: float, autojump_clock: MockClock
) -> None:
    async with open_engine(":memory:", workflows=[at_entry, child], clock=VirtualClock()) as engine:
        run = await engine.start(at_entry, name, seconds)
        assert await run.result() == "too late"
        assert begun == []
        kinds = [step.kind for step in await run.steps() if step.kind is not StepKind.PATCH]
        assert kinds == [StepKind.DEADLINE, StepKind.STEP]
        assert await run.values() == {}


@workflow(max_recoveries=OFTEN)
async def at_barrier(ctx: Context, name: str) -> str:
    await ctx.step("before", nothing)
    with ctx.move_on_after(10) as scope:
        await WHAT[name](ctx)
    return "in time" if not scope.cancelled_caught else "too late"


@attrs.frozen
class Restarted:
    """What has come of a run that was crashed after a commit, and taken up again a day later."""

    result: Any
    begun: list[str]
    kinds: list[StepKind]
    values: dict[str, Any]


class StoreThatCrashesAfter(CrashingStore):
    """Crashes after the first commit of a kind."""

    kind: str | None = None

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        if self.kind is not None and any(self.kind in kinds_of(operation) for operation in batch):
            self.kind = None
            self.crash_after(1)
        return super().apply(batch, block=block)


async def restarted(name: str, kind: str) -> Restarted:
    """Crash after the first commit of that kind, and let a day pass."""
    store, clock = StoreThatCrashesAfter(), VirtualClock()
    store.kind = kind
    with contextlib.suppress(SimulatedCrash, BaseExceptionGroup):
        async with open_engine(store, workflows=[at_barrier, child], clock=clock) as engine:
            await engine.start(at_barrier, name, id="r")
            await trio.sleep(5)
    assert store.kind is None
    store.crash_after(None)
    begun.clear()
    await trio.sleep(86_400)
    async with open_engine(store, workflows=[at_barrier, child], clock=clock) as engine:
        run = await engine.start(at_barrier, name, id="r")
        result = await run.result()
        found = Restarted(result, list(begun), [step.kind for step in await run.steps()], await run.values())
    store.dispose()
    return found


@pytest.mark.parametrize("name", [name for name in WHAT if name != "continue"])
async def test_nothing_begins_in_a_scope_that_has_passed_while_nobody_served(
    name: str, autojump_clock: MockClock
) -> None:
    """The step before is committed, and the process dies before anything else."""
    found = await restarted(name, "step")
    assert found.result == "too late"
    assert found.begun == []
    assert set(found.kinds) - {StepKind.PATCH} == {StepKind.STEP, StepKind.DEADLINE}
    assert found.values == {}


@pytest.mark.parametrize(("name", "kind"), [("at most once", "wait-intent"), ("wait", "release")])
async def test_what_had_begun_before_is_not_begun_again_in_a_scope_that_has_passed(
    name: str, kind: str, autojump_clock: MockClock
) -> None:
    found = await restarted(name, kind)
    assert found.result == "too late"
    assert found.begun == []


@workflow(max_recoveries=OFTEN)
async def in_a_shield(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    with ctx.move_on_after(0) as scope, trio.CancelScope(shield=True):
        await ctx.step("shielded", note, "shielded")
        await ctx.sleep(1)
    with ctx.move_on_after(0, shield=True) as own:
        await ctx.step("own shield", note, "own shield")
    notes.add(f"{scope.cancelled_caught} {own.cancelled_caught}")
    return [str(scope.cancelled_caught), str(own.cancelled_caught)]


async def test_what_is_shielded_from_the_scope_goes_on_and_begins(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[in_a_shield], clock=VirtualClock()) as engine:
        assert await engine.run(in_a_shield) == ["False", "True"]
        assert begun == ["shielded"]


@workflow(max_recoveries=OFTEN)
async def beside(ctx: Context) -> list[str]:
    done = Notes(ctx)

    async def late(branch: Context) -> None:
        with branch.move_on_after(0) as scope:
            await branch.step("late", note, "late")
        done.add(f"late {scope.cancelled_caught}")

    async def free(branch: Context) -> None:
        done.add(await branch.step("free", note, "free"))
        done.add(await branch.step("free", note, "free too"))

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(late)
        nursery.start_soon(free)
    return sorted(done)


async def test_what_is_beside_the_scope_begins_all_the_same(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[beside], clock=VirtualClock()) as engine:
        assert await engine.run(beside) == ["free", "free too", "late True"]
        assert sorted(begun) == ["free", "free too"]


@workflow(max_recoveries=OFTEN)
async def slow_sync(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    with ctx.move_on_after(3) as scope:
        for number in range(3):
            notes.add(await ctx.step("slow", take_two, f"{number}"))
    with ctx.move_on_after(3) as map_scope:
        await ctx.map("slow map", take_two, ["a", "b", "c"], limit=1)
    return [*notes, str(scope.cancelled_caught), str(map_scope.cancelled_caught)]


async def take_two(text: str) -> str:
    begun.append(text)
    with trio.CancelScope(shield=True):
        await trio.sleep(2)
    return text


async def test_a_scope_that_ends_during_a_step_lets_no_further_one_begin(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[slow_sync], clock=VirtualClock()) as engine:
        assert await engine.run(slow_sync) == ["0", "1", "True", "True"]
        assert begun == ["0", "1", "a", "b"]


@workflow(max_recoveries=OFTEN)
async def retries(ctx: Context) -> str:
    notes = Notes(ctx)
    with ctx.move_on_after(10) as scope:
        await ctx.step("flaky", fail, retry=Retry.fixed(5, 4))
    notes.add(scope.cancelled_caught)
    return str(scope.cancelled_caught)


async def fail() -> None:
    begun.append("attempt")
    raise ValueError


async def test_no_attempt_begins_in_a_scope_that_has_passed_while_nobody_served(autojump_clock: MockClock) -> None:
    store, clock = CrashingStore(), VirtualClock()
    async with open_engine(store, workflows=[retries], clock=clock) as engine:
        await engine.start(retries, id="r")
        await trio.sleep(1)
    await trio.sleep(100)
    async with open_engine(store, workflows=[retries], clock=clock) as engine:
        assert await engine.get("r").result() == "True"
    assert begun == ["attempt"]
    store.dispose()


@workflow(max_recoveries=OFTEN)
async def sleeps_in_time(ctx: Context) -> str:
    with ctx.move_on_after(10) as scope:
        await ctx.sleep(5, name="in time")
        await ctx.step("it", note)
    with ctx.move_on_after(10):
        await ctx.sleep(20, name="too late")
        begun.append("slept")
    return str(scope.cancelled_caught)


@pytest.mark.parametrize(("stays", "result"), [(1, "True"), (30, "False")])
async def test_a_sleep_that_was_due_before_the_deadline_is_over_and_one_due_later_is_not(
    stays: float, result: str, autojump_clock: MockClock
) -> None:
    store, clock = CrashingStore(), VirtualClock()
    async with open_engine(store, workflows=[sleeps_in_time], clock=clock) as engine:
        await engine.start(sleeps_in_time, id="r")
        await trio.sleep(stays)
    await trio.sleep(100)
    async with open_engine(store, workflows=[sleeps_in_time], clock=clock) as engine:
        run = engine.get("r")
        assert await run.result() == result
        keys = [step.key for step in await run.steps()]
    assert keys[0] == "in time#0"
    assert "too late#0" not in keys
    assert begun == ([] if result == "True" else ["step"])
    store.dispose()


@workflow(max_recoveries=OFTEN)
async def polls(ctx: Context) -> list[Any]:
    found: list[Any] = []
    notes = Notes(ctx)
    while True:
        with ctx.move_on_after(0) as scope:
            found.append(await ctx.wait_signal("job"))
        notes.add(found)
        if scope.cancelled_caught:
            return found


async def test_a_signal_that_was_sent_in_time_is_taken_before_the_expiry(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[polls], clock=VirtualClock()) as engine:
        run = await engine.start(polls, delay=5)
        for number in range(3):
            await run.signal("job", number)
        assert await run.result() == [0, 1, 2]


@workflow(max_recoveries=OFTEN)
async def waits(ctx: Context) -> str:
    with ctx.move_on_after(10) as scope:
        return str(await ctx.wait_signal("go"))
    return f"expired {scope.cancelled_caught}"


@pytest.mark.parametrize(("sent_after", "result"), [(5, "sent"), (50, "expired True")])
async def test_a_signal_that_was_sent_while_nobody_served_counts_if_it_was_in_time(
    sent_after: float, result: str, autojump_clock: MockClock
) -> None:
    store, clock = CrashingStore(), VirtualClock()
    async with open_engine(store, workflows=[waits], clock=clock) as engine:
        await engine.start(waits, id="r")
        await trio.sleep(1)
    await trio.sleep(sent_after - 1)
    async with open_engine(store, clock=clock) as client:
        await client.send_signal("r", "go", "sent")
    await trio.sleep(100)
    async with open_engine(store, workflows=[waits], clock=clock) as engine:
        assert await engine.get("r").result() == result
    store.dispose()


@workflow(max_recoveries=OFTEN)
async def publishes_late(ctx: Context) -> list[str]:
    """What the body has seen of a publish that was too late, it sees again."""
    done = Notes(ctx)
    with ctx.move_on_after(3) as scope:
        await ctx.step("slow", take_two, "first")
        await ctx.publish("in time", 1)
        done.add("in time")
        await ctx.step("slow", take_two, "second")
        await ctx.publish("late", 1)
        done.add("late")
    with ctx.move_on_after(0), trio.CancelScope(shield=True):
        await ctx.publish("shielded", 1)
        done.add("shielded")
        await ctx.step("after it", nothing)

    async def late(branch: Context) -> None:
        with branch.move_on_after(0):
            await branch.publish("late", 2)
            done.add("late in a branch")

    async def free(branch: Context) -> None:
        for number in range(3):
            await branch.publish("free", number)
            done.add(f"free {number}")
            await branch.step("free", nothing)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(late)
        nursery.start_soon(free)
        nursery.start_soon(late)
    return [*done, str(scope.cancelled_caught)]


async def test_a_publish_that_is_not_in_the_scope_goes_on_and_one_that_is_does_not(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[publishes_late], clock=VirtualClock()) as engine:
        run = await engine.start(publishes_late)
        assert await run.result() == ["in time", "shielded", "free 0", "free 1", "free 2", "True"]
        assert await run.values() == {"in time": 1, "shielded": 1, "free": 2}


async def take_one() -> None:
    await trio.sleep(1)


@workflow(max_recoveries=OFTEN)
async def publishes_beside(ctx: Context) -> list[str]:
    done = Notes(ctx)

    async def hold(branch: Context) -> None:
        with branch.move_on_after(1):
            await branch.wait_signal("never")
        done.add("expired")

    async def publish(branch: Context) -> None:
        await branch.step("one", take_one)
        await branch.publish("it", 1)
        done.add("published")

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(publish)
        nursery.start_soon(hold)
    return list(done)


def test_a_publish_that_has_waited_for_an_expiry_has_done_so_after_any_crash() -> None:
    """Others have seen it, even if nothing else was stored since."""
    for number in range(1, 12):
        trial = attempt(Program(publishes_beside), 1, crashes=[(number, True)])
        trial.assert_repeatable()


@workflow(ttl=50, max_recoveries=OFTEN)
async def lives_short(ctx: Context) -> None:
    await ctx.step("before", nothing)
    await ctx.publish("it", 1)
    begun.append("publish")
    await ctx.wait_signal("never")


async def test_nothing_is_published_by_a_run_whose_time_to_live_is_over(autojump_clock: MockClock) -> None:
    store, clock = StoreThatCrashesAfter(), VirtualClock()
    store.kind = "step"
    with contextlib.suppress(SimulatedCrash, BaseExceptionGroup):
        async with open_engine(store, workflows=[lives_short], clock=clock) as engine:
            await engine.start(lives_short, id="r")
            await trio.sleep(5)
    store.crash_after(None)
    await trio.sleep(100)
    async with open_engine(store, workflows=[lives_short], clock=clock) as engine:
        with pytest.raises(RunExpired):
            await engine.get("r").result()
        assert await engine.get("r").values() == {}
    assert begun == []
    store.dispose()


@pytest.mark.parametrize("program", [in_a_shield, beside, slow_sync, retries, polls, publishes_late])
def test_what_is_past_due_is_the_same_at_replay_and_after_any_crash(program: Any) -> None:
    crash_everywhere(Program(program), seeds=12, is_determined=False)
    replay_often(Program(program), count=20)
