"""Serving until there is nothing to do."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, workflow
from durable_trio.platforms import Served, WhyEnded, serve_until_idle, until_idle
from durable_trio.stores.contract import RegisterExecutor, StartRun
from durable_trio.stores.questions import ListExecutors
from durable_trio.testing.store_contract.kit import one
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

taken: list[str] = []


@pytest.fixture(autouse=True)
def nothing_taken() -> None:
    taken.clear()


@workflow
async def noting(ctx: Context, naps: list[float] | None = None) -> None:
    for nap in naps or ():
        await ctx.sleep(nap)
    await ctx.step("note", lambda: taken.append(ctx.run_id))


@workflow
async def asking(ctx: Context) -> str:
    return await ctx.wait_signal("go", str)


@workflow
async def answered(ctx: Context) -> None:
    await ctx.wait_signal("go", timeout=3600)


@workflow
async def parent(ctx: Context) -> None:
    await ctx.run_child(noting, [3600.0])


@workflow
async def failing(ctx: Context) -> None:
    raise ValueError("as it should")


ALL = (noting, asking, answered, parent, failing)


async def start(path: str, *runs: tuple[Any, ...], **options: Any) -> None:
    """Store runs, which nobody executes yet."""
    async with Engine(path, workflows=ALL) as engine:
        for fn, *args in runs:
            await engine.start(fn, *args, **options)


async def serve(path: str, **options: Any) -> Served:
    settings: dict[str, Any] = {
        key: options.pop(key) for key in ("grace_seconds", "concurrency", "workflows") if key in options
    }
    with trio.fail_after(PATIENCE_SECONDS):
        return await serve_until_idle(Engine(path, **{"workflows": ALL, **settings}), **options)


def about(served: Served, seconds: float) -> bool:
    """Whether the next run is due in so many seconds, or has been for some."""
    assert served.next_due is not None
    return abs(served.next_due - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=PATIENCE_SECONDS)


# ---- idle --------------------------------------------------------------------------------------------------------


async def test_with_nothing_to_do_it_ends_at_once(file_path: str) -> None:
    assert await serve(file_path) == Served(reason=WhyEnded.IDLE, next_due=None, steps=0, unfinished=0)


async def test_it_does_all_that_is_due_and_tells_when_the_next_is(file_path: str) -> None:
    """Whatever the next one waits for; a wait for a signal alone has no time."""
    await start(file_path, *[(noting, [])] * 5, (asking,), (failing,))
    served = await serve(file_path, concurrency=2)
    assert (served.reason, served.steps, served.next_due, served.unfinished, len(taken)) == ("idle", 5, None, 0, 5)
    await start(file_path, (noting, [7200.0]))
    served = await serve(file_path)
    assert (served.reason, served.unfinished) == ("idle", 0)
    assert about(served, 7200)
    for later in ((parent,), (answered,)):
        await start(file_path, later)
        assert about(await serve(file_path), 3600)
    await start(file_path, (noting, []), delay=1800)
    assert about(await serve(file_path), 1800)


async def test_what_is_due_within_a_second_is_waited_for(file_path: str) -> None:
    await start(file_path, (noting, [0.2, 0.0, 0.3]))
    assert (await serve(file_path)).next_due is None
    assert len(taken) == 1


async def test_a_signal_has_its_run_go_on_the_next_time(file_path: str) -> None:
    await start(file_path, (asking,), id="asks")
    assert (await serve(file_path)).next_due is None
    async with Engine(file_path, workflows=ALL) as engine:
        await engine.send_signal("asks", "go", "yes")
    assert (await serve(file_path)).steps == 1
    async with Engine(file_path, workflows=ALL) as engine:
        assert await engine.get("asks", asking).result() == "yes"


async def test_runs_of_unknown_workflows_are_left_to_others(file_path: str) -> None:
    await start(file_path, (noting, []))
    served = await serve(file_path, workflows=[asking])
    assert (served.reason, served.next_due, served.unfinished) == ("idle", None, 0)
    assert (await serve(file_path)).steps == 1


async def test_a_run_that_the_code_does_not_fit_keeps_nobody(file_path: str) -> None:
    await start(file_path, (noting, [3600.0]), id="other")

    @workflow(name="noting")
    async def changed(ctx: Context, naps: list[float]) -> None:
        await ctx.step("another", lambda: None)

    await serve(file_path)
    async with Engine(file_path, workflows=[changed]) as engine:
        await engine.cancel("other")  # so that it is due
    served = await serve(file_path, workflows=[changed])
    assert (served.reason, served.next_due) == ("idle", None)


async def test_several_at_once_share_the_work_and_all_end(file_path: str) -> None:
    await start(file_path, *[(noting, [])] * 40)
    steps = []
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:

            async def serve_once() -> None:
                steps.append((await serve(file_path, concurrency=2)).steps or 0)

            for _ in range(3):
                nursery.start_soon(serve_once)
    assert sum(steps) == len(taken) == 40


# ---- time --------------------------------------------------------------------------------------------------------


async def test_a_step_that_is_longer_than_the_slot_is_left_to_the_next_and_told_of(
    file_path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = trio.Event()

    async def for_ever() -> None:
        begun.set()
        await trio.sleep_forever()

    @workflow
    async def long(ctx: Context) -> None:
        await ctx.step("for ever", for_ever)

    async with Engine(file_path, workflows=[long]) as engine:
        await engine.start(long, id="long")
    end_the_time_with(begun, monkeypatch)
    monkeypatch.setattr(until_idle, "_NEARLY_ALL", 0.0)
    served = await serve(file_path, workflows=[long], max_seconds=60, grace_seconds=0.1)
    assert (served.reason, served.steps, served.unfinished) == ("time", 0, 1)
    assert about(served, 0)
    assert [(step.run_id, step.key) for step in served.too_long] == [("long", "for ever#0")]
    [told] = [record for record in caplog.records if getattr(record, "event", "") == "step_too_long"]
    assert "step 'for ever#0' of run 'long' was interrupted at the end" in told.getMessage()
    # One that has begun late may finish the next time.
    monkeypatch.setattr(until_idle, "_NEARLY_ALL", 1.0)
    assert (await serve(file_path, workflows=[long], max_seconds=60, grace_seconds=0.1)).too_long == ()


def end_the_time_with(begun: trio.Event | threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the time be up in that moment, and not before, however busy the machine is."""
    wait = until_idle._UntilIdle.wait

    async def wait_for_it(self: Any, *args: Any) -> None:
        while not begun.is_set():  # noqa: ASYNC110  # it may be a thread that sets it
            await trio.sleep(0.01)
        self._ends_at = trio.current_time()
        await wait(self, *args)

    monkeypatch.setattr(until_idle._UntilIdle, "wait", wait_for_it)


