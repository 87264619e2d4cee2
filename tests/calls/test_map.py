"""``ctx.map``: a step per item, in the order of the items, with a limit; what is recorded does not run again."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Set
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Retry, RunStatus, open_engine, workflow
from durable_trio.testing import VirtualClock
from durable_trio.testing.schedule import scheduling
from tests.kit.schedules import OFTEN, RUN_ID, Notes, Program, attempt, crash_and_replay, crash_everywhere, replay_often

pytestmark = pytest.mark.usefixtures("cleared")


class Effects:
    """What the step functions of a test have done, in this process."""

    def __init__(self) -> None:
        self.calls: Counter[Any] = Counter()
        self.running = 0
        self.running_max = 0
        self.undone: list[Any] = []


effects = Effects()


@pytest.fixture
def cleared() -> None:
    """Forget what other tests have done."""
    effects.__init__()  # type: ignore[misc]


async def take(seconds: float) -> float:
    """Take some virtual time; count who runs at once."""
    effects.calls[seconds] += 1
    effects.running += 1
    effects.running_max = max(effects.running_max, effects.running)
    try:
        await trio.sleep(seconds)
    finally:
        effects.running -= 1
    return float(seconds)


async def halve(number: int) -> int:
    """Fail on odd numbers."""
    effects.calls[number] += 1
    await trio.sleep(number)
    if number % 2:
        raise ValueError(number)
    return number // 2


async def flaky(number: int) -> int:
    """Succeed at the third call for a number."""
    effects.calls[number] += 1
    if effects.calls[number] < 3:
        raise ConnectionError(number)
    return number


async def undo(result: Any) -> None:
    """Tell what is undone."""
    effects.undone.append(result)


# ---- results and limit ---------------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def mapped(ctx: Context, items: list[float], limit: int | None) -> list[float]:
    notes = Notes(ctx)
    results = await ctx.map("m", take, items, limit=limit)
    notes.add(results)
    return results


ITEMS = [3.0, 1.0, 2.0, 0.0, 5.0, 4.0]


@pytest.mark.parametrize("limit", [1, 2, 5, None])
def test_results_come_in_the_order_of_the_items_and_no_more_run_at_once_than_the_limit(limit: int | None) -> None:
    trial = attempt(Program(mapped, (ITEMS, limit)))
    assert trial.value == ITEMS
    assert sorted(trial.keys) == [f"m#0/item#{number}" for number in range(6)]
    assert effects.running_max == (limit or 6)


def test_a_map_gives_the_same_after_a_crash_at_any_commit() -> None:
    assert crash_and_replay(Program(mapped, (ITEMS, 2))).value == ITEMS


def test_recorded_items_do_not_run_again_after_a_crash() -> None:
    program = Program(mapped, (ITEMS, 2))
    plain = attempt(program)
    for at in range(1, plain.commit_count + 1):
        for loses_it in (False, True):
            effects.calls.clear()
            assert attempt(program, at, crashes=[(at, loses_it)]).value == ITEMS
            # Of all that had begun, at most those that ran or were being recorded at the crash run again.
            assert effects.calls.total() <= len(ITEMS) + 2
    effects.calls.clear()
    replay_often(program)
    assert effects.calls == Counter(ITEMS)


@workflow
async def empty(ctx: Context) -> list[float]:
    results = await ctx.map("m", take, [])
    return results + await ctx.map("m", take, (item for item in [0.5]))


def test_a_map_without_items_gives_an_empty_list_and_an_iterator_will_do() -> None:
    trial = attempt(Program(empty))
    assert trial.value == [0.5]
    assert trial.keys == ["m#1/item#0"]


@workflow
async def bad_limit(ctx: Context, limit: Any) -> str:
    try:
        await ctx.map("m", take, [1], limit=limit)
    except ValueError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_that_is_no_whole_number_of_at_least_one_is_refused(limit: Any) -> None:
    assert attempt(Program(bad_limit, (limit,))).value.startswith("limit must be a whole number")


MANY = 10_000


async def double(number: int) -> int:
    """Double a number; note how many tasks there are."""
    if number % 100 == 0:
        effects.running_max = max(effects.running_max, trio.lowlevel.current_statistics().tasks_living)
    return number * 2


@workflow(max_recoveries=OFTEN)
async def mapped_many(ctx: Context) -> int:
    results = await ctx.map("m", double, range(MANY))
    assert results == [number * 2 for number in range(MANY)]
    return sum(results)


@pytest.mark.slow
def test_ten_thousand_items_need_no_ten_thousand_tasks_and_replay_in_reasonable_time() -> None:
    began = time.process_time()
    trial = attempt(Program(mapped_many), replays=[1])
    assert trial.value == MANY * (MANY - 1)
    assert len(trial.keys) == MANY
    assert effects.running_max < 200  # the default limit is 100
    assert time.process_time() - began < 30, "seconds of processor time; a few are usual"


# ---- failing and cancelling ----------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def one_item_fails(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    try:
        await ctx.map("m", halve, [6, 4, 2, 3, 8], limit=4)
    except ValueError as error:
        notes.add(repr(error))
    notes.add(ctx.now().time())
    return list(notes)


def test_an_item_that_fails_cancels_the_others_and_begins_no_more() -> None:
    program = Program(one_item_fails)
    trial = attempt(program)
    assert trial.value == ["ValueError(3)", "00:00:03"]
    assert trial.keys == ["m#0/item#2", "m#0/item#3"]
    assert effects.calls[8] == 1  # it began when the first place was free, and was cancelled
    crashed = crash_everywhere(program, is_determined=False)  # an item that runs again ends later
    assert crashed.value == trial.value
    replay_often(program)


@workflow(max_recoveries=OFTEN)
async def failures_as_values(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    for result in await ctx.map("m", halve, [2, 1, 4, 3], limit=3, return_exceptions=True):
        notes.add(repr(result))
    return list(notes)


def test_with_return_exceptions_failures_stand_in_their_places() -> None:
    trial = crash_and_replay(Program(failures_as_values))
    assert trial.value == ["1", "ValueError(1)", "2", "ValueError(3)"]
    assert len(trial.keys) == 4


@workflow(max_recoveries=OFTEN)
async def cancelled_from_outside(ctx: Context) -> list[str]:
    """The map's items are cancelled together with calls of branches whose keys come between the map's and theirs."""
    notes = Notes(ctx)

    async def branch(ctx: Context, name: str) -> None:
        try:
            await ctx.sleep(100)
        finally:
            notes.add(f"{name} cancelled")

    async def mapper(ctx: Context, name: str) -> None:
        try:
            await ctx.map(name, take, [10, 11, 0.5, 12])
        finally:
            notes.add(f"map {name} cancelled")

    async with ctx.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(branch, name)
            nursery.start_soon(mapper, "a" + name)
            nursery.start_soon(mapper, "z" + name)

        async def canceller(ctx: Context) -> None:
            await ctx.sleep(1)
            nursery.cancel_scope.cancel()

        nursery.start_soon(canceller)
        try:
            await ctx.map("z", take, [9, 0.25, 9.5])
        finally:
            notes.add("own map cancelled")
    notes.add(ctx.now().time())
    return list(notes)


def test_a_cancelled_map_ends_at_the_same_place_among_cancelled_branches_at_replay() -> None:
    trial = attempt(Program(cancelled_from_outside))
    assert sorted(note for note in trial.value if "map" in note) == [
        "map aa cancelled",
        "map ab cancelled",
        "map za cancelled",
        "map zb cancelled",
        "own map cancelled",
    ]
    crash_everywhere(Program(cancelled_from_outside), is_determined=False)  # short items may run again, and longer
    replay_often(Program(cancelled_from_outside))


# ---- saga and retry ------------------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def compensated(ctx: Context) -> None:
    await ctx.map("m", take, [2, 1, 0.5, 3], compensate=undo)
    raise KeyError("stop")


def test_completed_items_are_compensated_in_reverse_order_of_completion() -> None:
    trial = crash_everywhere(Program(compensated), is_determined=False)
    assert trial.status is RunStatus.FAILED
    effects.undone.clear()
    attempt(Program(compensated))
    assert effects.undone == [3.0, 2.0, 1.0, 0.5]


@workflow(max_recoveries=OFTEN)
async def compensated_in_part(ctx: Context) -> None:
    await ctx.map("m", halve, [2, 4, 3, 6], compensate=undo)


def test_only_items_that_were_completed_are_compensated() -> None:
    trial = attempt(Program(compensated_in_part))
    assert trial.end == (RunStatus.FAILED, "ValueError(3)")
    assert effects.undone == [1]


@workflow(max_recoveries=OFTEN)
async def retried(ctx: Context) -> list[int]:
    return await ctx.map("m", flaky, [1, 2, 3], retry=Retry.fixed(3, 10))


def test_each_item_is_retried_by_itself() -> None:
    trial = attempt(Program(retried))
    assert trial.value == [1, 2, 3]
    assert effects.calls == Counter({1: 3, 2: 3, 3: 3})


def test_a_crash_between_the_attempts_of_items_forgets_no_count() -> None:
    program = Program(retried)
    commit_count = attempt(program).commit_count
    for at in range(1, commit_count + 1):
        effects.calls.clear()
        assert attempt(program, at, crashes=[(at, False)]).value == [1, 2, 3]
        assert all(3 <= count <= 4 for count in effects.calls.values())


def test_the_attempts_of_items_are_stored() -> None:
    async def main() -> None:
        async with open_engine(":memory:", workflows=[retried], clock=VirtualClock()) as engine:
            run = await engine.start(retried, id=RUN_ID)
            assert await run.result() == [1, 2, 3]
            assert [step.attempt for step in await run.steps()] == [3, 3, 3]

    with scheduling(1):
        trio.run(main, clock=MockClock(autojump_threshold=0))


# ---- its rows ------------------------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def maps_in_branches(ctx: Context) -> list[str]:
    notes = Notes(ctx)

    async def branch(ctx: Context, name: str) -> None:
        for _ in range(2):
            notes.add(f"{name} {await ctx.map('m', take, [0.5, 0.25, 1], limit=2)}")

    async with ctx.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(branch, name)
        notes.add(f"own {await ctx.map('m', take, [0.375])}")
    return sorted(notes)


def test_maps_of_equal_names_in_several_branches_keep_their_rows_apart() -> None:
    trial = crash_and_replay(Program(maps_in_branches))
    assert trial.value == [f"{name} [0.5, 0.25, 1.0]" for name in "aabb"] + ["own [0.375]"]
    assert len(set(trial.keys)) == 13


# ---- what has no order -----------------------------------------------------------------------------------------------


async def _no_items() -> AsyncIterator[int]:
    yield 1


class _OwnSet(set[int]):
    """A set by another name."""


class _Bag(Set[int]):
    """A set of a library of its own, in no order that it tells of."""

    def __contains__(self, item: object) -> bool:
        return item == 1

    def __iter__(self) -> Iterator[int]:
        return iter((1,))

    def __len__(self) -> int:
        return 1


UNORDERED: dict[str, Callable[[], Any]] = {
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset({1, 2}),
    "empty set": set,
    "subclass": lambda: _OwnSet({1}),
    "another kind of set": _Bag,
    "difference of views": lambda: {1: 1}.keys() - {2},
    "iterator over a set": lambda: iter({1, 2}),
    "asynchronous": _no_items,
    "no iterable": lambda: 7,
}


@pytest.mark.parametrize("kind", UNORDERED)
async def test_items_that_have_no_order_of_their_own_are_refused_before_anything_runs(kind: str) -> None:
    @workflow
    async def mapping(ctx: Context) -> str:
        with pytest.raises(TypeError) as caught:
            await ctx.map("take", take, UNORDERED[kind]())
        return str(caught.value)

    async with open_engine(":memory:", workflows=[mapping]) as engine:
        run = await engine.start(mapping)
        message = await run.result()
        assert await run.steps() == ()
    assert "iterable" in message if kind in ("asynchronous", "no iterable") else "sorted(items)" in message
    assert not effects.calls


ORDERED: dict[str, Callable[[], Any]] = {
    "list": lambda: [0.1, 0.2],
    "tuple": lambda: (0.1, 0.2),
    "dict": lambda: {0.1: "", 0.2: ""},
    "keys": lambda: {0.1: "", 0.2: ""}.keys(),
    "values": lambda: {"a": 0.1, "b": 0.2}.values(),
    "generator": lambda: (number / 10 for number in (1, 2)),
    "map": lambda: map(float, ("0.1", "0.2")),
    "deque": lambda: deque([0.1, 0.2]),
}


@pytest.mark.parametrize("kind", ORDERED)
async def test_whatever_has_an_order_can_be_mapped_over(autojump_clock: MockClock, kind: str) -> None:
    @workflow
    async def mapping(ctx: Context) -> list[float]:
        return await ctx.map("take", take, ORDERED[kind]())

    async with open_engine(":memory:", workflows=[mapping], clock=VirtualClock()) as engine:
        assert await engine.run(mapping) == [0.1, 0.2]
