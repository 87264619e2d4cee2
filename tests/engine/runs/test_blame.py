"""Code of a run that ends the executor is to blame for it, wherever it stands, and nobody else is."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunFailed, RunRecord, RunStatus, Workflow, open_engine, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_until
from tests.kit.notes import take_for_ever

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus


class Exit(SystemExit):
    """Ends the program, and cannot be looked at while it does."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no text")


ENDS: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: SystemExit(3),
    "not to be looked at": lambda: Exit(3),
    "interrupt": lambda: KeyboardInterrupt("of its own"),
}


def make_culprit(place: str, end: Callable[[], BaseException]) -> Workflow[..., Any]:
    """Return a workflow whose code ends the program at that place."""

    def ends_at_once(*_: Any) -> None:
        raise end()

    async def ends(*_: Any) -> None:
        raise end()

    async def ends_in_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise SystemExit(3)  # as another one trio itself would not survive it

    def ends_late(connection: Any) -> None:
        try:
            take_for_ever(connection)
        finally:
            raise end()

    @workflow(max_recoveries=1)
    async def culprit(ctx: Context) -> None:
        if place == "body":
            raise end()
        if place == "step":
            await ctx.step("end", ends)
        if place == "nursery in a step":
            await ctx.step("end", ends_in_nursery)
        if place == "sync step":
            await ctx.step("end", ends_at_once)
        if place == "step with a timeout":
            await ctx.step("end", ends, timeout=60)
        if place == "map":
            await ctx.map("end", ends, [1, 2])
        if place == "transaction":
            await ctx.transaction("end", ends_at_once)
        if place == "transaction that is too late":
            await ctx.transaction("end", ends_late, timeout=0.01)
        if place == "branch":
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(ends)
        if place == "block of a nursery":
            async with ctx.open_nursery():
                raise end()
        if place == "deadline":
            with ctx.move_on_after(3600):
                raise end()
        if place == "compensation":
            await ctx.step("begin", trio.lowlevel.checkpoint, compensate=ends)
            raise ValueError("undo it")

    return culprit


PLACES = (
    *("body", "step", "nursery in a step", "sync step", "step with a timeout", "map", "transaction"),
    *("transaction that is too late", "branch", "block of a nursery", "deadline", "compensation"),
)


# How the log names a place that is not in the body itself.
KEYS = {
    **dict.fromkeys(("step", "nursery in a step", "sync step", "step with a timeout"), "step 'end#0'"),
    "map": "step 'end#0/item#",
    **dict.fromkeys(("transaction", "transaction that is too late"), "transaction 'end#0'"),
    "compensation": "compensation 'compensate/begin#0'",
}


@asynccontextmanager
async def ending(path: str, *workflows: Workflow[..., Any], **options: Any) -> AsyncIterator[Engine]:
    """Serve in a block that starts runs, until the code of one ends the program."""
    error: BaseException | None = None
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            async with serving(path, *workflows, **options) as engine:
                yield engine
                await trio.sleep_forever()
    except BaseException as caught:
        error = caught
    kinds = (SystemExit, KeyboardInterrupt)
    assert isinstance(error, kinds) or (isinstance(error, BaseExceptionGroup) and error.subgroup(kinds) is not None)


