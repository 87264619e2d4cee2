"""Bodies have context variables of their own, the same at every replay; what runs for them sees what they have set."""

from __future__ import annotations

import contextvars
import decimal
from contextvars import ContextVar

import pytest
import sniffio
import trio

from durable_trio import Context, Retry, RunFailed, workflow
from tests.engine.harness import PATIENCE_SECONDS, noted, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")

WHO: ContextVar[str] = ContextVar("who", default="nobody")


def who() -> str:
    return WHO.get()


async def async_who() -> str:
    await trio.lowlevel.checkpoint()
    return WHO.get()


def who_of(_: object) -> str:
    return WHO.get()


async def _branch(ctx: Context, seen: list[str]) -> None:
    seen.append(who())
    WHO.set("a branch")
    seen.append(await ctx.step("who", who))


@workflow
async def look(ctx: Context) -> list[str]:
    seen = [who(), await ctx.step("before", who)]
    WHO.set("body")
    seen += [
        await ctx.step("async", async_who),
        await ctx.step("sync", who),
        await ctx.transaction("transaction", who_of),
        *await ctx.map("map", who_of, [1, 2]),
    ]
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(_branch, seen)
    seen.append(await ctx.run_child(look_at_yourself))
    return [*seen, who()]


@workflow
async def look_at_yourself(ctx: Context) -> str:
    return who()


EXPECTED = ["nobody", "nobody", "body", "body", "body", "body", "body", "body", "a branch", "nobody", "body"]


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, file_path: str) -> str:
    return ":memory:" if request.param == "memory" else file_path


async def test_a_body_sees_nobodys_variables_and_all_that_runs_for_it_sees_its_own(store: str) -> None:
    WHO.set("opener")
    async with serving(store, look, look_at_yourself) as engine:
        WHO.set("starter")
        assert await engine.run(look) == EXPECTED
        assert who() == "starter"  # nothing comes back


@workflow
async def tell_the_variables(ctx: Context) -> list[str]:
    before = sorted(variable.name for variable in contextvars.copy_context())
    WHO.set("body")
    await ctx.wait_signal("go")
    return [*before, await ctx.step("late", who)]


async def test_a_body_sees_the_same_when_another_process_goes_on_with_it(file_path: str) -> None:
    names = []
    for starts in (True, False):
        WHO.set(f"opener, {starts}")
        async with serving(file_path, tell_the_variables) as engine:
            if starts:
                WHO.set("starter")
                await engine.start(tell_the_variables, id="over a restart")
                run = await engine.start(tell_the_variables)
                await run.signal("go")
                names.append(await run.result())
                await wait_passivated(engine)
            else:
                WHO.set("sender")
                await engine.send_signal("over a restart", "go")
                with trio.fail_after(PATIENCE_SECONDS):
                    names.append(await engine.get("over a restart", tell_the_variables).result())
    assert names[0] == names[1]
    assert names[0][-1] == "body"
    assert "who" not in names[0]


async def test_an_attempt_does_not_see_what_the_one_before_has_set() -> None:
    seen: list[str] = []

    async def set_and_fail() -> None:
        seen.append(who())
        WHO.set("attempt")
        raise OSError

    @workflow
    async def stubborn(ctx: Context) -> None:
        WHO.set("body")
        await ctx.step("fail", set_and_fail, retry=Retry.fixed(3, 0))

    async with serving(":memory:", stubborn) as engine:
        with pytest.raises(RunFailed):
            await engine.run(stubborn)
    assert seen == ["body"] * 3


async def test_a_compensation_sees_what_the_body_had_set_at_last(store: str) -> None:
    seen: list[object] = []

    @workflow
    async def undone(ctx: Context) -> None:
        WHO.set("body")
        await ctx.step("do", who, compensate=lambda result: noted(seen, (result, who()), None))
        WHO.set("body, later")
        raise ValueError

    async with serving(store, undone) as engine:
        with pytest.raises(RunFailed):
            await engine.run(undone)
    assert seen == [("body", "body, later")]


async def test_a_run_that_is_started_by_a_body_or_a_step_of_another_is_its_own(store: str) -> None:
    @workflow
    async def starter(ctx: Context) -> list[str]:
        WHO.set("starter")
        direct = await engine.run(look_at_yourself)  # not durable, but allowed
        return [direct, await ctx.step("run", engine.run, look_at_yourself)]

    async with serving(store, starter, look_at_yourself) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(starter) == ["nobody", "nobody"]


async def test_an_inline_block_keeps_the_variables_of_its_caller(store: str) -> None:
    WHO.set("script")
    async with serving(store) as engine, engine.inline("i") as ctx:
        assert who() == "script"
        assert await ctx.step("who", who) == "script"


async def test_arithmetic_of_a_body_does_not_depend_on_who_has_started_it(store: str) -> None:
    """``decimal`` keeps its precision in a context variable."""

    @workflow
    async def divide(ctx: Context) -> str:
        return str(decimal.Decimal(1) / 3)

    async with serving(store, divide) as engine:
        with decimal.localcontext() as local:
            local.prec = 3
            assert len(await engine.run(divide)) > 20


async def test_trio_and_sniffio_are_at_home_in_a_body(store: str) -> None:
    async def library() -> str:
        await trio.lowlevel.checkpoint()
        return sniffio.current_async_library()

    @workflow
    async def at_home(ctx: Context) -> str:
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0)
        return await ctx.step("library", library) + sniffio.current_async_library()

    async with serving(store, at_home) as engine:
        assert await engine.run(at_home) == "triotrio"
