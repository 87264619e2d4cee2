"""What a rehearsal says of one run, by what is wrong with the code."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, Rehearsal, Workflow, workflow
from tests.engine.harness import wait_passivated
from tests.kit.crash_points import crashing_store
from tests.kit.traces import note
from tests.rehearsal.kit import causes, left_by, rehearsed, starts

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


def named(body: Any) -> Workflow[..., Any]:
    return workflow(name="flow")(body)


async def _first(ctx: Context) -> str:
    await ctx.step("charge", note, "charged")
    await ctx.step("pack", note, "packed")
    return str(await ctx.wait_signal("go"))


first = named(_first)


async def found(code: Workflow[..., Any] | list[Workflow[..., Any]], before: Workflow[..., Any] = first) -> Rehearsal:
    async with crashing_store() as store:
        await left_by(store, before)
        return await rehearsed(store, code)


async def test_the_same_code_goes_on(autojump_clock: MockClock) -> None:
    result = await found(first)
    assert causes(result) == [("goes_on", 1, "comes to signal go")]
    assert result.all_go_on
    assert result.count == 1
    assert result.goes_on[0].run_ids == ("run",)


async def test_another_call_diverges_and_the_cause_says_where(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        await ctx.step("charge", note, "charged")
        await ctx.step("weigh", note, "weighed")
        return str(await ctx.wait_signal("go"))

    result = await found(second)
    cause = "recorded is step pack, the code waits in step weigh, after step charge"
    assert causes(result) == [("diverges", 1, cause)]
    assert "> step pack#0   | > step weigh#0" in result.diverges[0].example
    assert not result.all_go_on


async def test_a_body_that_ends_too_early_diverges(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        return await ctx.step("charge", note, "charged")

    cause = "recorded is step pack, the code has ended, after step charge"
    assert causes(await found(second)) == [("diverges", 1, cause)]


async def test_a_body_that_raises_before_its_last_row_diverges_by_what_it_raises(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        await ctx.step("charge", note, "charged")
        return unknown_name  # type: ignore[name-defined,no-any-return]  # noqa: F821

    ((verdict, _, cause),) = causes(await found(second))
    assert verdict == "diverges"
    assert cause.startswith("the body raises NameError at ")
    assert cause.endswith(" in second")


async def test_a_body_that_raises_what_nothing_recorded_has_raised_would_fail(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        await ctx.step("charge", note, "charged")
        await ctx.step("pack", note, "packed")
        raise KeyError("address")

    result = await found(second)
    ((verdict, _, cause),) = causes(result)
    assert verdict == "raises"
    assert cause.startswith("KeyError at ")
    assert "KeyError: 'address'" in result.raises[0].example


async def test_a_bug_in_the_handler_of_a_recorded_failure_is_found(autojump_clock: MockClock) -> None:
    async def fails() -> None:
        raise ValueError("no funds")

    async def body(ctx: Context) -> str:
        try:
            await ctx.step("pay", fails)
        except ValueError:
            return str(await ctx.wait_signal("go"))
        return ""

    async def buggy(ctx: Context) -> str:
        try:
            await ctx.step("pay", fails)
        except ValueError as error:
            return error.amount  # type: ignore[attr-defined,no-any-return]
        return ""

    async def lets_it_out(ctx: Context) -> str:
        await ctx.step("pay", fails)
        return ""

    ((verdict, _, cause),) = causes(await found(named(buggy), named(body)))
    assert (verdict, cause.partition(" at ")[0]) == ("raises", "AttributeError")
    assert causes(await found(named(lets_it_out), named(body))) == [("goes_on", 1, "ends failed")]


async def test_what_ends_the_program_raises_and_ends_nothing(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        sys.exit(3)

    result = await found(second)
    ((verdict, _, cause),) = causes(result)
    assert verdict == "raises"
    assert "SystemExit" in cause


async def test_arguments_that_do_not_fit(autojump_clock: MockClock) -> None:
    async def body(ctx: Context, count: int = 1) -> str:
        return await _first(ctx)

    async def other(ctx: Context, count: str) -> str:
        return await _first(ctx)

    ((verdict, _, cause),) = causes(await found(named(other), named(body)))
    assert verdict == "does_not_fit"
    assert cause.startswith("arguments: the arguments of run …")


async def test_a_recorded_value_that_does_not_fit(autojump_clock: MockClock) -> None:
    async def counted(text: str) -> int:
        return 1

    @named
    async def second(ctx: Context) -> str:
        await ctx.step("charge", counted, "")
        await ctx.step("pack", note, "packed")
        return str(await ctx.wait_signal("go"))

    ((verdict, _, cause),) = causes(await found(second))
    assert verdict == "does_not_fit"
    assert cause.startswith("codec: step 'charge' of run …")


class Rebuffed(Exception):
    """An exception of the code before, which this module has."""


async def test_an_exception_that_cannot_be_rebuilt_does_not_fit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise Rebuffed("no funds")

    @named
    async def body(ctx: Context) -> str:
        try:
            await ctx.step("pay", fails)
        except Rebuffed:
            return str(await ctx.wait_signal("go"))
        return ""

    async with crashing_store() as store:
        await left_by(store, body)
        monkeypatch.delattr(sys.modules[__name__], "Rebuffed")
        ((verdict, _, cause),) = causes(await rehearsed(store, body))
    assert (verdict, cause.partition(":")[0]) == ("does_not_fit", "exception")


async def test_a_workflow_that_is_not_there_is_unknown(autojump_clock: MockClock) -> None:
    result = await found([])
    assert causes(result) == [("unknown", 1, "no such workflow")]
    assert not result.all_go_on


async def test_versions_that_are_not_there_are_unknown_each_by_itself(autojump_clock: MockClock) -> None:
    older = [workflow(name="flow", version=version)(_first) for version in (1, 2)]

    async def both(engine: Engine) -> None:
        for code in older:
            await engine.start(code, id=f"run-{code.version}")
        await wait_passivated(engine)

    async with crashing_store() as store:
        await left_by(store, older, both)
        result = await rehearsed(store, workflow(name="flow", version=3)(_first))
    assert sorted(causes(result)) == [("unknown", 1, "no version 1"), ("unknown", 1, "no version 2")]
    assert sorted(group.version or 0 for group in result.unknown) == [1, 2]


async def test_runs_of_two_versions_are_two_groups_though_the_cause_is_the_same(autojump_clock: MockClock) -> None:
    """Of which version the code is to be mended is what its author wants to know."""

    async def other(ctx: Context) -> str:
        await ctx.step("pay", note, "paid")
        return await _first(ctx)

    def both_of(body: Any) -> list[Workflow[..., Any]]:
        return [workflow(name="flow", version=version)(body) for version in (0, 3)]

    async def both(engine: Engine) -> None:
        for number, code in enumerate((*both_of(_first), both_of(_first)[1])):
            await engine.start(code, id=f"run-{number}")
        await wait_passivated(engine)

    async with crashing_store() as store:
        await left_by(store, both_of(_first), both)
        result = await rehearsed(store, both_of(other))
    assert [(group.version, group.count, group.run_ids) for group in result.diverges] == [
        (3, 2, ("run-1", "run-2")),
        (0, 1, ("run-0",)),
    ]
    assert len({group.cause for group in result.diverges}) == 1


async def test_a_body_that_only_waits_outside_diverges(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        while True:  # noqa: ASYNC110  # as a user's code does
            await trio.sleep(0.001)

    # As where it is served, once it has waited long enough for what may be recorded of a call that is to come.
    cause = "recorded is step charge, the code waits in no durable call"
    assert causes(await found(second)) == [("diverges", 1, cause)]


async def test_a_body_that_waits_outside_for_a_while_goes_on(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        await trio.sleep(0.5)
        return await _first(ctx)

    assert causes(await found(second)) == [("goes_on", 1, "comes to signal go")]


async def test_it_says_which_way_each_change_takes(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        await ctx.step("charge", note, "charged")
        if ctx.patched("weigh"):
            await ctx.step("weigh", note, "weighed")
        await ctx.step("pack", note, "packed")
        if ctx.patched("ask"):
            await ctx.step("ask", note, "asked")
        return str(await ctx.wait_signal("go"))

    # The run waits in the signal: what is stored of that wait lies beyond the second question.
    cause = "comes to signal go; 'ask': old way; 'weigh': old way"
    assert causes(await found(second)) == [("goes_on", 1, cause)]


async def test_runs_of_one_cause_are_one_group_whatever_their_numbers(autojump_clock: MockClock) -> None:
    async def body(ctx: Context, turns: int) -> str:
        for _ in range(turns):
            await ctx.step("turn", note, "turned")
        return str(await ctx.wait_signal("go"))

    async def renamed(ctx: Context, turns: int) -> str:
        for _ in range(turns - 1):
            await ctx.step("turn", note, "turned")
        await ctx.step("last", note, "turned")
        return str(await ctx.wait_signal("go"))

    async def many(engine: Engine) -> None:
        for turns in range(2, 7):
            await engine.start("flow", turns, id=f"run-{turns}")
        await wait_passivated(engine)

    async with crashing_store() as store:
        await left_by(store, named(body), many)
        result = await rehearsed(store, named(renamed))
    cause = "recorded is step turn, the code waits in step last, after step turn"
    assert causes(result) == [("diverges", 5, cause)]
    assert len(result.diverges[0].run_ids) == 3


async def test_one_workflow_alone_and_a_sample(autojump_clock: MockClock) -> None:
    other = workflow(name="other")(_first)

    async def many(engine: Engine) -> None:
        for number in range(10):
            await engine.start("other", id=f"other-{number}")
        await starts(engine)

    async with crashing_store() as store:
        await left_by(store, [first, other], many)
        async with Engine(store, workflows=[first, other]) as engine:
            assert (await engine.rehearse()).count == 11
            assert (await engine.rehearse(workflow="other")).count == 10
            sample = await engine.rehearse(sample=4)
            assert {group.workflow: group.count for group in sample.goes_on} == {"flow": 1, "other": 3}
            with pytest.raises(ValueError, match="at least 1"):
                await engine.rehearse(sample=0)


async def test_what_bodies_log_is_not_told(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Neither at replay, nor before the first call of a run that has none recorded, nor when it leaves."""

    @named
    async def talks(ctx: Context) -> str:
        ctx.log.warning("hello")
        try:
            return await _first(ctx)
        finally:
            ctx.log.warning("bye")

    async def pending(engine: Engine) -> None:
        await engine.start("flow", id="pending", delay=3600)
        await starts(engine)

    async with crashing_store() as store:
        await left_by(store, first, pending)
        caplog.clear()
        assert (await rehearsed(store, talks)).all_go_on
    assert not caplog.records


async def test_what_new_code_publishes_is_not_written(autojump_clock: MockClock) -> None:
    @named
    async def second(ctx: Context) -> str:
        await ctx.publish("early", 1)
        await ctx.step("charge", note, "charged")
        await ctx.step("pack", note, "packed")
        await ctx.publish("late", 2)  # behind all that is recorded: where it is served, this is written
        return str(await ctx.wait_signal("go"))

    assert causes(await found(second)) == [("goes_on", 1, "comes to signal go")]
