"""What a run publishes never goes back, whatever is crashed, and its last value stays."""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Run, RunFailed, RunStatus, current_step, open_engine, workflow
from durable_trio.stores.contract import Advance, Operation
from durable_trio.stores.sqlite import sqlite3
from durable_trio.testing import CrashingStore, SimulatedCrash, VirtualClock
from tests.engine.harness import killed_when_ready, serving, wait_passivated, wait_status
from tests.kit.crash_points import EVERY_CRASH, SEED
from tests.kit.schedules import OFTEN


class NotingStore(CrashingStore):
    """Notes every value that is published, by run and key, in the order of commits."""

    def __init__(self) -> None:
        super().__init__()
        self.published: dict[tuple[int, str], list[int]] = defaultdict(list)

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        outcomes: list[Any] | None = None
        try:
            outcomes = super().apply(batch, block=block)
        finally:
            lost = self._loses_it and self.commit_count == self._crash_at
            for operation in batch:
                if isinstance(operation, Advance) and not lost:
                    for key, text in operation.published:
                        self.published[operation.fence.run, key].append(int(text))
        return outcomes

    def assert_none_goes_back(self) -> None:
        for key, values in self.published.items():
            assert values == sorted(set(values)), f"{key} went back: {values}"


async def nothing() -> None:
    pass


async def publishes_from(ctx: Context, key: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        await ctx.publish(key, number)


@workflow(max_recoveries=OFTEN)
async def plain(ctx: Context) -> None:
    await publishes_from(ctx, "a", 1, 3)
    await ctx.step("one", nothing)
    await publishes_from(ctx, "a", 4, 2)
    await publishes_from(ctx, "b", 1, 2)
    await ctx.sleep(10)
    await publishes_from(ctx, "b", 3, 2)
    await ctx.step("two", nothing)
    await ctx.sleep(0.1)
    await publishes_from(ctx, "a", 6, 3)


@workflow(max_recoveries=OFTEN)
async def in_branches(ctx: Context) -> None:
    async def branch(ctx: Context, key: str, seconds: float) -> None:
        await publishes_from(ctx, key, 1, 2)
        await ctx.step("work", nothing)
        await publishes_from(ctx, key, 3, 2)
        await ctx.sleep(seconds)
        await publishes_from(ctx, key, 5, 2)

    async with ctx.open_nursery() as nursery:
        for number, key in enumerate(("a", "b", "c")):
            nursery.start_soon(branch, key, 5 * number)
        await publishes_from(ctx, "own", 1, 3)
    await publishes_from(ctx, "a", 7, 2)


@workflow(max_recoveries=OFTEN)
async def around_a_map(ctx: Context) -> None:
    await publishes_from(ctx, "a", 1, 2)
    await ctx.map("items", echo, [1, 2, 3])
    await publishes_from(ctx, "a", 3, 2)
    if ctx.patched("change"):
        await publishes_from(ctx, "a", 5, 2)
    with ctx.move_on_after(3):
        await publishes_from(ctx, "a", 7, 2)
        await ctx.wait_signal("never")
    await publishes_from(ctx, "a", 9, 2)


async def echo(value: int) -> int:
    return value


@workflow(max_recoveries=OFTEN)
async def in_generations(ctx: Context, generation: int) -> None:
    base = 10 * generation
    await publishes_from(ctx, "a", base + 1, 3)
    await ctx.step("one", nothing)
    await publishes_from(ctx, "a", base + 4, 2)
    if generation == 1:
        await publishes_from(ctx, "only in one", 1, 2)
    await ctx.sleep(5)
    await publishes_from(ctx, "a", base + 6, 2)
    if generation < 2:
        await ctx.continue_as_new(generation + 1)


@workflow(max_recoveries=OFTEN)
async def while_it_ends(ctx: Context) -> None:
    await ctx.step("one", nothing, compensate=undo)
    await publishes_from(ctx, "a", 1, 2)
    try:
        await ctx.step("two", fail)
    except ValueError:
        await publishes_from(ctx, "a", 3, 2)
        raise


async def undo(_: None) -> None:
    pass


async def fail() -> None:
    raise ValueError


async def count_on(key: str, last: int) -> None:
    """Publish from where an earlier attempt has come to."""
    step = current_step()
    found = await step.engine.get(step.run_id).value(key)
    for number in range(found + 1, last + 1):
        if number % 2:
            await step.publish(key, number)
        else:
            step.publish(key, number)


@workflow(max_recoveries=OFTEN)
async def from_steps(ctx: Context) -> None:
    async def branch(ctx: Context) -> None:
        await publishes_from(ctx, "b", 1, 1)
        await ctx.step("count", count_on, "b", 4)
        await publishes_from(ctx, "b", 5, 2)

    await publishes_from(ctx, "a", 1, 2)
    await ctx.step("count", count_on, "a", 5)
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch)
        await publishes_from(ctx, "a", 6, 2)
        await ctx.step("count", count_on, "a", 10)
    await ctx.sleep(5)
    await publishes_from(ctx, "a", 11, 1)
    await ctx.step("count", count_on, "a", 14)


