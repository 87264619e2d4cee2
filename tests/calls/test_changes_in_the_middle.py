"""Code that was served without ``patched`` at first: each kind of call, in each place, caught at each commit."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunConflict, RunFailed, RunFinished, StepKind, Workflow, workflow
from tests.engine.harness import wait_parked
from tests.kit.crash_points import EVERY_CRASH, Crashed, crash_points, crashing_store, live_once, live_through
from tests.kit.traces import effects, note, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")

_CHANGE: Final = "change"
# Of each code, how many of its commits are tried without ``DURABLE_TRIO_EVERY_CRASH``.
_POINTS: Final = 2
# Signals to a run: more than it has rounds.
_SIGNALS: Final = 4


@workflow(name="small")
async def small(ctx: Context) -> str:
    return await ctx.step("of the child", note, "child")


def _write(_: Any) -> None:
    effects.append("transaction")


async def _two_branches(ctx: Context) -> None:
    async def one(branch: Context, number: int) -> None:
        await branch.step("part", note, f"part {number}")

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(one, 1)
        nursery.start_soon(one, 2)


async def _expire(ctx: Context) -> None:
    with ctx.move_on_after(30):
        await ctx.sleep(3600, name="cut short")


#: The new call, as ``recorded`` names it, and how it is made.
CALLS: Final[dict[tuple[str, str], Callable[[Context], Awaitable[object]]]] = {
    ("step", "new"): lambda ctx: ctx.step("new", note, "new"),
    ("transaction", "new"): lambda ctx: ctx.transaction("new", _write),
    ("sleep", "new"): lambda ctx: ctx.sleep(30, name="new"),
    ("signal", "new"): lambda ctx: ctx.wait_signal("new"),
    ("child", "small"): lambda ctx: ctx.run_child(small),
    ("map", "new"): lambda ctx: ctx.map("new", note, ["a", "b", "c"]),
    ("nursery", "nursery"): _two_branches,
    ("deadline", "deadline"): _expire,
}

Round = Callable[[Context], Awaitable[None]]


async def _once(ctx: Context, one_round: Round) -> None:
    await one_round(ctx)


async def _loop(ctx: Context, one_round: Round, rounds: int = 2) -> None:
    for _ in range(rounds):
        await one_round(ctx)


async def _branches(ctx: Context, one_round: Round) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(one_round, name="left")
        nursery.start_soon(one_round, name="right")


Place = Callable[[Context, Round], Awaitable[None]]
PLACES: Final[dict[str, Place]] = {
    "once": _once,
    "loop": _loop,
    "branches": _branches,
}


def _code(place: Place, new: tuple[str, str], is_new_way: Callable[[Context], bool]) -> Workflow[..., Any]:
    async def one_round(ctx: Context) -> None:
        await ctx.step("before", note, "before")
        if is_new_way(ctx):
            await CALLS[new](ctx)
        await ctx.sleep(60)
        await ctx.step("after", note, "after")

    @workflow(name="flow")
    async def flow(ctx: Context) -> None:
        await place(ctx, one_round)

    return flow


async def _to_the_end(engine: Engine) -> list[str]:
    run = await engine.start("flow", id="run")
    with contextlib.suppress(RunFinished):
        for number in range(_SIGNALS):
            await engine.send_signal("run", "new", id=str(number))
    await run.result()
    return [step.key for step in await run.steps() if step.kind is not StepKind.PATCH]


async def _commit_count(code: Workflow[..., Any]) -> int:
    async with crashing_store() as store:
        await live_once(store, [code, small], _to_the_end)
        return store.commit_count


def _points(commit_count: int, seed: str) -> list[tuple[int, bool]]:
    points = crash_points(commit_count, seed)
    return points if EVERY_CRASH else random.Random(seed).sample(points, _POINTS)


@pytest.mark.parametrize(("kind", "shown"), [("sleep", "timer"), ("transaction", "commit")])
async def test_calls_may_be_named_as_show_does(kind: str, shown: str, autojump_clock: MockClock) -> None:
    bad, mended = (
        _code(_once, (kind, "new"), way)
        for way in (lambda _: True, lambda ctx: ctx.patched("c", recorded=(shown, "new")))
    )
    async with crashing_store() as store:
        await live_once(store, [bad], lambda engine: _leave_at(engine, 45))
        await live_once(store, [mended], _result)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("new", CALLS, ids=lambda new: new[0])
async def test_runs_of_old_and_of_bad_code_go_on_with_mended_code(
    new: tuple[str, str], place: str, autojump_clock: MockClock
) -> None:
    """Caught at any commit, and again at any of the mended code's; no step is done twice that was recorded."""
    codes = {
        "old": _code(PLACES[place], new, lambda _: False),
        "bad": _code(PLACES[place], new, lambda _: True),
        "mended": _code(PLACES[place], new, lambda ctx: ctx.patched(_CHANGE, recorded=new)),
    }
    for begins in codes:
        commit_count = await _commit_count(codes[begins])
        for commit, loses_it in _points(commit_count, f"{new} {place} {begins}"):
            async with crashing_store() as store:
                # The mended code dies once, too: what it has answered by then, it answers again.
                for code, dies_at in ((begins, commit), ("mended", 1 + commit % 7), ("mended", None)):
                    store.crash_after(dies_at, loses_it=loses_it)
                    try:
                        keys = await live_once(store, [codes[code], small], _to_the_end)
                    except Crashed:
                        continue
                    break
                else:
                    raise AssertionError("the last engine has died")
                assert len(keys) == len(set(keys))


