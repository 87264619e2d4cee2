"""Steps: recorded before the call returns, run once, and known by one key."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio

from durable_trio import Context, Retry, current_step, workflow
from tests.calls.kit import fail_with
from tests.engine.harness import noted, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")


# ---- first run and replay give back the same -----------------------------------------------------------------------


async def test_what_a_body_does_to_a_value_is_not_recorded(store_path: str) -> None:
    """The value that the function keeps, the one that the body gets and the recorded one are three."""
    kept: list[int] = [1]
    seen: list[list[int]] = []

    @workflow
    async def changes(ctx: Context) -> None:
        values = await ctx.step("list", lambda: kept, returns=list[int])
        seen.append(list(values))
        values.append(2)
        await ctx.wait_signal("go")

    async with serving(store_path, changes) as engine:
        run = await engine.start(changes)
        await wait_passivated(engine)
        kept.append(3)
        await run.signal("go")
        await run.result()
    assert seen == [[1], [1]]
    assert kept == [1, 3]


async def test_completed_steps_are_not_run_again(file_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def several(ctx: Context) -> list[int]:
        values = [await ctx.step("count", lambda: noted(calls, "step", len(calls))) for _ in range(3)]
        values.append(await ctx.transaction("count", lambda _: noted(calls, "transaction", len(calls))))
        values.append(await ctx.wait_signal("go"))
        values.append(await ctx.step("after", lambda: noted(calls, "after", len(calls))))
        return values

    async with serving(file_path, several) as engine:
        await engine.start(several, id="r")
        await wait_passivated(engine)
    for _ in range(2):
        async with serving(file_path, several) as engine:
            await trio.lowlevel.checkpoint()
    async with serving(file_path, several) as engine:
        await engine.send_signal("r", "go", 9)
        assert await engine.get("r", several).result() == [0, 1, 2, 3, 9, 4]
    assert calls == ["step"] * 3 + ["transaction", "after"]


async def test_the_outcome_is_stored_before_the_call_returns(store_path: str) -> None:
    """Also that of a failure and of a transaction: another reader sees the row as soon as the body goes on."""
    rows: list[list[tuple[str, str]]] = []

    async def look() -> None:
        rows.append([(step.key, step.status) for step in await engine.get("r").steps()])

    @workflow
    async def looks(ctx: Context) -> None:
        await ctx.step("a", lambda: 1)
        await look()
        with pytest.raises(ValueError, match="no"):
            await ctx.step("b", fail_with, ValueError("no"))
        await look()
        await ctx.transaction("c", lambda _: 1)
        await look()

    async with serving(store_path, looks) as engine:
        run = await engine.start(looks, id="r")
        await run.result()
    a, b, c = ("a#0", "completed"), ("b#0", "failed"), ("c#0", "completed")
    assert rows == [[a], [a, b], [a, b, c]]


async def test_a_context_call_in_a_cancelled_scope_does_not_begin(store_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def stops(ctx: Context) -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ctx.step("never", lambda: calls.append("never"))
        await ctx.wait_signal("go")
        return scope.cancelled_caught

    async with serving(store_path, stops) as engine:
        run = await engine.start(stops)
        await wait_passivated(engine)
        await run.signal("go")
        assert await run.result() is True
        assert [step.key for step in await run.steps()] == ["go#0"]
    assert calls == []


async def test_a_cancelled_async_function_records_nothing_and_one_that_returns_is_recorded(store_path: str) -> None:
    """Recorded means delivered: what has returned reaches the body, also in a cancelled scope."""
    seen: list[tuple[bool, bool, Any]] = []

    async def stubborn() -> str:
        scopes[-1].cancel()  # now that it has begun
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "returned"  # on purpose: the worst that a function can do

    async def quiet() -> None:
        scopes[-1].cancel()
        await trio.sleep_forever()

    scopes: list[trio.CancelScope] = []

    @workflow
    async def cancels(ctx: Context) -> None:
        value: Any = None
        with trio.CancelScope() as first:
            scopes.append(first)
            await ctx.step("quiet", quiet)
        with trio.CancelScope() as second:
            scopes.append(second)
            value = await ctx.step("stubborn", stubborn)
            await trio.lowlevel.checkpoint()  # the next cancel point raises
        seen.append((first.cancelled_caught, second.cancelled_caught, value))

    async with serving(store_path, cancels) as engine:
        run = await engine.start(cancels)
        await run.result()
        assert [step.key for step in await run.steps()] == ["stubborn#0"]
    assert seen == [(True, True, "returned")]


# ---- timeouts --------------------------------------------------------------------------------------------------------


async def test_wrong_options_are_refused_and_leave_no_row(store_path: str) -> None:
    calls: list[str] = []

    def work() -> None:
        calls.append("work")

    @workflow
    async def wrong(ctx: Context) -> None:
        with pytest.raises(ValueError, match="at_most_once and retry"):
            await ctx.step("a", work, at_most_once=True, retry=Retry.fixed(2, 0))
        with pytest.raises(ValueError, match="NaN"):
            await ctx.step("a", work, timeout=float("nan"))
        with pytest.raises(TypeError):
            await ctx.step("a", work, timeout=cast(Any, "5"))
        with pytest.raises(TypeError, match="did you mean 'timeout'"):
            await ctx.step("a", work, timout=5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="did you mean 'retry'"):
            await ctx.step("a", work, retries=5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="arguments of the function are given by position"):
            await ctx.step("a", work, amount=5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="takes a name, a function, then its arguments"):
            await ctx.step("a", "work")  # type: ignore[call-overload]

    async with serving(store_path, wrong) as engine:
        run = await engine.start(wrong)
        await run.result()
        assert await run.steps() == ()
    assert calls == []


# ---- identity of a step ----------------------------------------------------------------------------------------------


def test_there_is_no_current_step_outside_of_one() -> None:
    with pytest.raises(RuntimeError, match="only inside the function of a step"):
        current_step()


async def test_there_is_no_current_step_in_a_body(store_path: str) -> None:
    @workflow
    async def looks(ctx: Context) -> None:
        with pytest.raises(RuntimeError):
            current_step()
        await ctx.step("a", lambda: None)
        with pytest.raises(RuntimeError):
            current_step()

    async with serving(store_path, looks) as engine:
        await engine.run(looks)


async def test_the_idempotency_key_is_one_per_step_and_run_whatever_the_attempt(store_path: str) -> None:
    keys: list[tuple[str, int, str]] = []

    def flaky(_connection: Any = None) -> str:
        step = current_step()
        keys.append((step.key, step.attempt, step.idempotency_key))
        if step.attempt < 3:
            raise OSError("again")
        return step.idempotency_key

    @workflow
    async def identified(ctx: Context) -> list[str]:
        retry = Retry.fixed(3, 0)
        return [
            await ctx.step("a", flaky, retry=retry),
            await ctx.step("a", flaky, retry=retry),
            await ctx.transaction("b", flaky, retry=retry),
        ]

    async with serving(store_path, identified) as engine:
        first = await engine.run(identified, id="r")
        other = await engine.run(identified, id="s")
        assert keys == [
            (key, attempt, value)
            for values in (first, other)
            for key, value in zip(("a#0", "a#1", "b#0"), values, strict=True)
            for attempt in (1, 2, 3)
        ]
        await engine.delete("r")
        recreated = await engine.run(identified, id="r")
    assert len({*first, *other, *recreated}) == 9  # also another one for a run that was made anew
