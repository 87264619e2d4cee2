"""Divergence: code that does not do what its run has recorded parks the run with a readable report; nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing

from durable_trio import Context, Engine, Run, RunStatus, Workflow, workflow
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")

Body = Callable[[Context], Coroutine[Any, Any, Any]]


async def _recorded(ctx: Context) -> str:
    """What all runs of these tests have recorded when their code changes: a, b, b, then a wait."""
    await ctx.step("a", lambda: "a")
    await ctx.step("b", lambda: "b0")
    last = await ctx.step("b", lambda: "b1")
    await ctx.wait_signal("go")
    return last


def _make(body: Body) -> Workflow[[], Any]:
    """Return a workflow that is always named the same; each body has a fingerprint of its own."""
    return workflow(name="changing")(body)


ORIGINAL = _make(_recorded)


async def _other_name(ctx: Context) -> str:
    await ctx.step("a", lambda: "a")
    await ctx.step("c", lambda: "c")
    return await _rest(ctx)


async def _other_kind(ctx: Context) -> str:
    await ctx.step("a", lambda: "a")
    await ctx.transaction("b", lambda _: "b0")
    return await _rest(ctx)


async def _sleep_instead(ctx: Context) -> str:
    await ctx.step("a", lambda: "a")
    await ctx.sleep(0, name="b")
    return await _rest(ctx)


async def _missing_call(ctx: Context) -> str:
    await ctx.step("b", lambda: "b0")
    return await _rest(ctx)


async def _missing_in_a_row(ctx: Context) -> str:
    await ctx.step("a", lambda: "a")
    await ctx.step("b", lambda: "b0")
    await ctx.wait_signal("go")
    return "one b"


async def _extra_call(ctx: Context) -> str:
    await ctx.step("new", lambda: "new")
    await ctx.step("a", lambda: "a")
    await ctx.step("b", lambda: "b0")
    return await _rest(ctx)


async def _other_order(ctx: Context) -> str:
    await ctx.step("b", lambda: "b0")
    await ctx.step("a", lambda: "a")
    return await _rest(ctx)


async def _ends_early(ctx: Context) -> str:
    await ctx.step("a", lambda: "a")
    return "early"


async def _fails_early(ctx: Context) -> str:
    await ctx.step("a", lambda: "a")
    raise LookupError("early")


async def _does_nothing(ctx: Context) -> str:
    return "nothing"


async def _rest(ctx: Context) -> str:
    last = await ctx.step("b", lambda: "b1")
    await ctx.wait_signal("go")
    return last


# The new body, the row that history has, and what the code does instead.
CHANGES: dict[str, tuple[Body, str, str]] = {
    "other name": (_other_name, "step b#0", "step c#0"),
    "other kind": (_other_kind, "step b#0", "transaction b#0"),
    "sleep instead": (_sleep_instead, "step b#0", "sleep b#0"),
    "missing call": (_missing_call, "step a#0", "step b#0"),
    "missing in a row": (_missing_in_a_row, "step b#1", "signal go#0"),
    "extra call": (_extra_call, "step a#0", "step new#0"),
    "other order": (_other_order, "step a#0", "step b#0"),
    "ends early": (_ends_early, "step b#0", "(the body has ended)"),
    "fails early": (_fails_early, "step b#0", "(the body has ended)"),
    "does nothing": (_does_nothing, "step a#0", "(the body has ended)"),
}


async def _record_history(path: str, *ids: str) -> None:
    async with serving(path, ORIGINAL) as engine:
        for run_id in ids:
            await engine.start(ORIGINAL, id=run_id)
        await wait_passivated(engine)


async def _steps(run: Run[Any]) -> list[tuple[str, str, Any]]:
    return [(step.key, step.kind, step.result) for step in await run.steps()]


HISTORY = [("a#0", "step", "a"), ("b#0", "step", "b0"), ("b#1", "step", "b1")]


@pytest.mark.parametrize(("body", "history", "code"), CHANGES.values(), ids=CHANGES.keys())
async def test_changed_code_parks_the_run_with_both_sides(file_path: str, body: Body, history: str, code: str) -> None:
    await _record_history(file_path, "r")
    async with serving(file_path, _make(body)) as engine:
        run = engine.get("r")
        await run.signal("go")
        record = await wait_parked(run)
        assert record.status is RunStatus.SUSPENDED
        assert record.wake_at is not None  # for other code of its workflow
        assert record.error is None
        assert record.problem is not None
        assert record.problem.kind == "divergence"
        assert (await engine.status()).parked == ("r",)
        assert await _steps(run) == HISTORY
        text = record.problem.text
    assert "not durable" not in text
    assert "'changing'" in text
    assert "'r'" in text
    sides = [re.split(r" \| ", line) for line in text.splitlines() if " | " in line]
    assert sides[0][0].strip() == "history"
    assert sides[0][1] == "code"
    marked = [(left.strip(), right.strip()) for left, right in sides[1:] if left.startswith(">")]
    assert marked == [(f"> {history}", f"> {code}")]
    assert all(left.strip() == right.strip() for left, right in sides[1:] if left.startswith("  ")), text
    assert len({line.index(" | ") for line in text.splitlines() if " | " in line}) == 1, "the columns are aligned"


@pytest.mark.parametrize(("body", "history", "code"), CHANGES.values(), ids=CHANGES.keys())
async def test_with_the_right_code_the_run_goes_on(file_path: str, body: Body, history: str, code: str) -> None:
    """By itself: an executor that registers the workflow with other code takes the run up."""
    await _record_history(file_path, "r")
    async with serving(file_path, _make(body)) as engine:
        await engine.send_signal("r", "go")
        await wait_parked(engine.get("r"))
    async with serving(file_path, ORIGINAL) as engine:
        run = engine.get("r")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "b1"
        assert (await run.record()).problem is None
        assert await _steps(run) == [*HISTORY, ("go#0", "signal", None)]


async def test_the_same_code_again_leaves_the_run_parked(file_path: str) -> None:
    await _record_history(file_path, "r")
    for _ in range(2):
        async with serving(file_path, _make(_other_name)) as engine:
            run = engine.get("r")
            await run.signal("go")
            before = await wait_parked(run)
            await wait_passivated(engine)
            assert await run.record() == before


async def test_a_resume_lets_a_parked_run_go_on_in_the_same_process(store_path: str) -> None:
    bodies: list[Body] = [_recorded]

    @workflow
    async def changing(ctx: Context) -> Any:
        return await bodies[-1](ctx)

    async with serving(store_path, changing) as engine:
        run = await engine.start(changing, id="r")
        await wait_passivated(engine)
        bodies.append(_other_name)
        await run.signal("go")
        await wait_parked(run)
        resumed = await engine.resume("r")  # the code is still wrong: parked again
        await wait_parked(resumed)
        await wait_passivated(engine)
        bodies.append(_recorded)
        resumed = await engine.resume("r")
        assert resumed.id == "r"
        assert await resumed.result() == "b1"
        assert (await run.record()).problem is None
        assert (await engine.status()).parked == ()


async def test_a_result_keeps_waiting_while_the_run_is_parked(file_path: str) -> None:
    await _record_history(file_path, "r")
    results: list[Any] = []
    async with serving(file_path, _make(_other_name)) as engine, trio.open_nursery() as nursery:
        run = engine.get("r")

        async def wait() -> None:
            results.append(await run.result())

        nursery.start_soon(wait)
        await run.signal("go")
        await wait_parked(run)
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        nursery.cancel_scope.cancel()
    async with serving(file_path, ORIGINAL) as engine:
        assert await engine.get("r").result() == "b1"
    assert results == []


async def test_a_body_cannot_catch_divergence(file_path: str) -> None:
    """Its ``finally`` blocks run, its ``except Exception`` does not; nothing that it does then is recorded."""
    events: list[str] = []

    async def catches(ctx: Context) -> str:
        await ctx.step("a", lambda: events.append("a"))
        try:
            await ctx.step("c", lambda: events.append("c"))
        except Exception:
            events.append("caught")
        finally:
            events.append(f"finally, detaching: {ctx.detaching}")
            await ctx.step("after", lambda: events.append("after"))
        return "swallowed"

    await _record_history(file_path, "r")
    async with serving(file_path, _make(catches)) as engine:
        run = engine.get("r")
        await run.signal("go")
        record = await wait_parked(run)
        await wait_passivated(engine)
        assert record.status is RunStatus.SUSPENDED
        assert await _steps(run) == HISTORY
    assert events == ["finally, detaching: True"]


async def test_several_diverging_runs_are_each_reported_and_do_not_hold_up_others(file_path: str) -> None:
    ids = [f"r{number}" for number in range(5)]

    @workflow
    async def healthy(ctx: Context) -> str:
        return await ctx.step("a", lambda: "healthy")

    await _record_history(file_path, *ids)
    async with serving(file_path, _make(_extra_call), healthy) as engine:
        for run_id in ids:
            await engine.send_signal(run_id, "go", run_id)
        for run_id in ids:
            record = await wait_parked(engine.get(run_id))
            assert record.problem is not None
            assert repr(run_id) in record.problem.text
        assert sorted((await engine.status()).parked) == ids
        assert await engine.run(healthy) == "healthy"
    async with serving(file_path, ORIGINAL) as engine:
        for run_id in ids:
            assert await engine.get(run_id).result() == "b1"
        assert (await engine.status()).parked == ()


async def test_code_that_matches_does_not_diverge_over_any_number_of_restarts(file_path: str) -> None:
    @workflow
    async def long(ctx: Context) -> list[Any]:
        seen: list[Any] = []
        for number in range(5):
            seen.append(await ctx.step("step", lambda number: number, number))
            await ctx.sleep(0)
            seen.append(await ctx.wait_signal("go"))
            seen.append(ctx.random() < 1)
        return seen

    async def served(signal: int) -> None:
        async with serving(file_path, long) as engine:
            await engine.start(long, id="r")
            await engine.send_signal("r", "go", signal)
            await wait_passivated(engine)
            assert (await engine.get("r").record()).problem is None

    for number in range(5):
        await served(number)
    async with serving(file_path, long) as engine:
        expected = [item for number in range(5) for item in (number, number, True)]
        assert await engine.get("r", long).result() == expected


async def test_a_call_added_beyond_what_is_recorded_is_none(file_path: str) -> None:
    """Code may change where the run has not been yet; values, arguments and functions may change anywhere."""

    async def longer(ctx: Context) -> str:
        await ctx.step("a", lambda: "another function")
        await ctx.step("b", lambda: "b0")
        last = await ctx.step("b", lambda: "b1")
        added = await ctx.step("added", lambda: "added")
        await ctx.sleep(0)
        return f"{last} {added} {await ctx.wait_signal('go')}"

    await _record_history(file_path, "r")
    async with serving(file_path, _make(longer)) as engine:
        await engine.send_signal("r", "go", "on")
        assert await engine.get("r").result() == "b1 added on"


async def test_a_missing_compensation_parks_the_run(file_path: str) -> None:
    undone: list[str] = []

    async def with_compensation(ctx: Context) -> None:
        await ctx.step("a", lambda: "a", compensate=undone.append)
        await ctx.wait_signal("go")
        raise LookupError

    async def without(ctx: Context) -> None:
        await ctx.step("a", lambda: "a")
        await ctx.wait_signal("go")
        raise LookupError

    right = _make(with_compensation)
    async with serving(file_path, right) as engine:
        await engine.start(right, id="r")
        await wait_passivated(engine)
    async with serving(file_path, _make(without)) as engine:
        await engine.send_signal("r", "go")
        record = await wait_parked(engine.get("r"))
        assert record.problem is not None
        assert "a#0" in record.problem.text
        assert "compensation" in record.problem.text
    assert undone == []
    async with serving(file_path, right) as engine:
        await wait_until(lambda: undone)
    assert undone == ["a"]


async def test_arguments_that_no_longer_fit_park_the_run(file_path: str) -> None:
    @workflow(name="changing")
    async def old(ctx: Context, count: str) -> str:
        await ctx.wait_signal("go")
        return count

    @workflow(name="changing")
    async def new(ctx: Context, count: int) -> int:
        await ctx.wait_signal("go")
        return count + 1

    async with serving(file_path, old) as engine:
        await engine.start(old, "many", id="r")
        await wait_passivated(engine)
    async with serving(file_path, new) as engine:
        await engine.send_signal("r", "go")
        record = await wait_parked(engine.get("r"))
        assert record.problem is not None
        assert record.problem.kind == "arguments"
        assert record.args == ("many",)
    async with serving(file_path, old) as engine:
        assert await engine.get("r").result() == "many"


async def test_of_a_parameter_that_was_added_or_removed_the_problem_says_what_to_do_about_parameters(
    file_path: str,
) -> None:
    @workflow(name="changing")
    async def one(ctx: Context, count: int) -> None:
        await ctx.wait_signal("go")

    @workflow(name="changing")
    async def two(ctx: Context, count: int, gift: bool) -> None:
        await ctx.wait_signal("go")

    async with serving(file_path, one) as engine:
        await engine.start(one, 1, id="one")
    async with serving(file_path, two) as engine:
        await engine.start(two, 1, True, id="two")
        await engine.send_signal("one", "go")
        too_few = await wait_parked(engine.get("one"))
    async with serving(file_path, one) as engine:
        await engine.send_signal("two", "go")
        too_many = await wait_parked(engine.get("two"))
    for record in (too_few, too_many):
        assert record.problem is not None
        assert record.problem.kind == "arguments"
        assert "A parameter that was added needs a default, and one that was removed must stay" in record.problem.text


async def test_a_recorded_value_that_no_longer_fits_parks_the_run(file_path: str) -> None:
    async def text(ctx: Context) -> str:
        value = await ctx.step("a", lambda: "many", returns=str)
        await ctx.wait_signal("go")
        return value

    async def number(ctx: Context) -> int:
        value = await ctx.step("a", lambda: 7, returns=int)
        await ctx.wait_signal("go")
        return value

    right = _make(text)
    async with serving(file_path, right) as engine:
        await engine.start(right, id="r")
        await wait_passivated(engine)
    async with serving(file_path, _make(number)) as engine:
        await engine.send_signal("r", "go")
        record = await wait_parked(engine.get("r"))
        assert record.problem is not None
        assert record.problem.kind == "codec"
        assert "a#0" in record.problem.text
    async with serving(file_path, right) as engine:
        assert await engine.get("r").result() == "many"


# ---- waits that are not durable --------------------------------------------------------------------------------------


async def test_a_body_that_hangs_at_replay_is_parked_with_the_line_where_it_waits(file_path: str) -> None:
    async def hangs(ctx: Context) -> None:
        await ctx.step("a", lambda: "a")
        await trio.sleep_forever()  # here it hangs

    await _record_history(file_path, "r")
    async with serving(file_path, _make(hangs), replay_stall_seconds=0.1) as engine:
        await engine.send_signal("r", "go")
        record = await wait_parked(engine.get("r"))
    assert record.problem is not None
    text = record.problem.text
    assert "> step b#0" in text
    assert "not durable" in text
    assert f"{__file__}:{hangs.__code__.co_firstlineno + 2} in hangs" in text
    async with serving(file_path, ORIGINAL) as engine:
        assert await engine.get("r").result() == "b1"


@pytest.mark.parametrize("primitive", ["sleep", "event", "lock", "channel", "thread"])
async def test_a_body_that_waits_for_others_at_replay_is_waited_for(file_path: str, primitive: str) -> None:
    """Also for a primitive of trio's: who ends the wait need not be a task of the body."""
    lock = trio.Lock()
    event = trio.Event()
    send, receive = trio.open_memory_channel[None](0)
    waiting = trio.Event()

    async def wait_for_others(engine: Engine) -> None:
        waiting.set()
        if primitive == "sleep":
            await trio.sleep(0.02)
        elif primitive == "event":
            await event.wait()
        elif primitive == "lock":
            async with lock:
                pass
        elif primitive == "channel":
            await receive.receive()
        else:
            await engine.status()

    async def waits(ctx: Context) -> str:
        await ctx.step("a", lambda: "a")
        await wait_for_others(engine)
        await ctx.step("b", lambda: "b0")
        last = await ctx.step("b", lambda: "b1")
        await ctx.wait_signal("go")
        return last

    await _record_history(file_path, "r")
    async with serving(file_path, _make(waits)) as engine:
        async with lock:
            await engine.send_signal("r", "go")
            with trio.fail_after(PATIENCE_SECONDS):
                await waiting.wait()
            await trio.sleep(0.02)  # whatever it has decided by now, it must not be divergence
        event.set()
        if primitive == "channel":
            await send.send(None)
        assert await engine.get("r").result() == "b1"
    send.close()
    receive.close()


async def test_what_the_body_has_raised_instead_is_told(file_path: str) -> None:
    async def raises(ctx: Context) -> Any:
        raise ValueError("a bug of the new code")

    await _record_history(file_path, "r")
    async with serving(file_path, _make(raises)) as engine:
        await engine.send_signal("r", "go")
        problem = (await wait_parked(engine.get("r"))).problem
        assert problem is not None
        assert "The body has raised ValueError: a bug of the new code (at " in problem.text
        assert "in raises)" in problem.text