async def _leave_at(engine: Engine, seconds: float) -> None:
    await engine.start("flow", id="run")
    await trio.sleep(seconds)


async def _result(engine: Engine) -> Any:
    return await engine.get("run").result()


def _cut_short(rounds: int, new: tuple[str, str], is_new_way: Callable[[Context], bool]) -> Workflow[..., Any]:
    """Return code whose calls may leave no row: the deadline around them cuts them short."""

    @workflow(name="flow")
    async def flow(ctx: Context) -> list[bool]:
        answers = []
        for _ in range(rounds):
            with ctx.move_on_after(60):
                answers.append(is_new_way(ctx))
                if answers[-1]:
                    await CALLS[new](ctx)
                await ctx.sleep(3600, name="cut short")
        await ctx.sleep(3600)  # leaves memory, and comes back
        return answers

    return flow


@pytest.mark.parametrize("new", CALLS, ids=lambda new: new[0])
async def test_what_comes_behind_other_rows_is_no_evidence_for_what_is_before_them(
    new: tuple[str, str], autojump_clock: MockClock
) -> None:
    """In a loop the first two questions have been answered with no; what is open or recorded is the third round's."""
    ways: list[Callable[[Context], bool]] = [lambda _: False, lambda ctx: ctx.patched("c", recorded=new)]
    old, mended = (_code(partial(_loop, rounds=3), new, way) for way in ways)
    async with crashing_store() as store:
        await live_once(store, [old, small], lambda engine: _leave_at(engine, 90))
        await live_once(store, [mended, small], lambda engine: _leave_at(engine, 45))
        for _ in range(_SIGNALS):
            await live_once(store, [mended, small], lambda engine: engine.send_signal("run", "new"))
        await live_once(store, [mended, small], _result)


async def test_a_nursery_is_known_by_what_its_branches_wait_for(autojump_clock: MockClock) -> None:
    def code(is_new_way: Callable[[Context], bool]) -> Workflow[..., Any]:
        async def one(branch: Context) -> None:
            await branch.sleep(3600)

        @workflow(name="flow")
        async def flow(ctx: Context) -> bool:
            if is_new := is_new_way(ctx):
                async with ctx.open_nursery() as nursery:
                    nursery.start_soon(one)
            return is_new

        return flow

    async with crashing_store() as store:
        await live_once(store, [code(lambda _: True)], lambda engine: _leave_at(engine, 30))
        mended = code(lambda ctx: ctx.patched("c", recorded=("nursery", "nursery")))
        assert await live_once(store, [mended], _result) is True


async def test_a_call_of_another_kind_with_the_same_name_is_no_evidence(autojump_clock: MockClock) -> None:
    def code(is_new_way: Callable[[Context], bool]) -> Workflow[..., Any]:
        @workflow(name="flow")
        async def flow(ctx: Context) -> bool:
            is_new = is_new_way(ctx)
            await ctx.sleep(10, name="new")
            await ctx.sleep(3600)
            return is_new

        return flow

    async with crashing_store() as store:
        await live_once(store, [code(lambda _: False)], lambda engine: _leave_at(engine, 30))
        mended = code(lambda ctx: ctx.patched("c", recorded=("step", "new")))
        assert await live_once(store, [mended], _result) is False


async def test_the_expiry_of_a_scope_around_a_question_does_not_hide_what_comes_next(
    autojump_clock: MockClock,
) -> None:
    def code(is_new_way: Callable[[Context], bool]) -> Workflow[..., Any]:
        @workflow(name="flow")
        async def flow(ctx: Context) -> bool:
            with ctx.move_on_after(10):
                is_new = is_new_way(ctx)
                await ctx.sleep(3600, name="cut short")
            if is_new:
                await ctx.step("new", note, "new")
            await ctx.sleep(3600)
            return is_new

        return flow

    async with crashing_store() as store:
        await live_once(store, [code(lambda _: True)], lambda engine: _leave_at(engine, 30))
        mended = code(lambda ctx: ctx.patched("c", recorded=("step", "new")))
        assert await live_once(store, [mended], _result) is True


async def test_a_no_stands_although_later_the_new_call_is_what_comes_next(autojump_clock: MockClock) -> None:
    """What it was said for was cut short and has left no row: so it is recorded itself."""
    new = ("step", "new")
    old, mended = (_cut_short(2, new, way) for way in (lambda _: False, lambda ctx: ctx.patched("c", recorded=new)))
    async with crashing_store() as store:
        await live_once(store, [old], lambda engine: _leave_at(engine, 30))
        assert await live_once(store, [mended], _result) == [False, True]