PROGRAMS: list[tuple[Any, tuple[Any, ...], dict[str, int]]] = [
    (plain, (), {"a": 8, "b": 4}),
    (in_branches, (), {"a": 8, "b": 6, "c": 6, "own": 3}),
    (around_a_map, (), {"a": 10}),
    (in_generations, (0,), {"a": 27, "only in one": 2}),
    (while_it_ends, (), {"a": 4}),
    (from_steps, (), {"a": 14, "b": 6}),
]


async def end(run: Run[Any]) -> dict[str, Any]:
    """Return what a run has published, once it has ended."""
    with contextlib.suppress(RunFailed):
        await run.result()
    return await run.values()


async def crashed(program: Any, args: tuple[Any, ...], *crashes: tuple[int, bool]) -> tuple[int, dict[str, Any]]:
    """Run a program to its end over some crashes; return the number of commits, and what it has published."""
    store, clock = NotingStore(), VirtualClock()
    for at, loses_it in crashes:
        store.crash_after(at, loses_it=loses_it)
        with contextlib.suppress(SimulatedCrash, BaseExceptionGroup):
            async with open_engine(store, workflows=[program], clock=clock) as engine:
                await end(await engine.start(program, *args, id="r"))
    store.crash_after(None)
    async with open_engine(store, workflows=[program], clock=clock) as engine:
        values = await end(await engine.start(program, *args, id="r"))
    store.assert_none_goes_back()
    store.dispose()
    return store.commit_count, values


@pytest.mark.parametrize(("program", "args", "last"), PROGRAMS, ids=lambda value: getattr(value, "name", ""))
async def test_no_value_goes_back_over_a_crash_at_any_commit(
    program: Any, args: tuple[Any, ...], last: dict[str, int], autojump_clock: MockClock
) -> None:
    commit_count, values = await crashed(program, args)
    assert values == last
    for at in range(1, commit_count) if EVERY_CRASH else range(1 + SEED % 2, commit_count, 2):
        _, values = await crashed(program, args, (at, at % 3 == 0))
        assert values == last, f"after a crash at {at}"
    for at in range(3 + SEED % 5, commit_count, 5):
        _, values = await crashed(program, args, (at, False), (3, True), (2, False))
        assert values == last, f"after crashes from {at}"


attempts: list[int] = []


@workflow(name="shorter", max_recoveries=OFTEN)
async def shorter(ctx: Context) -> None:
    """Publishes less before the same row each time that it begins, which no code should."""
    attempts.append(0)
    await publishes_from(ctx, "a", 1, 6 - len(attempts))
    await ctx.wait_signal("go")
    await publishes_from(ctx, "a", 10, 1)


async def test_a_body_that_publishes_less_the_second_time_is_heard_again_after_the_next_row(
    autojump_clock: MockClock,
) -> None:
    attempts.clear()
    store, clock = NotingStore(), VirtualClock()
    async with open_engine(store, workflows=[shorter], clock=clock) as engine:
        run = await engine.start(shorter, id="r")
        await trio.sleep(5)
        assert await run.value("a") == 5
    async with open_engine(store, workflows=[shorter], clock=clock) as engine:
        await engine.get("r").signal("go")
        await engine.get("r").result()
        assert await engine.get("r").value("a") == 10
    store.assert_none_goes_back()
    store.dispose()