async def test_a_step_in_hand_may_finish_after_the_time_and_none_is_claimed_any_more(file_path: str) -> None:
    begun, go = trio.Event(), trio.Event()

    async def step() -> None:
        begun.set()
        await go.wait()

    @workflow
    async def long(ctx: Context) -> None:
        await ctx.step("hold", step)
        taken.append(ctx.run_id)

    async with Engine(file_path, workflows=[long, noting]) as engine:
        await engine.start(long, id="long", priority=1)
        await engine.start(noting, id="next")
    engine = Engine(file_path, workflows=[long, noting], grace_seconds=PATIENCE_SECONDS, concurrency=1)
    found = []
    with trio.fail_after(PATIENCE_SECONDS), pytest.MonkeyPatch.context() as patch:
        end_the_time_with(begun, patch)
        async with trio.open_nursery() as nursery:

            async def serve_it() -> None:
                found.append(await serve_until_idle(engine, max_seconds=2 * PATIENCE_SECONDS))

            nursery.start_soon(serve_it)
            await begun.wait()
            executor = engine._client.services.executor  # type: ignore[union-attr]
            assert executor is not None
            while not executor.runs.is_draining:  # noqa: ASYNC110  # nobody sets an event for it
                await trio.sleep(0.01)
            go.set()
    (served,) = found
    assert (served.reason, served.steps, served.unfinished, taken) == ("time", 1, 2, [])
    engine = Engine(file_path, workflows=[long, noting])
    assert (await serve_until_idle(engine)).reason is WhyEnded.IDLE
    assert sorted(taken) == ["long", "next"]


