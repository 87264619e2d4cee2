"""Of code that does not ask for a recorded answer of ``ctx.patched`` it is told which kind of code that is likely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, Workflow, workflow
from tests.engine.harness import wait_parked
from tests.kit.crash_points import crashing_store, live_once
from tests.kit.traces import note
from tests.rehearsal.kit import causes, left_by, rehearsed

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")

Body = Callable[[Context], Any]


async def no_question(ctx: Context) -> None:
    await ctx.step("charge", note, "charged")
    await ctx.wait_signal("go")


async def asks_first(ctx: Context) -> None:
    if ctx.patched("weigh it"):
        await ctx.step("charge", note, "weighed and charged")
    await ctx.wait_signal("go")


async def asks_later(ctx: Context) -> None:
    await ctx.step("charge", note, "charged")
    if ctx.patched("weigh it"):
        await ctx.step("weigh", note, "weighed")
    await ctx.wait_signal("go")


async def computes(ctx: Context) -> None:
    await ctx.step("charge", note, "charged")
    for name in ("ask it", "pack it"):
        ctx.patched(name)
    await ctx.wait_signal("go")


def flow(body: Body) -> Workflow[..., Any]:
    return workflow(name="flow")(body)


async def stays(_: Engine) -> None:
    await trio.sleep(10)


async def refused(engine: Engine) -> str:
    """Have the run tried, and return why it is parked."""
    await engine.send_signal("run", "go")
    await wait_parked(engine.get("run"))
    problem = (await engine.get("run").record()).problem
    assert problem is not None
    return problem.text


WHERE = "recorded is the new way of 'weigh it', the code waits in step charge; "
OLDER = "likely this code is older than the question"
RETIRED = "likely the question has left the code"


@pytest.mark.parametrize(
    ("before", "code", "why", "told"),
    [
        (None, no_question, RETIRED, "newer than what the run has recorded"),
        (no_question, no_question, OLDER, "it was here before the run has recorded that"),
        (asks_later, no_question, RETIRED, "newer than what the run has recorded"),
        (None, asks_later, "likely the question has moved", "Ask where the run has asked"),
        (no_question, asks_later, "likely the question has moved", "Ask where the run has asked"),
        (None, computes, "this code is older, or the question has left it", "cannot be told"),
    ],
)
async def test_it_is_told_by_what_code_asks_for_and_by_when_it_was_first_seen(
    autojump_clock: MockClock, before: Body | None, code: Body, why: str, told: str
) -> None:
    """Rehearsed, and served: the problem that the run is refused with has the same words."""
    async with crashing_store() as store:
        if before is not None:
            await live_once(store, [flow(before)], stays)
        await left_by(store, flow(asks_first))
        found = await rehearsed(store, flow(code))
        if before is None:
            await trio.sleep(10)
        problem = await live_once(store, [flow(code)], refused)
        retired = await rehearsed(store, workflow(name="flow", retired=("weigh it",))(code))
    assert causes(found) == [("diverges", 1, WHERE + why)]
    assert told in found.diverges[0].example
    assert "\n> patch weigh it#0 | > step charge#0" in found.diverges[0].example  # with one blank
    assert told in problem
    assert "@workflow(retired=('weigh it',))" in problem
    assert retired.all_go_on


async def test_the_same_question_in_another_branch_is_asked_elsewhere(autojump_clock: MockClock) -> None:
    """Also where its id is made as it runs."""

    def code(change_ids: tuple[str, ...]) -> Workflow[..., Any]:
        async def branch(ctx: Context) -> None:
            for change_id in change_ids:
                ctx.patched(change_id)
            await ctx.step("charge", note, "charged")

        @workflow(name="flow")
        async def made(ctx: Context) -> None:
            for change_id in ("weigh it",):
                ctx.patched(change_id)
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(branch)
            await ctx.wait_signal("go")

        return made

    async with crashing_store() as store:
        await left_by(store, code(("weigh it",)))
        ((verdict, _, cause),) = causes(await rehearsed(store, code(())))
    assert (verdict, cause.rpartition("; ")[2]) == ("diverges", "likely the question has moved")