fails = True


@workflow(name="tells its state", max_recoveries=OFTEN)
async def tells_its_state(ctx: Context) -> None:
    await ctx.publish("state", "begun")
    await ctx.step("prepare", nothing)
    await ctx.publish("state", "charging")
    try:
        await ctx.step("charge", fail_at_first)
    except ValueError:
        await ctx.publish("state", "failed")
        raise
    await ctx.publish("state", "charged")
    await ctx.wait_signal("go")


async def fail_at_first() -> None:
    if fails:
        raise ValueError


async def test_a_run_that_is_resumed_after_a_failure_tells_anew(store_path: str) -> None:
    """The row is gone after which the last value was published: what comes now is the truth."""
    global fails
    fails = True
    async with serving(store_path, tells_its_state) as engine:
        run = await engine.start(tells_its_state, id="r")
        with pytest.raises(RunFailed):
            await run.result()
        assert await run.value("state") == "failed"
        fails = False
        await engine.resume("r")
        await wait_status(run, RunStatus.SUSPENDED)
        assert await run.value("state") == "charged"
        fork = await engine.fork("r", before="charge#0", id="fork")
        await wait_status(fork, RunStatus.SUSPENDED)
        assert await fork.value("state") == "charged"
        assert await run.value("state") == "charged"


@workflow(name="old")
async def old(ctx: Context) -> None:
    await publishes_from(ctx, "a", 1, 3)
    await ctx.wait_signal("go")


@pytest.mark.on_sqlite("its rows as an earlier version has stored them")
async def test_a_value_of_unknown_position_ends_up_as_the_last_one(file_path: str) -> None:
    """Such as one that was written by a version that has not stored it."""
    async with serving(file_path, old) as engine:
        await engine.start(old, id="r")
        await wait_passivated(engine)
    connection = sqlite3.connect(file_path, isolation_level=None)
    connection.execute("UPDATE published SET seq = -1, n = 0")
    connection.close()
    async with serving(file_path, old) as engine:
        run = engine.get("r")
        await run.signal("go")
        await run.result()
        assert await run.value("a") == 3


def begin_to_publish(path: str) -> None:
    async def main() -> None:
        async with open_engine(path, workflows=[old]) as engine:
            run = await engine.start(old, id="r")
            while await run.value("a") != 3:  # noqa: ASYNC110  # in the store
                await trio.sleep(0.005)
            sys.stdout.write("published\n")
            sys.stdout.flush()
            await trio.sleep_forever()

    trio.run(main)


async def test_the_last_of_several_values_stays_after_a_kill(file_path: str) -> None:
    """No durable call stands between them, so that nothing but the values is in the file."""
    await killed_when_ready(__name__, "begin_to_publish", file_path)
    seen: list[Any] = []
    async with serving(file_path, old) as engine:
        run: Run[Any] = engine.get("r", old)
        async with run.watch() as changes:
            await run.signal("go")
            seen += [record.values["a"] async for record in changes]
        assert await run.value("a") == 3
    assert set(seen) == {3}


async def test_a_published_model_is_read_as_its_fields_alone(store_path: str) -> None:
    """What the store keeps beside them, which were not set and what else was let in, is for the model alone."""
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel, extra="allow"):  # type: ignore[name-defined, misc, call-arg]
        name: str
        size: int = 3

    @workflow
    async def publishing(ctx: Context) -> None:
        await ctx.publish("item", Item(name="chair", colour="red", **{"$price": 5}))
        await ctx.publish("plain", {"$unset": ["kept"]})

    async with serving(store_path, publishing) as engine:
        run = await engine.start(publishing)
        await run.result()
        assert await run.value("item") == {"name": "chair", "size": 3, "colour": "red", "$price": 5}
        assert await run.value("plain") == {"$unset": ["kept"]}  # of the user's own
        item: Any = await run.value("item", Item)
        assert item.model_fields_set == {"name", "colour", "$price"}
