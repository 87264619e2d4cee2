"""What a run waits for is told, each kind by its name, by ``run.record()`` and in lists; and why nobody takes it."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest
import trio

from durable_trio import Context, Engine, Retry, RunRecord, RunStatus, open_engine, workflow
from durable_trio.engine.servers import NOBODY_SERVES
from durable_trio.stores.questions import ListExecutors, Question
from durable_trio.testing.wrapping import WrappedStore
from tests.kit.stores import store_at

HOUR = 3600.0


async def fails(_item: Any = None) -> None:
    raise ConnectionError("no answer")


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


@workflow
async def kid(ctx: Context) -> None:
    await ctx.wait_signal("grow")


@workflow
async def stranger(ctx: Context) -> None:
    pass


@workflow
async def sleeps(ctx: Context) -> None:
    await ctx.sleep(HOUR, name="rest")


@workflow
async def waits(ctx: Context) -> None:
    await ctx.wait_signal("go")


@workflow
async def waits_for_a_while(ctx: Context) -> None:
    await ctx.wait_signal("go", timeout=HOUR)


@workflow
async def waits_in_time(ctx: Context) -> None:
    with ctx.move_on_after(HOUR):
        await ctx.wait_signal("go")


@workflow
async def tries_again(ctx: Context) -> None:
    await ctx.step("call", fails, retry=Retry.fixed(3, HOUR))


@workflow
async def tries_to_undo(ctx: Context) -> None:
    await ctx.step("call", nothing, compensate=fails, compensate_retry=Retry.fixed(3, HOUR))
    raise RuntimeError("undo")


@workflow
async def maps(ctx: Context) -> None:
    await ctx.map("calls", fails, [1, 2], retry=Retry.fixed(3, HOUR))


@workflow
async def runs_a_child(ctx: Context) -> None:
    await ctx.run_child(kid, id=f"{ctx.run_id}'s kid")


@workflow
async def leaves_a_child(ctx: Context) -> None:
    await ctx.start_child(kid, id=f"{ctx.run_id}'s kid")


@workflow
async def runs_children(ctx: Context) -> None:
    async def leg(branch: Context, number: int) -> None:
        await branch.run_child(kid, id=f"{ctx.run_id}'s kid {number}")

    async with ctx.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(leg, number)


@workflow
async def does_it_all(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(lambda branch: branch.sleep(2 * HOUR, name="rest"))
        nursery.start_soon(lambda branch: branch.wait_signal("go", timeout=HOUR))
        nursery.start_soon(lambda branch: branch.wait_signal("stop"))
        nursery.start_soon(lambda branch: branch.run_child(kid, id=f"{ctx.run_id}'s kid"))


KNOWN = [
    kid,
    sleeps,
    waits,
    waits_for_a_while,
    waits_in_time,
    tries_again,
    tries_to_undo,
    maps,
    runs_a_child,
    leaves_a_child,
    runs_children,
    does_it_all,
]


def told(record: RunRecord) -> list[tuple[Any, ...]]:
    """Return kind and name of what a run waits for, and whether that ends by itself."""
    return [(one.kind, one.name, one.due_at is not None) for one in record.waits_for]


async def at_rest(engine: Engine, run_id: str) -> RunRecord:
    """Return a run once it is in no hands, and waits for something."""
    with trio.fail_after(30):
        while True:  # no event tells that a run has left memory
            record = await engine.get(run_id).record()
            if record.owner is None and record.waits_for and record.waits_for[0].kind != "executor":
                return record
            await trio.sleep(0.005)


CHILD = ("child", "it's kid", False)
KINDS: list[tuple[Any, list[tuple[str, str | None, bool]]]] = [
    (sleeps, [("sleep", "rest", True)]),
    (waits, [("signal", "go", False)]),
    (waits_for_a_while, [("signal", "go", True)]),
    (waits_in_time, [("signal", "go", False), ("deadline", None, True)]),
    (tries_again, [("retry", "call#0", True)]),
    (tries_to_undo, [("retry", "compensate/call#0", True)]),
    (maps, [("retry", "calls#0/item#0", True), ("retry", "calls#0/item#1", True)]),
    (runs_a_child, [CHILD]),
    (leaves_a_child, [CHILD]),
    (runs_children, [("child", f"it's kid {number}", False) for number in range(3)]),
    (does_it_all, [("signal", "go", True), ("signal", "stop", False), ("sleep", "rest", True), CHILD]),
]


@pytest.mark.parametrize(("body", "expected"), KINDS, ids=[body.name for body, _ in KINDS])
async def test_each_kind_of_wait_is_named(body: Any, expected: list[Any], file_path: str) -> None:
    async with open_engine(file_path, workflows=KNOWN) as engine:
        await engine.start(body, id="it")
        record = await at_rest(engine, "it")
        assert sorted(told(record), key=str) == sorted(expected, key=str)
        listed = (await engine.list_runs(workflow=body)).runs[0]
        assert listed.waits_for == record.waits_for
    async with Engine(file_path) as client:  # a stranger, who does not know the code
        assert (await client.get("it").record()).waits_for == record.waits_for


async def test_a_child_is_told_with_its_workflow_and_is_gone_once_it_has_ended() -> None:
    async with open_engine(":memory:", workflows=KNOWN) as engine:
        await engine.start(runs_children, id="it")
        record = await at_rest(engine, "it")
        assert {one.workflow for one in record.waits_for} == {"kid"}
        await engine.send_signal("it's kid 1", "grow")
        with trio.fail_after(30):
            while len(record.waits_for) == 3:
                record = await at_rest(engine, "it")
        assert [one.name for one in record.waits_for] == ["it's kid 0", "it's kid 2"]


async def test_a_delay_and_a_time_to_live_are_told() -> None:
    async with open_engine(":memory:", workflows=KNOWN) as engine:
        later = await engine.start(waits, delay=HOUR)
        assert told(await later.record()) == [("start", None, True)]
        await engine.start(waits, id="brief", ttl=HOUR)
        assert told(await at_rest(engine, "brief")) == [("signal", "go", False), ("ttl", None, True)]


async def test_a_run_that_has_ended_waits_for_nothing() -> None:
    async with open_engine(":memory:", workflows=KNOWN) as engine:
        run = await engine.start(waits)
        await at_rest(engine, run.id)
        await engine.send_signal(run.id, "go")
        await run.result()
        assert (await run.record()).waits_for == ()


async def test_the_first_twenty_are_told_of_a_run_that_waits_for_more() -> None:
    @workflow
    async def wide(ctx: Context) -> None:
        await ctx.map("calls", fails, list(range(50)), retry=Retry.fixed(3, HOUR))

    async with open_engine(":memory:", workflows=[wide]) as engine:
        run = await engine.start(wide)
        record = await at_rest(engine, run.id)
        assert len(record.waits_for) == 20


# ---- why a run that is due is not taken ------------------------------------------------------------------------------


def reason_of(record: RunRecord) -> str:
    (one,) = record.waits_for
    assert (one.kind, one.name) == ("executor", None)
    assert one.reason is not None
    return one.reason


async def test_nobody_serves(file_path: str) -> None:
    async with Engine(file_path) as client:
        run = await client.start(waits)
        assert reason_of(await run.record()) == NOBODY_SERVES
        assert reason_of((await client.list_runs()).runs[0]) == NOBODY_SERVES


async def test_no_executor_knows_the_workflow(store_path: str) -> None:
    async with open_engine(store_path, workflows=KNOWN) as engine:
        run = await engine.start("stranger")
        assert reason_of(await run.record()) == (
            "no executor knows the workflow 'stranger'; add it to workflows=[…] of the engine that serves"
        )


async def test_all_places_are_taken(file_path: str) -> None:
    began = trio.Event()

    async def hang() -> None:
        began.set()
        await trio.sleep_forever()

    @workflow
    async def busy(ctx: Context) -> None:
        await ctx.step("hang", hang)

    async with open_engine(file_path, workflows=[busy, *KNOWN], concurrency=1, grace_seconds=0) as engine:
        await engine.start(busy)
        await began.wait()
        run = await engine.start(waits)
        assert "no place free: raise concurrency" in reason_of(await run.record())


class AllDead(WrappedStore):
    """Takes all executors for dead, once it is told to."""

    is_judged = False

    def ask(self, question: Question[Any]) -> Any:
        answer = self.inner.ask(question)
        if self.is_judged and isinstance(question, ListExecutors):
            return tuple(attrs.evolve(row, is_locked=False) for row in answer)
        return answer


async def test_a_run_whose_process_has_died_says_so(file_path: str) -> None:
    began = trio.Event()

    async def hang() -> None:
        began.set()
        await trio.sleep_forever()

    @workflow
    async def busy(ctx: Context) -> None:
        await ctx.step("hang", hang)

    async with open_engine(file_path, workflows=[busy], grace_seconds=0) as engine:
        run = await engine.start(busy)
        await began.wait()
        dead = AllDead(store_at(file_path))
        async with Engine(dead) as client:
            assert (await client.get(run.id).record()).waits_for == ()  # it is at work
            dead.is_judged = True
            assert reason_of(await client.get(run.id).record()) == (f"its process died, and {NOBODY_SERVES}")


# ---- a workflow that the engine was not given ------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == "unknown_workflow"]


async def test_a_child_of_an_unknown_workflow_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def parent(ctx: Context, count: int) -> None:
        async with ctx.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(lambda branch: branch.run_child(stranger))

    async with open_engine(":memory:", workflows=[parent]) as engine:
        await engine.start(parent, 2, id="p")
        record = await at_rest(engine, "p")
        assert [one.workflow for one in record.waits_for] == ["stranger"] * 2
        (warning,) = warnings_of(caplog)
        assert "Add 'stranger' to workflows=[…]" in warning.getMessage()
        assert (warning.levelname, warning.name) == ("WARNING", "durable_trio.runs")
        assert warning.run_id == "p"  # type: ignore[attr-defined]
        assert warning.child_workflow == "stranger"  # type: ignore[attr-defined]


async def test_of_a_version_that_the_engine_lacks_the_warning_says_which(caplog: pytest.LogCaptureFixture) -> None:
    newer = workflow(name="stranger", version=2)(stranger.fn)

    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.run_child(newer)

    async with open_engine(":memory:", workflows=[parent, stranger]) as engine:
        await engine.start(parent, id="p")
        await at_rest(engine, "p")
    (warning,) = warnings_of(caplog)
    assert "Add 'stranger', version 2, to workflows=[…]" in warning.getMessage()
    assert warning.child_version == 2  # type: ignore[attr-defined]


async def test_a_child_that_is_replayed_or_known_or_named_is_not_warned_of(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.start_child(kid)
        await ctx.start_child("elsewhere", detached=True)
        await ctx.run_child(stranger)

    async with open_engine(file_path, workflows=[parent, kid]) as engine:
        await engine.start(parent, id="p")
        await at_rest(engine, "p")
    assert len(warnings_of(caplog)) == 1
    async with open_engine(file_path, workflows=[parent, kid]) as engine:
        await engine.send_signal("p", "wake")
        await engine.cancel("p")
        with trio.fail_after(30):
            while (await engine.get("p").record()).status is RunStatus.SUSPENDED:  # noqa: ASYNC110  # it is replayed
                await trio.sleep(0.005)
    assert len(warnings_of(caplog)) == 1


async def test_a_client_that_was_given_workflows_is_warned_of_another_and_one_without_any_is_not(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(file_path) as client:
        await client.start(stranger)
    assert warnings_of(caplog) == []
    async with Engine(file_path, workflows=[kid]) as client:
        await client.start(kid)
        await client.start("stranger")
        assert warnings_of(caplog) == []
        await client.start(stranger, id="s")
        await client.signal_with_start(stranger, signal="x", id="t")
        (warning,) = warnings_of(caplog)
        assert "run 's' is started of workflow 'stranger', which this engine does not know" in warning.getMessage()
