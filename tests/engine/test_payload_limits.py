"""``payload_bytes_max`` is for users' payloads, when they are new: not for what is stored, nor for the engine's own."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

from durable_trio import Context, PayloadTooLarge, RunFailed, RunStatus, workflow
from durable_trio.errors import RunCancelled, RunExpired, StepFailed
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus
LARGE = "z" * 5000


@workflow
async def kid(ctx: Context, text: str) -> int:
    return len(text)


@workflow
async def large(ctx: Context, place: str) -> str:
    """Pass a large payload at that place, and go on after a wait."""
    if place == "publish":
        await ctx.publish("progress", LARGE)
    if place == "child":
        await ctx.run_child(kid, LARGE)
    if place == "started child":
        await (await ctx.start_child(kid, LARGE)).result()
    if place == "step":
        await ctx.step("give", lambda: LARGE)
    if place == "failed step":
        with pytest.raises(ValueError, match="z"):
            await ctx.step("fail", fail, LARGE)
    if place == "branch":
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(Context.publish, "progress", LARGE)
            nursery.start_soon(Context.run_child, kid, LARGE)
    if place == "published again":
        for text in (LARGE, "x", LARGE):
            await ctx.publish("progress", text)
            await ctx.step("go", trio.lowlevel.checkpoint)
    return await ctx.wait_signal("go", str)


async def fail(text: str) -> None:
    raise ValueError(text)


PLACES = ("publish", "child", "started child", "step", "failed step", "branch", "published again")


async def test_what_was_accepted_under_a_larger_limit_replays_under_a_smaller_one(file_path: str) -> None:
    async with serving(file_path, large, kid) as engine:
        for place in PLACES:
            await engine.start(large, place, id=place)
        await engine.start(large, LARGE, id="argument")
        await engine.start(large, "", id="signal")
        async with engine.inline("inline", input=LARGE):
            pass
        await wait_passivated(engine)
        await engine.send_signal("signal", "other", LARGE)
    async with serving(file_path, large, kid, payload_bytes_max=4000) as engine:
        for run_id in (*PLACES, "argument", "signal"):
            run = engine.get(run_id, large)
            await run.signal("go", "fine")
            with trio.fail_after(PATIENCE_SECONDS):
                assert await run.result() == "fine"
        assert len(await engine.get("publish").value("progress")) == len(LARGE)


async def test_an_inline_run_goes_on_with_the_input_of_then(file_path: str) -> None:
    async with serving(file_path) as engine:
        with contextlib.suppress(ZeroDivisionError):
            async with engine.inline("script", input=LARGE) as ctx:
                await ctx.step("begin", trio.lowlevel.checkpoint)
                raise ZeroDivisionError
    async with serving(file_path, payload_bytes_max=4000) as engine:
        async with engine.inline("script", input=LARGE) as ctx:
            await ctx.step("begin", trio.lowlevel.checkpoint)
        with pytest.raises(PayloadTooLarge):
            async with engine.inline("another", input=LARGE):
                raise AssertionError("not reached")


@workflow
async def stubborn(ctx: Context) -> list[str]:
    """Catch that a payload is too large, and go another way."""
    seen = []
    for number, text in enumerate(("small", LARGE, "small")):
        try:
            await ctx.publish("progress", text)
            seen.append("published")
        except PayloadTooLarge:
            await ctx.step(f"instead {number}", trio.lowlevel.checkpoint)
            seen.append("refused")
    try:
        await ctx.run_child(kid, LARGE)
    except PayloadTooLarge:
        seen.append("no child")
    await ctx.wait_signal("go")
    return seen


@pytest.mark.parametrize("then", [4000, 1_000_000])
async def test_what_was_refused_is_refused_again_under_any_limit(file_path: str, then: int) -> None:
    async with serving(file_path, stubborn, kid, payload_bytes_max=4000) as engine:
        await engine.start(stubborn, id="r")
        await wait_passivated(engine)
    async with serving(file_path, stubborn, kid, payload_bytes_max=then) as engine:
        run = engine.get("r", stubborn)
        await run.signal("go")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == ["published", "refused", "published", "no child"]


async def test_a_new_payload_over_the_limit_is_refused_also_in_a_run_with_larger_ones(file_path: str) -> None:
    @workflow
    async def growing(ctx: Context) -> str:
        await ctx.publish("progress", LARGE)
        await ctx.wait_signal("go")
        await ctx.publish("progress", LARGE + "!")
        return "published"

    async with serving(file_path, growing) as engine:
        await engine.start(growing, id="r")
        await wait_passivated(engine)
    async with serving(file_path, growing, payload_bytes_max=4000) as engine:
        await engine.get("r").signal("go")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed) as caught:
            await engine.get("r").result()
        assert isinstance(caught.value.error, PayloadTooLarge)


@workflow
async def failing(ctx: Context, how: str) -> None:
    if how == "divergence":
        await ctx.step("a" if not DIVERGED else "b", trio.lowlevel.checkpoint)
        await ctx.wait_signal("go")
    if how == "cancel":
        await ctx.sleep(3600)
    if how == "step":
        await ctx.step("deep", deep)
    raise RuntimeError("short")


DIVERGED: list[int] = []


async def deep() -> None:
    def down(levels: int) -> None:
        if not levels:
            raise ValueError("at the bottom")
        down(levels - 1) if levels % 2 else (lambda: down(levels - 1))()

    down(100)


@pytest.mark.parametrize("limit", [64, 1000, 3000])
async def test_what_the_engine_writes_of_its_own_is_not_bound_by_a_small_limit(file_path: str, limit: int) -> None:
    DIVERGED.clear()
    async with serving(file_path, failing, payload_bytes_max=limit) as engine:
        runs = {how: await engine.start(failing, how, id=how) for how in ("divergence", "step", "body", "cancel")}
        expired = await engine.start(failing, "cancel", id="expired", ttl=0)
        await wait_status(runs["cancel"], S.SUSPENDED)
        await runs["cancel"].cancel(wait=True)
        for how, kind in (("step", ValueError), ("body", RuntimeError)):
            with pytest.raises(RunFailed) as failed:
                await runs[how].result()
            assert type(failed.value.error) is kind
        with pytest.raises(RunCancelled):
            await runs["cancel"].result()
        with pytest.raises(RunExpired):
            await expired.result()
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            while not await engine.processes():  # noqa: ASYNC110  # it says so a little after its tree has changed
                await trio.sleep(0.01)
    DIVERGED.append(1)
    async with serving(file_path, failing, payload_bytes_max=limit) as engine:
        await engine.get("divergence").signal("go")
        record = await wait_parked(engine.get("divergence"))
        assert record.problem is not None
        assert record.problem.kind == "divergence"


async def test_the_users_part_of_a_failure_is_bound_and_still_says_what_has_happened(file_path: str) -> None:
    @workflow
    async def verbose(ctx: Context) -> Any:
        return await ctx.step("fail", fail, "z" * 100_000)

    async with serving(file_path, verbose, payload_bytes_max=1000) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(verbose)
        error = caught.value.error
        assert isinstance(error, StepFailed)
        assert error.type == "builtins.ValueError"
        assert error.message.startswith("zzz")
        assert error.message.endswith("(cut)")
