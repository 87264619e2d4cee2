"""``fork`` of a run that has undone something: what is copied passes for done."""

from __future__ import annotations

from typing import Any

import pytest

from durable_trio import Context, RunFailed, open_engine, workflow
from durable_trio.cli.commands.fork import first_undone
from tests.cli.desk import call, on_terminal


async def keep(number: int) -> int:
    return number


async def undo(_result: Any) -> None:
    pass


def test_fork_asks_where_what_was_undone_would_pass_for_done(db: str) -> None:
    """A payment that was given back is none that was made: the new run would ship for nothing."""
    for before in ("ship#0", "approval#0", "reserve#0"):
        said = call("--db", db, "fork", "order-8", "--before", before, "--id", "order-8b")
        passes = f"'pay#0' was undone in run 'order-8', and passes for done in a fork before '{before}'"
        assert (said.code, said.out) == (2, "")
        assert f"{passes}; fork before 'pay#0', or confirm by --yes" in said.error
    assert call("--db", db, "fork", "order-8", "--before", "pay#0", "--id", "order-8b").code == 0


def test_on_a_terminal_it_is_a_question(db: str) -> None:
    words = ["--db", db, "fork", "order-8", "--before", "ship#0", "--id", "order-8b"]
    code, out, shown = on_terminal(*words, answer="n")
    assert (code, out) == (1, "")
    assert "passes for done in a fork before 'ship#0'; fork it all the same? [y/N]" in " ".join(shown.split())
    assert "nothing was changed" in shown
    assert on_terminal(*words, answer="y")[:2] == (0, "order-8b\n")


async def test_what_was_undone_first_is_a_step_anywhere_and_of_a_child_its_start() -> None:
    """A fork between start and end of a child would take the end of the child that was undone."""

    @workflow
    async def kid(ctx: Context, number: int) -> int:
        return number

    @workflow
    async def trip(ctx: Context, first: str) -> None:
        async def leg(branch: Context) -> None:
            await branch.step("in", keep, 1, compensate=undo)

        await ctx.step("before", keep, 0)
        if first == "child":
            await (await ctx.start_child(kid, 0)).result()
            await ctx.run_child(kid, 1, compensate=undo)
        elif first == "map":
            await ctx.map("many", keep, [1], compensate=undo)
        else:
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(leg)
        await ctx.step("after", keep, 1)
        raise ValueError("in the end")

    firsts = {"child": "kid#1", "map": "many#0/item#0", "branch": "nursery#0/leg#0/in#0"}
    async with open_engine(":memory:", workflows=[trip, kid]) as engine:
        for kind, first in firsts.items():
            run = await engine.start(trip, kind)
            with pytest.raises(RunFailed):
                await run.result()
            steps = await run.steps()
            place = [step.key for step in steps].index(first)
            found = [first_undone(steps, step.key) for step in steps]
            assert found == [None] * (place + 1) + [first] * (len(steps) - place - 1)
        assert first_undone(steps, "unknown#0") is None
