"""Whatever users' objects do when they are looked at is a failure of that step or run, or one named error of that call.

Nothing else is touched: the engine lives, a run beside it completes, and whatever is read of any run can be read.
Each method is tried at every other place, with its faults in turn; ``DURABLE_TRIO_SEED=1`` has the other places, and
``DURABLE_TRIO_HOSTILE=14`` tries 14 at each, which are all but for those of built-in classes.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, Run, RunFailed, workflow
from durable_trio.failures import trace
from durable_trio.looks import is_a
from tests.engine.harness import PATIENCE_SECONDS, killed_when_ready, serving
from tests.engine.hostile import Hostile, errors, values
from tests.engine.hostile_places import (
    CASES,
    ERRORS_IN_RUNS,
    ERRORS_OUTSIDE,
    NAMED,
    VALUES_IN_RUNS,
    VALUES_OUTSIDE,
    Case,
    cases_on_file,
    flows_on_file,
    make_case,
    nothing_at_all,
    raises_in_body,
    remembers,
)
from tests.kit.crash_points import SEED
from tests.kit.measured import unmeasured

pytestmark = pytest.mark.usefixtures("no_leaks", "deaf_to_destructors")

FAULTS_AT_EACH = int(os.environ.get("DURABLE_TRIO_HOSTILE", "0"))  # 0: one, at every other place


@pytest.fixture
def deaf_to_destructors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have nobody look at what a ``__del__`` raises: pytest would, and that may be hostile itself."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    CASES.clear()
    gc.collect()


def chosen(objects: Iterable[Hostile], places: Iterable[str]) -> Iterator[tuple[Hostile, str]]:
    """Yield each hook at each place, or at every other one, with its faults in turn."""
    turn = itertools.count()
    hooks = itertools.groupby(objects, key=lambda hostile: (hostile.kind, hostile.place))
    for hook_number, (_, of_hook) in enumerate(hooks):
        faults = list(of_hook)
        for place_number, place in enumerate(places):
            count = FAULTS_AT_EACH or (hook_number + place_number + SEED) % 2
            for _ in range(count):
                yield faults[next(turn) * 5 % len(faults)], place


def batches(objects: Iterable[Hostile], places: Iterable[str]) -> Iterator[list[Case]]:
    """Yield the cases, some hundreds at a time: an engine asks the store for each of its workflows."""
    pairs = enumerate(chosen(objects, places))
    while some := [make_case(number, *pair) for number, pair in itertools.islice(pairs, 400)]:
        yield some


@workflow
async def healthy(ctx: Context) -> int:
    """Goes on beside them all, step by step, until it is told."""
    count = 0
    async with ctx.open_nursery() as nursery:
        while await ctx.wait_signal("go on", bool):
            count += await ctx.step("count", lambda: 1)
        nursery.cancel_scope.cancel()
    return count


@workflow
async def waits(ctx: Context) -> None:
    await ctx.wait_signal("never")


async def check_readable(engine: Engine, run: Run[Any], case: Case) -> None:
    """Check that what there is to read of a run can be read, and that it is no fault of this library."""
    record = await run.record()
    assert record.status.is_final, f"{case}: {record.status}, {record.problem}"
    assert record.problem is None, f"{case}: {record.problem}"
    await run.steps()
    with contextlib.suppress(RunFailed):
        await run.result()


async def run_case(engine: Engine, case: Case, places: trio.CapacityLimiter) -> None:
    async with places:
        run = await engine.start(case.flow, case.place, id=f"{case.number} run")
        with contextlib.suppress(RunFailed), trio.move_on_after(PATIENCE_SECONDS):  # then it is said which
            await run.result()
        await check_readable(engine, run, case)


@pytest.mark.parametrize("kind", ["errors", "values"])
async def test_a_run_with_something_hostile_ends_as_recorded_and_nothing_else_is_touched(kind: str) -> None:
    objects, places = (errors(), ERRORS_IN_RUNS) if kind == "errors" else (values(), VALUES_IN_RUNS)
    for number, some in enumerate(batches(objects, places)):
        with unmeasured() if number else contextlib.nullcontext():
            await told_safely(run_beside, some)


async def told_safely(check: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Await a check, and fail with a text: what is hostile in an exception would take pytest along."""
    try:
        await check(*args)
        return
    except BaseException as error:
        failure = trace(error, 20_000)
    pytest.fail(failure, pytrace=False)


async def run_beside(all_cases: list[Case]) -> None:
    flows = {flow.name: flow for case in all_cases for flow in (*case.flows, nothing_at_all, raises_in_body)}
    with trio.fail_after(PATIENCE_SECONDS * 3):
        async with serving(":memory:", healthy, *flows.values()) as engine, beside(engine):
            async with trio.open_nursery() as nursery:
                limiter = trio.CapacityLimiter(50)
                for case in all_cases:
                    nursery.start_soon(run_case, engine, case, limiter)


@asynccontextmanager
async def beside(engine: Engine) -> AsyncIterator[None]:
    """Have a healthy run go on beside the block, and look at all runs at its end."""
    run = await engine.start(healthy)
    await run.signal("go on", True)
    yield
    await run.signal("go on", True)
    await run.signal("go on", False)
    assert await run.result() == 2
    cursor: str | None = None
    while True:
        page = await engine.list_runs(limit=1000, cursor=cursor)
        assert not [record.problem for record in page.runs if record.problem is not None]
        if (cursor := page.next_cursor) is None:
            break


@pytest.mark.parametrize("kind", ["errors", "values"])
async def test_a_call_with_something_hostile_raises_one_named_error_and_nothing_else_is_touched(kind: str) -> None:
    objects, places = (errors(), ERRORS_OUTSIDE) if kind == "errors" else (values(), VALUES_OUTSIDE)
    for number, some in enumerate(batches(objects, places)):
        with unmeasured() if number else contextlib.nullcontext():
            await told_safely(call_beside, some, dict(places))


async def call_beside(all_cases: list[Case], places: dict[str, Callable[[Engine, Case], Awaitable[None]]]) -> None:
    flows = {flow.name: flow for case in all_cases for flow in (*case.flows, nothing_at_all, waits)}
    with trio.fail_after(PATIENCE_SECONDS * 3):
        async with serving(":memory:", healthy, *flows.values()) as engine, beside(engine):
            await engine.start(waits, id="waits")
            for case in all_cases:
                problem = await problem_of(places[case.place], engine, case)
                assert problem is None, problem


async def problem_of(call: Callable[[Engine, Case], Awaitable[None]], engine: Engine, case: Case) -> str | None:
    """Call, and return what is wrong with what comes out."""
    try:
        await call(engine, case)
    except NAMED:
        return None
    except BaseException as error:
        # What comes out of a script's own block is the script's, but no end of its program.
        if case.place not in ERRORS_OUTSIDE or not is_a(error, Exception):
            return f"{case}: {trace(error, 4000)}"
    return None


async def test_what_a_body_has_seen_of_something_hostile_it_sees_again_after_a_crash(file_path: str) -> None:
    assert await killed_when_ready("tests.engine.hostile_places", "serve_until_killed", file_path) == "ready"
    await told_safely(go_on_after_crash, file_path)


async def go_on_after_crash(path: str) -> None:
    all_cases = cases_on_file()
    async with serving(path, *flows_on_file(all_cases)) as engine:
        for case in all_cases:
            run = engine.get(f"{case.number} run", remembers)
            seen = await run.value("seen")
            await run.signal("go on")
            assert await run.result() == seen, str(case)
            assert (await run.record()).problem is None, str(case)
        assert len((await engine.list_runs(limit=1000)).runs) >= len(all_cases)
