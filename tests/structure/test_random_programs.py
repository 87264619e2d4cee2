"""Random programs come out the same, to the millisecond, without crashes and with one after each commit.

Set ``DURABLE_TRIO_PROGRAMS`` to a number to try that many at random, each with all of its crashes, in place of the
small repeatable set. A failure prints the program as one line; ``DURABLE_TRIO_PROGRAM='that line'`` runs it again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from .crash_points import Crashed, crashing_store, live_once, live_through
from hypothesis import HealthCheck, Phase, given, note, settings
from .programs import Case, Observation, World, cases, drive, enter, program
from trio.testing import MockClock

from durable_trio.context import child_calls, children, functions, saga, structure_calls, waits
from durable_trio.replay import calls

_PROGRAMS = int(os.environ.get("DURABLE_TRIO_PROGRAMS", "0"))
#: Crashes of each program in the repeatable set, spread over its commits.
_CRASHES_MAX = 12
#: An engine that dies each time after this many commits still gets on: the first few are its own.
_COMMITS_OF_A_LIFE = 9
_LIVES_MAX = 300

_repeatable = settings(
    max_examples=_PROGRAMS or 45,
    derandomize=not _PROGRAMS,
    deadline=None,
    database=None,
    print_blob=bool(_PROGRAMS),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


# ---- one case ------------------------------------------------------------------------------------------------------


async def _without_a_crash(case: Case) -> tuple[Observation, int]:
    world = World(trio.current_time())
    enter(world)
    async with crashing_store() as store:
        seen = await live_through(store, [program], lambda engine: drive(engine, case, world))
        repeated = [key for key, count in world.executions.items() if count > 1]
        assert not repeated, f"ran twice without a crash: {repeated}"
        return seen, store.commit_count


async def _with_a_crash(case: Case, commit: int, *, loses_it: bool) -> Observation:
    world = World(trio.current_time())
    enter(world)
    async with crashing_store() as store:
        store.crash_after(commit, loses_it=loses_it)
        seen = await live_through(store, [program], lambda engine: drive(engine, case, world))
        repeated = [key for key, count in world.executions.items() if count > 2]
        assert not repeated, f"ran three times with one crash: {repeated}"
        return seen


async def _crashing_all_the_time(case: Case) -> Observation:
    world = World(trio.current_time())
    enter(world)
    async with crashing_store() as store:
        for _ in range(_LIVES_MAX):
            store.crash_after(_COMMITS_OF_A_LIFE)
            try:
                return await live_once(store, [program], lambda engine: drive(engine, case, world))
            except Crashed:
                continue
    raise AssertionError(f"not through after {_LIVES_MAX} lives")


def _in_virtual_time(fn: Callable[..., Any], *args: Any) -> Any:
    return trio.run(fn, *args, clock=MockClock(autojump_threshold=0))


def _check(case: Case, *, crashes_max: int | None, seen_kinds: Counter[str] | None = None) -> int:
    """Compare the case without crashes and with them; return how many there were."""
    expected, commit_count = _in_virtual_time(_without_a_crash, case)
    _check_by_itself(expected)
    if seen_kinds is not None:
        _count(expected, seen_kinds)
    every = 1 if crashes_max is None else max(1, round(commit_count * 2 / crashes_max))
    points = [(commit, loses_it) for commit in range(1, commit_count + 1) for loses_it in (False, True)]
    crashes = points[::every] if every % 2 or every == 1 else points[:: every + 1]
    for commit, loses_it in crashes:

        async def one(commit: int = commit, loses_it: bool = loses_it) -> Observation:
            return await _with_a_crash(case, commit, loses_it=loses_it)

        _compare(expected, _in_virtual_time(one), f"{commit=} of {commit_count}, {loses_it=}")
    _compare(expected, _in_virtual_time(_crashing_all_the_time, case), f"{_COMMITS_OF_A_LIFE=}")
    return len(crashes) + 1


def _check_by_itself(seen: Observation) -> None:
    """What must hold of every program, whatever it is."""
    for label, run in seen.runs.items():
        completed = run["undoable"] if run["status"] != "completed" else []
        assert run["compensations"] == list(reversed(completed)), f"{label} was undone in another order"


def _compare(expected: Observation, found: Observation, when: str) -> None:
    _check_by_itself(found)
    assert found.outcome == expected.outcome, f"another result after a crash: {when}"
    assert found.runs.keys() == expected.runs.keys(), f"other children after a crash: {when}"
    for label in expected.runs:
        assert found.runs[label] == expected.runs[label], f"{label} is another after a crash: {when}"
    assert found.undone == expected.undone, f"other effects undone after a crash: {when}"


def _count(seen: Observation, kinds: Counter[str]) -> None:
    for label, run in seen.runs.items():
        kinds["child" if label != "root" else "root", run["status"]] += 1
        for row in run["history"]:
            _, _, kind, status, *_ = row.split(" ")
            kinds[kind, status] += 1


# ---- the property --------------------------------------------------------------------------------------------------


def test_a_crash_after_any_commit_changes_nothing() -> None:
    kinds: Counter[Any] = Counter()
    crash_count = 0

    @_repeatable
    @given(cases())
    def every_program(case: Case) -> None:
        nonlocal crash_count
        note(f"DURABLE_TRIO_PROGRAM='{case.to_text()}'")
        crash_count += _check(case, crashes_max=None if _PROGRAMS else _CRASHES_MAX, seen_kinds=kinds)

    every_program()
    print(crash_count, kinds)