def named(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the runs that the log blames."""
    return [vars(record)["run_id"] for record in caplog.records if vars(record).get("event") == "executor_ended"]


@workflow(max_recoveries=1)
async def innocent(ctx: Context) -> str:
    async def work() -> str:
        INNOCENTS.append(ctx.run_id)
        await trio.sleep_forever()
        return "never"

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(Context.sleep, 3600)
        return await ctx.step("work", work)


INNOCENTS: list[str] = []  # runs whose step has begun in this life


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("place", PLACES)
async def test_only_the_run_whose_code_ends_the_executor_is_named_and_counted(
    file_path: str, caplog: pytest.LogCaptureFixture, place: str, kind: str
) -> None:
    culprit = make_culprit(place, ENDS[kind])
    INNOCENTS.clear()
    async with ending(file_path, innocent, culprit) as engine:
        await engine.start(innocent, id="innocent")
        await wait_until(lambda: INNOCENTS)
        await engine.start(culprit, id="culprit")
    assert named(caplog) == ["culprit"]
    assert f", in {KEYS.get(place, 'its body')}" in caplog.text
    async with Engine(file_path) as client:
        records = {run_id: await client.get(run_id).record() for run_id in ("innocent", "culprit")}
    assert {run_id: record.recoveries for run_id, record in records.items()} == {"innocent": 0, "culprit": 1}
    assert (records["innocent"].status, records["innocent"].problem) == (S.RUNNING, None)


async def test_a_run_that_interrupts_each_executor_is_set_aside_at_last(file_path: str) -> None:
    culprit = make_culprit("step", ENDS["interrupt"])
    async with ending(file_path, culprit) as engine:
        await engine.start(culprit, id="culprit")
    async with ending(file_path, culprit):
        pass
    async with serving(file_path, culprit) as engine:
        with pytest.raises(RunFailed, match="was set aside"), trio.fail_after(PATIENCE_SECONDS):
            await engine.get("culprit").result()


async def test_what_a_parent_fails_with_says_whose_steps_are_not_compensated(file_path: str) -> None:
    """Of a child that was set aside; the parent's own steps are compensated meanwhile."""
    culprit = make_culprit("step", ENDS["interrupt"])

    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.run_child(culprit, id="culprit")

    async with ending(file_path, culprit, parent) as engine:
        await engine.start(parent, id="parent")
    async with ending(file_path, culprit, parent):
        pass
    async with serving(file_path, culprit, parent) as engine:
        with pytest.raises(RunFailed) as failure, trio.fail_after(PATIENCE_SECONDS):
            await engine.get("parent").result()
    text = str(failure.value)
    assert "The steps of 'culprit' are not compensated" in text
    assert "resume 'culprit', and then its parent 'parent', if that has failed with it and was not compensated" in text


@pytest.mark.parametrize("place", ["step", "body", "handler of another signal"])
def test_a_signal_says_nothing_of_the_run_that_it_has_met(
    place: str, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: object) -> None:
        raise SystemExit(3)

    async def meets() -> None:
        signal.raise_signal(signal.SIGUSR1 if place == "handler of another signal" else signal.SIGINT)
        await trio.lowlevel.checkpoint()

    @workflow
    async def met(ctx: Context) -> None:
        if place == "body":
            await meets()
        await ctx.step("meets", meets)

    async def program() -> None:
        async with open_engine(file_path, workflows=[met]) as engine:
            await engine.start(met, id="met")
            await trio.sleep(PATIENCE_SECONDS)

    async def record() -> RunRecord:
        async with Engine(file_path) as client:
            return await client.get("met").record()

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit, BaseExceptionGroup)):
            trio.run(program)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert named(caplog) == []
    found = trio.run(record)
    assert (found.recoveries, found.problem, found.status.is_final) == (0, None, False)


async def test_two_runs_that_end_the_executor_at_once_are_both_to_blame(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    together = trio.Event()
    waiting: list[str] = []

    async def ends() -> None:
        waiting.append("one")
        await together.wait()
        raise SystemExit(3)

    @workflow
    async def culprit(ctx: Context) -> None:
        await ctx.step("end", ends)

    INNOCENTS.clear()
    async with ending(file_path, innocent, culprit) as engine:
        await engine.start(innocent, id="innocent")
        for name in ("first", "second"):
            await engine.start(culprit, id=name)
        await wait_until(lambda: len(waiting) == 2 and INNOCENTS)
        together.set()
    assert sorted(named(caplog)) == ["first", "second"]
    async with Engine(file_path) as client:
        counts = {name: (await client.get(name).record()).recoveries for name in ("innocent", "first", "second")}
    assert counts == {"innocent": 0, "first": 1, "second": 1}


async def test_a_child_that_ends_the_executor_is_to_blame_and_its_parent_is_not(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    child = make_culprit("step", ENDS["plain"])

    @workflow
    async def parent(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(Context.run_child, child)
            await ctx.step("work", trio.sleep_forever)

    async with ending(file_path, parent, child) as engine:
        await engine.start(parent, id="parent")
    async with Engine(file_path) as client:
        runs = (await client.list_runs()).runs
    assert {run.workflow: run.recoveries for run in runs} == {"parent": 0, "culprit": 1}
    assert named(caplog) == [run.id for run in runs if run.workflow == "culprit"]


async def test_a_script_whose_inline_block_ends_the_program_takes_no_run_along(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    INNOCENTS.clear()

    async def ends() -> None:
        raise Exit(3)

    for end in ("step", "block"):
        async with ending(file_path, innocent, grace_seconds=0) as engine:
            await engine.start(innocent, id="innocent")
            await wait_until(lambda: INNOCENTS)
            async with engine.inline("script") as ctx:
                if end == "step":
                    await ctx.step("end", ends)
                raise Exit(3)
        async with Engine(file_path) as client:
            record = await client.get("innocent").record()
            assert (record.status, record.recoveries, record.problem) == (S.RUNNING, 0, None)
            assert (await client.get("script").record()).status in (S.RUNNING, S.SUSPENDED)
    assert named(caplog) == []


async def test_a_run_is_not_blamed_for_what_its_clean_up_raises_while_another_ends_the_executor(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[int] = []

    async def untidy() -> None:
        begun.append(1)
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while it was cancelled")

    @workflow
    async def messy(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(Context.step, "untidy", untidy)

    culprit = make_culprit("step", ENDS["plain"])
    async with ending(file_path, messy, culprit) as engine:
        await engine.start(messy, id="messy")
        await wait_until(lambda: len(begun) == 2)
        await engine.start(culprit, id="culprit")
    assert named(caplog) == ["culprit"]
    async with Engine(file_path) as client:
        record = await client.get("messy").record()
    assert (record.status, record.recoveries, record.problem) == (S.RUNNING, 0, None)