async def test_a_yes_stands_although_later_nothing_is_left_of_the_new_call(autojump_clock: MockClock) -> None:
    new = ("signal", "new")
    bad, mended = (_cut_short(1, new, way) for way in (lambda _: True, lambda ctx: ctx.patched("c", recorded=new)))
    async with crashing_store() as store:
        await live_once(store, [bad], lambda engine: _leave_at(engine, 30))
        assert await live_once(store, [mended], _result) == [True]


async def test_plain_patched_does_not_know_a_call_that_bad_code_has_recorded(autojump_clock: MockClock) -> None:
    new = ("step", "new")
    bad, plain, mended = (
        _code(_once, new, way)
        for way in (lambda _: True, lambda ctx: ctx.patched("c"), lambda ctx: ctx.patched("c", recorded=[new]))
    )
    async with crashing_store() as store:
        await live_once(store, [bad], lambda engine: _leave_at(engine, 30))

        async def parked(engine: Engine) -> None:
            await wait_parked(engine.get("run"))

        await live_once(store, [plain], parked)

        async def resumed(engine: Engine) -> None:
            with contextlib.suppress(RunConflict):  # it has gone on by itself, for the code is another
                await engine.resume("run")
            await engine.get("run").result()

        await live_once(store, [mended], resumed)
    assert effects.count("new") == 1


async def test_a_failure_in_the_new_call_is_undone_by_resuming_though_the_answer_was_recorded_behind_it(
    autojump_clock: MockClock,
) -> None:
    is_broken = True

    async def perhaps() -> str:
        if is_broken:
            raise ValueError("broken")
        return "done"

    def code(is_new_way: Callable[[Context], bool]) -> Workflow[..., Any]:
        @workflow(name="flow")
        async def flow(ctx: Context) -> str:
            assert is_new_way(ctx)
            try:
                return await ctx.step("new", perhaps)
            except ValueError:
                await ctx.publish("state", "failed")  # the answer rides with it
                raise

        return flow

    async def failed(engine: Engine) -> list[str]:
        run = await engine.start("flow", id="run")
        with pytest.raises(RunFailed):
            await run.result()
        return [step.key for step in await run.steps()]

    bad, mended = code(lambda _: True), code(lambda ctx: ctx.patched("c", recorded=("step", "new")))
    async with crashing_store() as store:
        store.crash_after(3)  # the failure is recorded, and nothing else
        with pytest.raises(Crashed):
            await live_once(store, [bad], failed)
        assert await live_once(store, [mended], failed) == ["new#0", " c#0"]
        is_broken = False

        async def resumed(engine: Engine) -> Any:
            return await (await engine.resume("run")).result()

        assert await live_once(store, [mended], resumed) == "done"


async def test_no_branch_goes_both_ways_though_others_are_being_recorded_when_it_asks(
    autojump_clock: MockClock,
) -> None:
    """A crash between what they have recorded and its own answer comes before it has begun anything."""

    async def one(branch: Context, number: int) -> None:
        await branch.step("before", note, "before")
        way = "new" if branch.patched("c") else "old"
        await branch.step(way, note, f"{number} {way}")

    @workflow(name="flow")
    async def flow(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(one, number)

    # What is recorded together depends on trio's order of tasks: of 26 crashes, two or three fall between.
    for commit, loses_it in [(at, loses_it) for at in range(1, 14) for loses_it in (False, True)] * 3:
        effects.clear()
        async with crashing_store() as store:
            store.crash_after(commit, loses_it=loses_it)
            await live_through(store, [flow], _to_the_end)
        assert not any({f"{number} new", f"{number} old"} <= set(effects) for number in range(3))


@pytest.mark.parametrize(
    ("recorded", "error"),
    [
        ("step", TypeError),
        (("step",), TypeError),
        ([("step", "a", "b")], TypeError),
        ([("step", 1)], TypeError),
        (7, TypeError),
        (("stride", "a"), ValueError),
        (("step", ""), ValueError),
        (("nursery", "mine"), ValueError),
    ],
)
async def test_what_may_be_recorded_is_checked(
    recorded: Any, error: type[Exception], autojump_clock: MockClock
) -> None:
    @workflow(name="flow")
    async def flow(ctx: Context) -> None:
        ctx.patched("change", recorded=recorded)

    async with virtual(flow) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(flow)
        assert type(caught.value.error) is error


@pytest.mark.parametrize(("retired", "error"), [("change", TypeError), ((1,), TypeError), (("",), ValueError)])
def test_retired_changes_are_checked(retired: Any, error: type[Exception]) -> None:
    async def flow(ctx: Context) -> None:
        """Do nothing."""

    with pytest.raises(error):
        workflow(retired=retired)(flow)