@pytest.mark.parametrize("seconds", [0, 0.5, 1, float("nan")])
async def test_a_slot_with_no_time_for_anything_but_its_grace_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="max_seconds is"):
        await serve(":memory:", max_seconds=seconds, grace_seconds=1)


async def test_what_does_not_end_is_told_from_another_thread(file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step in a thread cannot be interrupted: the program may end the process instead."""
    begun, go, told = threading.Event(), threading.Event(), []
    end_the_time_with(begun, monkeypatch)

    def block() -> None:
        begun.set()
        go.wait()

    @workflow
    async def stuck(ctx: Context) -> None:
        await ctx.step("block", block)

    def overdue(served: Served) -> None:
        told.append((threading.current_thread() is threading.main_thread(), served))
        go.set()

    async with Engine(file_path, workflows=[stuck]) as engine:
        await engine.start(stuck)
    served = await serve(file_path, workflows=[stuck], max_seconds=0.4, grace_seconds=0.1, overdue=overdue)
    ((is_main, known),) = told
    assert not is_main
    assert (known.reason, known.unfinished, known.steps) == ("time", 1, None)
    assert served.reason is WhyEnded.TIME


# ---- others ------------------------------------------------------------------------------------------------------


async def test_alone_it_ends_at_once_if_another_lives_and_otherwise_serves(file_path: str) -> None:
    await start(file_path, (noting, []), id="one")
    other = Engine(file_path, workflows=[asking])
    async with trio.open_nursery() as nursery:
        await nursery.start(other.serve)
        served = await serve(file_path, alone=True)
        assert served == Served(reason=WhyEnded.ANOTHER, next_due=None, steps=0, unfinished=0)
        assert taken == []
        nursery.cancel_scope.cancel()
    assert (await serve(file_path, alone=True)).reason is WhyEnded.IDLE
    assert taken == ["one"]


async def test_of_two_that_begin_in_the_same_moment_one_stays(file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both, count, reasons = trio.Event(), 0, []
    go = trio.Event()

    @workflow
    async def holding(ctx: Context) -> None:
        await ctx.step("hold", go.wait)

    begin = until_idle._UntilIdle.begin

    async def begin_together(self: Any) -> bool:
        nonlocal count
        is_to_serve = await begin(self)
        count += 1
        if count == 2:
            both.set()
        await both.wait()
        return is_to_serve

    monkeypatch.setattr(until_idle._UntilIdle, "begin", begin_together)
    async with Engine(file_path, workflows=[holding]) as engine:
        for _ in range(2):
            await engine.start(holding)
    async with trio.open_nursery() as nursery:

        async def serve_once() -> None:
            reasons.append((await serve(file_path, workflows=[holding], alone=True, grace_seconds=0)).reason)
            go.set()

        nursery.start_soon(serve_once)
        nursery.start_soon(serve_once)
    assert reasons == ["another", "idle"]


async def test_one_that_is_silent_is_watched_until_it_is_known_to_be_dead(file_path: str) -> None:
    """Else each program would go before its runs could be taken over, and nobody would ever have them."""
    other = store_at(file_path)
    other.open()
    try:
        executor = one(other, RegisterExecutor(pid=1, host="elsewhere", lease=300_000, now=0))
        now = time.time_ns() // 1000
        run = StartRun(
            id="held", workflow="noting", args="[[]]", args_digest=b"", seed=bytes(16), created_at=now, due_at=now
        )
        run.owner = executor
        assert one(other, run).claimed
        await trio.sleep(0.5)
        if all(row.silent is None for row in other.ask(ListExecutors())):
            pytest.skip("this store cannot tell since when one is silent")
        served = await serve(file_path)
        assert (served.reason, taken) == ("idle", ["held"])
        assert all(row.id != executor for row in other.ask(ListExecutors()))
    finally:
        other.close()
