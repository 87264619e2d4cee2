"""Recovery: orphans go on, each run by one executor, what is not known is left alone, what kills is set aside."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from durable_trio import Context, DurableError, Engine, RunFailed, RunStatus, workflow
from durable_trio.clock import MICROSECONDS
from durable_trio.rows import RunRow
from durable_trio.stores.contract import ClaimDue, Operation, ReapExecutor, RegisterExecutor, RenewLease, Store
from durable_trio.stores.questions import ListExecutors
from durable_trio.testing.store_contract.kit import codes_of
from tests.engine.harness import (
    PATIENCE_SECONDS,
    SettableClock,
    row_of,
    serving,
    wait_passivated,
    wait_status,
    wait_until,
)
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus


@workflow
async def waiter(ctx: Context) -> Any:
    return await ctx.wait_signal("go")


@workflow
async def stepwise(ctx: Context, count: int) -> list[int]:
    return [await ctx.step("count", lambda number: number, number) for number in range(count)]


def register(store: Store, *, lease_seconds: float = 30.0) -> int:
    """Become an executor of a store, as an engine would."""
    lease = int(lease_seconds * MICROSECONDS)
    operation = RegisterExecutor(pid=os.getpid(), host=socket.gethostname(), lease=lease, now=1)
    (executor,) = store.apply([operation]) or []
    assert isinstance(executor, int)
    return executor


def claim(store: Store, executor: int, *workflows: str) -> tuple[RunRow, ...]:
    """Claim what is due, also by the clock of an engine that has just stored it.

    Such a clock is ahead of the server's by up to half of what the question for it took, on a busy machine some time.
    """
    now = (store.read_clock() if store.has_clock else time.time_ns() // 1000) + 10 * MICROSECONDS
    (rows,) = store.apply([ClaimDue(owner=executor, codes=codes_of(*workflows), now=now, limit=100)]) or []
    assert isinstance(rows, tuple)
    return rows


def die_holding(path: str, *workflows: str) -> int:
    """Claim what is due as an executor that then dies without a word, and return how many runs that were.

    Closing a store lets go of the executor's kernel lock as the end of its process would, and tells nobody.
    """
    store = store_at(path)
    store.open()
    try:
        executor = register(store)
        for row in store.ask(ListExecutors()):
            if row.id != executor:
                store.apply([ReapExecutor(executor=row.id, now=1)])
        return len(claim(store, executor, *workflows))
    finally:
        store.close()


# ---- orphans ---------------------------------------------------------------------------------------------------------


async def test_a_run_of_a_dead_executor_is_taken_over_at_once(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start("stepwise", 3, id="r")
    assert die_holding(file_path, "stepwise") == 1
    async with serving(file_path, stepwise) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == [0, 1, 2]
        assert (await engine.get("r").record()).recoveries == 1


async def test_an_executor_that_dies_while_another_serves_is_noticed(file_path: str) -> None:
    async with serving(file_path, stepwise) as engine:
        store = store_at(file_path)
        store.open()
        try:
            executor = register(store)
            assert executor in {item.id for item in (await engine.status()).executors}
        finally:
            store.close()
        with trio.fail_after(PATIENCE_SECONDS):
            while executor in {item.id for item in (await engine.status()).executors}:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_renewal_of_the_loop_that_the_thread_has_overtaken_is_no_earlier_state(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is held up between what it wants to store and its commit; meanwhile the thread stores more."""
    seen: list[int] = []
    async with serving(file_path, stepwise) as engine, Engine(file_path) as client:
        services = engine._client.services
        assert services is not None
        assert services.executor is not None
        store, recovery = engine._client.store, services.executor.recovery
        apply = store.apply

        def overtaken(batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
            if any(type(operation) is RenewLease for operation in batch):
                monkeypatch.undo()
                assert recovery.renew_meanwhile() is None
                seen.append(store.ask(ListExecutors())[0].renewals)
            return apply(batch, block=block)

        monkeypatch.setattr(store, "apply", overtaken)
        recovery.nudge()
        await wait_until(lambda: bool(seen))
        for number in range(3):
            run = await client.start("stepwise", 3, id=f"r-{number}")
            await run.result()
        assert store.ask(ListExecutors())[0].renewals > seen[0]


async def test_an_executor_that_does_not_renew_is_dead_although_its_lock_is_held(file_path: str) -> None:
    """It is stopped or hangs: its kernel lock tells nothing, that it does not renew does."""
    async with Engine(file_path) as client:
        await client.start("stepwise", 3, id="r")
    store = store_at(file_path)
    store.open()
    try:
        executor = register(store, lease_seconds=0.2)
        (row,) = claim(store, executor, "stepwise")
        assert row.owner == executor
        async with serving(file_path, stepwise) as engine:
            with trio.fail_after(PATIENCE_SECONDS):
                assert await engine.get("r").result() == [0, 1, 2]
            assert executor not in {item.id for item in (await engine.status()).executors}
    finally:
        store.close()


async def test_the_runs_of_a_living_executor_are_left_alone(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start("stepwise", 3, id="r")
    store = store_at(file_path)
    store.open()
    try:
        claim(store, register(store, lease_seconds=60), "stepwise")
        async with serving(file_path, stepwise) as engine:
            await trio.sleep(0.6)  # two looks at the others
            record = await engine.get("r").record()
            assert (record.status, record.recoveries) == (S.RUNNING, 0)
            assert await engine.get("r").steps() == ()
    finally:
        store.close()


async def test_an_executor_that_was_declared_dead_gives_up_its_runs_registers_anew_and_goes_on(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun = trio.Event()
    calls: list[str] = []

    async def hang_once() -> str:
        calls.append("call")
        if len(calls) == 1:
            begun.set()
            await trio.sleep_forever()
        return "done"

    @workflow
    async def hanging(ctx: Context) -> list[str]:
        return [await ctx.step("first", lambda: "first"), await ctx.step("hang", hang_once)]

    caplog.set_level(logging.ERROR, "durable_trio")
    async with serving(file_path, hanging) as engine:
        run = await engine.start(hanging)
        await begun.wait()
        (old,) = (await engine.status()).executors
        store = store_at(file_path)
        await trio.to_thread.run_sync(store.open)
        try:
            (freed,) = store.apply([ReapExecutor(executor=old.id, now=1)]) or []
            assert freed == 1
            with trio.fail_after(PATIENCE_SECONDS):
                assert await run.result() == ["first", "done"]
        finally:
            store.close()
        (new,) = (await engine.status()).executors
        assert new.id != old.id
        assert new.is_self
        assert [step.key for step in await run.steps()] == ["first#0", "hang#0"]
    assert len(calls) == 2


async def test_a_suspended_orphan_keeps_its_due_time_and_is_no_crash(file_path: str) -> None:
    @workflow
    async def sleeper(ctx: Context) -> None:
        await ctx.sleep(0.9)

    clock = SettableClock()
    async with serving(file_path, sleeper, clock=clock, grace_seconds=0) as engine:
        run = await engine.start(sleeper, id="r")
        wake_at = (await wait_status(run, S.SUSPENDED)).wake_at
    async with serving(file_path, sleeper, clock=clock) as engine:
        record = await engine.get("r").record()
        assert (record.status, record.wake_at, record.recoveries) == (S.SUSPENDED, wake_at, 0)


async def test_completed_steps_are_not_run_again_after_a_detach(file_path: str) -> None:
    begun = trio.Event()
    calls: Counter[str] = Counter()
    hangs = True

    async def count(name: str) -> str:
        calls[name] += 1
        if name == "c" and hangs:
            begun.set()
            await trio.sleep_forever()
        return name

    @workflow
    async def steps(ctx: Context) -> list[str]:
        return [await ctx.step(name, count, name) for name in "abcd"]

    async with serving(file_path, steps, grace_seconds=0) as engine:
        await engine.start(steps, id="r")
        await begun.wait()
    hangs = False
    async with serving(file_path, steps) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == list("abcd")
        assert (await engine.get("r").record()).recoveries == 0  # it was a detach, not a crash
    assert calls == {"a": 1, "b": 1, "c": 2, "d": 1}


async def test_one_stuck_run_does_not_hold_up_the_recovery_of_others(file_path: str) -> None:
    @workflow
    async def stuck(ctx: Context) -> None:
        await ctx.step("hang", trio.sleep_forever)

    async with Engine(file_path) as client:
        await client.start("stuck", id="a stuck one", priority=10)
        for number in range(5):
            await client.start("stepwise", 2, id=f"r{number}")
    assert die_holding(file_path, "stuck", "stepwise") == 6
    async with serving(file_path, stuck, stepwise, grace_seconds=0) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(5):
                assert await engine.get(f"r{number}").result() == [0, 1]
        assert (await engine.get("a stuck one").record()).status is S.RUNNING


# ---- unknown workflows -----------------------------------------------------------------------------------------------


async def test_a_run_of_an_unknown_workflow_is_left_alone_and_reported_until_an_engine_knows_it(
    file_path: str,
) -> None:
    async with serving(file_path, waiter) as engine:
        await engine.start("stepwise", 2, id="r")
        await engine.start("stepwise", 3, id="r2")
        await engine.start("other", id="o")
        await trio.sleep(0.05)
        assert (await engine.status()).unknown_workflows == {"stepwise": 2, "other": 1}
        record = await engine.get("r").record()
        assert (record.status, record.recoveries, record.problem) == (S.PENDING, 0, None)
    async with serving(file_path, stepwise) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == [0, 1]
            assert await engine.get("r2").result() == [0, 1, 2]
        assert (await engine.status()).unknown_workflows == {"other": 1}


async def test_an_orphan_of_an_unknown_workflow_is_left_alone(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start("stepwise", 2, id="r")
    assert die_holding(file_path, "stepwise") == 1
    for _ in range(2):
        async with serving(file_path, waiter) as engine:
            assert (await engine.status()).unknown_workflows == {"stepwise": 1}
            assert (await engine.get("r").record()).status is S.RUNNING
    async with serving(file_path, stepwise) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == [0, 1]


async def test_unknown_workflows_do_not_hold_up_known_ones(file_path: str) -> None:
    async with serving(file_path, stepwise, concurrency=1) as engine:
        for number in range(20):
            await engine.start("unknown", id=f"u{number}", priority=100)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(stepwise, 2) == [0, 1]


# ---- runs that kill their process ------------------------------------------------------------------------------------


@workflow(name="deadly", max_recoveries=3)
async def deadly(ctx: Context) -> str:
    return await ctx.step("live", lambda: "survived")


async def test_a_run_is_set_aside_after_max_recoveries_and_can_be_resumed(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start("deadly", id="r")
    for _ in range(4):
        assert die_holding(file_path, "deadly") == 1
    async with serving(file_path, deadly) as engine:
        run = engine.get("r")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed) as caught:
            await run.result()
        assert isinstance(caught.value.error, DurableError)
        assert "4 times" in str(caught.value.error)
        assert "resume" in str(caught.value.error)
        assert await run.steps() == ()
        await engine.resume("r")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "survived"
        assert (await run.record()).recoveries == 0


async def test_a_run_is_tried_up_to_max_recoveries(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.start("deadly", id="r")
    for _ in range(3):
        assert die_holding(file_path, "deadly") == 1
    async with serving(file_path, deadly) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "survived"


async def test_an_orderly_end_of_an_executor_counts_as_no_recovery(file_path: str) -> None:
    @workflow(max_recoveries=1)
    async def hanging(ctx: Context) -> None:
        await ctx.step("hang", trio.sleep_forever)

    async with Engine(file_path) as client:
        await client.start("hanging", id="r")
    for _ in range(4):
        async with serving(file_path, hanging, grace_seconds=0) as engine:
            await wait_status(engine.get("r"), S.RUNNING)
    async with Engine(file_path) as client:
        record = await client.get("r").record()
        assert (record.status, record.recoveries) == (S.RUNNING, 0)


@pytest.mark.parametrize("place", ["in the body", "in a step", "in a thread"])
async def test_a_run_that_ends_its_program_is_set_aside_and_takes_no_others_along(file_path: str, place: str) -> None:
    """With ``sys.exit``, say: all that runs here is given back in good order, and counted for the one that did it."""

    def exit_in_thread() -> None:
        sys.exit(3)

    async def exit() -> None:
        sys.exit(3)

    @workflow(max_recoveries=2)
    async def exiting(ctx: Context) -> None:
        await ctx.step("before", trio.lowlevel.checkpoint)
        if place == "in the body":
            sys.exit(3)
        await ctx.step("exit", exit if place == "in a step" else exit_in_thread)

    @workflow(max_recoveries=1)
    async def innocent(ctx: Context) -> str:
        await ctx.wait_signal("go on", timeout=3600)
        return "survived"

    async with Engine(file_path) as client:
        await client.start("innocent", id="innocent")
        await client.start("exiting", id="exiting")
    for _ in range(3):
        with pytest.raises(BaseExceptionGroup) as caught, trio.fail_after(PATIENCE_SECONDS):
            async with serving(file_path, exiting, innocent):
                await trio.sleep_forever()
        assert caught.group_contains(SystemExit)
    async with serving(file_path, exiting, innocent) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            with pytest.raises(RunFailed, match=r"set aside.*died 3 times"):
                await engine.get("exiting").result()
            await engine.get("innocent").signal("go on")
            assert await engine.get("innocent").result() == "survived"


async def test_runs_that_have_crashed_before_resume_one_at_a_time(file_path: str) -> None:
    """So that a poisonous one takes no others along."""
    together: list[int] = []
    inside = 0

    async def work() -> None:
        nonlocal inside
        inside += 1
        together.append(inside)
        await trio.sleep(0.005)
        inside -= 1

    @workflow
    async def suspect(ctx: Context) -> None:
        await ctx.step("work", work)

    async with Engine(file_path) as client:
        for number in range(4):
            await client.start("suspect", id=f"r{number}")
    for _ in range(2):
        assert die_holding(file_path, "suspect") == 4
    async with serving(file_path, suspect) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(4):
                await engine.get(f"r{number}").result()
    assert together == [1, 1, 1, 1]


async def test_suspects_wait_in_the_store_where_the_death_of_a_process_is_not_counted_as_theirs(file_path: str) -> None:
    begun = trio.Event()

    async def work() -> None:
        begun.set()
        await trio.sleep_forever()

    @workflow
    async def suspect(ctx: Context) -> None:
        await ctx.step("work", work)

    @workflow
    async def innocent(ctx: Context) -> str:
        return await ctx.step("greet", lambda: "hello")

    async with Engine(file_path) as client:
        for number in range(4):
            await client.start("suspect", id=f"r{number}")
    for _ in range(2):
        assert die_holding(file_path, "suspect") == 4
    async with serving(file_path, suspect, innocent, grace_seconds=0) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            await begun.wait()
            assert await engine.run(innocent) == "hello"  # it is held up by none of them
        owners = [row_of(engine, f"r{number}").owner for number in range(4)]
    assert len([owner for owner in owners if owner is not None]) == 1


@pytest.mark.parametrize("grace_seconds", [0, 0.05])
async def test_an_engine_ends_while_such_runs_wait_for_their_turn(file_path: str, grace_seconds: float) -> None:
    begun = trio.Event()
    hangs = True

    async def work() -> None:
        begun.set()
        if hangs:
            await trio.sleep_forever()

    @workflow
    async def suspect(ctx: Context) -> None:
        await ctx.step("work", work)

    async with Engine(file_path) as client:
        for number in range(3):
            await client.start("suspect", id=f"r{number}")
    for _ in range(2):
        assert die_holding(file_path, "suspect") == 3
    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(file_path, suspect, grace_seconds=grace_seconds):
            await begun.wait()
    hangs = False
    async with serving(file_path, suspect) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(3):
                await engine.get(f"r{number}").result()


async def test_a_suspect_run_that_waits_for_its_turn_can_be_cancelled(file_path: str) -> None:
    begun = trio.Event()

    async def work() -> None:
        begun.set()
        await trio.sleep_forever()

    @workflow
    async def suspect(ctx: Context) -> None:
        await ctx.step("work", work)

    async with Engine(file_path) as client:
        for number in range(2):
            await client.start("suspect", id=f"r{number}")
    for _ in range(2):
        assert die_holding(file_path, "suspect") == 2
    async with serving(file_path, suspect) as engine:
        await begun.wait()
        for number in reversed(range(2)):
            assert await engine.cancel(f"r{number}")
        for number in range(2):
            await wait_status(engine.get(f"r{number}"), S.CANCELLED)


# ---- two executors ---------------------------------------------------------------------------------------------------


async def test_two_executors_on_one_file_run_every_run_once(file_path: str) -> None:
    counts: Counter[str] = Counter()
    by: dict[str, set[str]] = {"a": set(), "b": set()}
    both = trio.Event()  # else one may have run everything before the other is open

    def make(name: str) -> Any:
        @workflow(name="counted")
        async def counted(ctx: Context) -> str:
            async def count(step: int) -> None:
                counts[f"{ctx.run_id}/{step}"] += 1
                by[name].add(ctx.run_id)
                if all(by.values()):
                    both.set()
                await both.wait()
                await trio.sleep(0.001)

            for step in range(3):
                await ctx.step("count", count, step)
            await ctx.sleep(0.01)
            return name

        return counted

    ids = [f"r{number}" for number in range(40)]
    async with Engine(file_path) as client:
        for run_id in ids:
            await client.start("counted", id=run_id)
        async with (
            serving(file_path, make("a"), concurrency=4, durability="normal"),
            serving(file_path, make("b"), concurrency=4, durability="normal"),
        ):
            with trio.fail_after(PATIENCE_SECONDS):
                for run_id in ids:
                    assert await client.get(run_id).result() in ("a", "b")
            assert len((await client.status()).executors) == 2
    assert set(counts.values()) == {1}
    assert len(counts) == 3 * len(ids)
    assert by["a"]
    assert by["b"]


async def test_two_executors_share_signals_timers_and_cancels(file_path: str) -> None:
    """A run may wait in one executor's memory or in none; whoever is asked, the right one gets it."""

    @workflow(name="mixed")
    async def mixed(ctx: Context) -> Any:
        await ctx.sleep(0.005)
        first = await ctx.wait_signal("go", timeout=30)
        await ctx.sleep(0.005)
        return [first, await ctx.wait_signal("go")]

    async with serving(file_path, mixed) as one, serving(file_path, mixed) as two:
        engines = [one, two]
        runs = [(await engines[number % 2].start(mixed)).id for number in range(12)]
        for number, run_id in enumerate(runs):
            await engines[number // 2 % 2].send_signal(run_id, "go", number)
        for number, run_id in enumerate(runs):
            if number % 4 == 3:
                await engines[number // 3 % 2].cancel(run_id)
            else:
                await engines[number // 3 % 2].send_signal(run_id, "go", -number)
        for number, run_id in enumerate(runs):
            run = engines[number % 2].get(run_id, mixed)
            if number % 4 == 3:
                await wait_status(run, S.CANCELLED)
            else:
                with trio.fail_after(PATIENCE_SECONDS):
                    assert await run.result() == [number, -number]


async def test_a_second_executor_takes_over_what_the_first_leaves(file_path: str) -> None:
    async with serving(file_path, waiter) as second:
        async with serving(file_path, waiter) as first:
            run = await first.start(waiter)
            await wait_passivated(first)
        await second.send_signal(run.id, "go", 1)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await second.get(run.id).result() == 1


async def test_a_client_started_before_any_server_gets_its_result(file_path: str) -> None:
    async with Engine(file_path, workflows=[stepwise]) as client:
        results: list[list[int]] = []

        async def ask() -> None:
            results.append(await client.run(stepwise, 3))

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                async with client.watch() as changes:
                    await anext(changes)
                async with serving(file_path, stepwise):
                    async with client.watch(status=S.COMPLETED) as changes:
                        await anext(changes)
    assert results == [[0, 1, 2]]


async def test_a_client_executes_nothing(file_path: str) -> None:
    async with Engine(file_path, workflows=[stepwise]) as client:
        run = await client.start(stepwise, 1)
        await trio.sleep(0.05)
        assert (await run.record()).status is S.PENDING
        status = await client.status()
        assert (status.executors, status.resident_runs) == ((), 0)
