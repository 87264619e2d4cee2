"""Random programs come out the same, to the millisecond, without crashes and with one after each commit.

Set ``DURABLE_TRIO_PROGRAMS`` to a number to try that many at random, each with all of its crashes, in place of the
small repeatable set, and ``DURABLE_TRIO_EVERY_CRASH`` for those before and after each commit (see ``crash_points``).
A failure prints the program as one line; ``DURABLE_TRIO_PROGRAM='that line'`` runs it again.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, note, settings
from trio.testing import MockClock

from durable_trio import clock
from durable_trio.calls import child as children
from durable_trio.calls import deadline, saga, sleep
from durable_trio.calls import step as functions
from durable_trio.engine.runs import resident
from durable_trio.rules import residency
from durable_trio.testing import VirtualClock
from durable_trio.turns import call as calls
from durable_trio.turns import port
from tests.context.programs import Case, Observation, World, cases, drive, enter, program
from tests.kit import crash_points as points
from tests.kit.crash_points import EVERY_CRASH, SEED, Crashed, crash_points, crashing_store, live_once, live_through
from tests.kit.measured import unmeasured

_PROGRAMS = int(os.environ.get("DURABLE_TRIO_PROGRAMS", "0"))
#: Crashes of each program in the repeatable set, anywhere among its commits.
_CRASHES_MAX = 10 if EVERY_CRASH else 3
#: An engine that dies each time after this many commits still gets on: the first few are its own.
_COMMITS_OF_A_LIFE = 9
_LIVES_MAX = 300

_repeatable = settings(
    max_examples=_PROGRAMS or 30,
    derandomize=not _PROGRAMS,
    deadline=None,
    database=None,
    print_blob=bool(_PROGRAMS),
    # A failure prints its program at once; only a long campaign takes the time to make it smaller.
    phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if _PROGRAMS else [])],
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
    # Runs that have crashed twice without progress would resume one after the other, and so later.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "SUSPECT_RECOVERIES", 10_000)
        return await _living_again_and_again(case, world)


async def _living_again_and_again(case: Case, world: World) -> Observation:
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


def _check(case: Case, *, crashes_max: int | None, seen_kinds: Counter[tuple[str, str]] | None = None) -> int:
    """Compare the case without crashes and with them; return how many there were."""
    expected, commit_count = _in_virtual_time(_without_a_crash, case)
    _check_by_itself(expected)
    if seen_kinds is not None:
        _count(expected, seen_kinds)
    crashes = crash_points(commit_count, case.to_text())
    # In any order: what is wrong for a while only is then found soon.
    random.Random(f"{SEED or ''}{case.to_text()}").shuffle(crashes)
    crashes = crashes[:crashes_max]
    with unmeasured():
        _compare(expected, _in_virtual_time(_crashing_all_the_time, case), f"{_COMMITS_OF_A_LIFE=}")
        for commit, loses_it in crashes:

            async def one(commit: int = commit, loses_it: bool = loses_it) -> Observation:
                return await _with_a_crash(case, commit, loses_it=loses_it)

            _compare(expected, _in_virtual_time(one), f"{commit=} of {commit_count}, {loses_it=}")
    return len(crashes) + 1


def _check_by_itself(seen: Observation) -> None:
    """What must hold of every program, whatever it is."""
    for label, run in seen.runs.items():
        consumed = run["consumed"]
        assert len(set(consumed)) == len(consumed), f"{label} has taken a signal twice: {consumed}"
        completed = run["undoable"] if run["status"] != "completed" else []
        assert run["compensations"] == list(reversed(completed)), f"{label} was undone in another order"


def _compare(expected: Observation, found: Observation, when: str) -> None:
    _check_by_itself(found)
    assert found.outcome == expected.outcome, f"another result after a crash: {when}"
    assert found.runs.keys() == expected.runs.keys(), f"other children after a crash: {when}"
    for label in expected.runs:
        assert found.runs[label] == expected.runs[label], f"{label} is another after a crash: {when}"
    assert found.undone == expected.undone, f"other effects undone after a crash: {when}"


def _count(seen: Observation, kinds: Counter[tuple[str, str]]) -> None:
    for label, run in seen.runs.items():
        kinds["child" if label != "root" else "root", run["status"]] += 1
        for row in run["history"]:
            _, _, kind, status, *_ = row.split(" ")
            kinds[kind, status] += 1


# ---- the property --------------------------------------------------------------------------------------------------


def test_a_crash_after_any_commit_changes_nothing() -> None:
    """The generator must not be too weak either: everything that a program is made of has to come about."""
    kinds: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()

    @_repeatable
    @given(cases())
    def every_program(case: Case) -> None:
        note(f"DURABLE_TRIO_PROGRAM='{case.to_text()}'")
        counts["programs"] += 1
        counts["crashes"] += _check(case, crashes_max=None if _PROGRAMS else _CRASHES_MAX, seen_kinds=kinds)

    every_program()
    print(dict(counts), dict(sorted(kinds.items())))
    missing = [kind for kind in _MUST_COME_ABOUT if not kinds[kind]]
    assert not missing, f"never came about in {counts['programs']} programs: {missing}"


_MUST_COME_ABOUT = [
    ("root", "completed"),
    ("root", "failed"),
    ("root", "cancelled"),
    ("child", "completed"),
    ("child", "failed"),
    ("child", "cancelled"),
    ("step", "completed"),
    ("step", "failed"),
    ("sleep", "completed"),
    ("signal", "completed"),
    ("signal", "timed_out"),
    ("deadline", "completed"),
    ("child_end", "completed"),
    ("child_end", "failed"),
    ("compensation", "completed"),
    ("patch", "completed"),
    ("cancel", "completed"),
]


@pytest.mark.skipif("DURABLE_TRIO_PROGRAM" not in os.environ, reason="no program is given")
def test_the_given_program() -> None:
    _check(Case.from_text(os.environ["DURABLE_TRIO_PROGRAM"]), crashes_max=None)


# ---- planted bugs --------------------------------------------------------------------------------------------------

_RICH = Case(
    body=[
        {"do": "step", "i": 1, "ms": 8, "fails": False, "undo": True},
        {"do": "step", "i": 2, "ms": 4, "fails": False, "undo": True, "first_ms": 1, "retry_ms": 256},
        {"do": "wait", "i": 3, "name": "red"},
        {"do": "deadline", "i": 4, "ms": 512, "raises": False, "body": [
            {"do": "child", "i": 5, "how": "await", "undo": False, "body": [{"do": "sleep", "i": 6, "ms": 16}]},
            {"do": "child", "i": 7, "how": "run", "undo": False, "body": [{"do": "sleep", "i": 8, "ms": 2048}]},
        ]},
        {"do": "deadline", "i": 9, "ms": 128, "raises": False, "body": [
            {"do": "step", "i": 10, "ms": 2, "fails": False, "undo": False},
            {"do": "sleep", "i": 11, "ms": 8192},
        ]},
        {"do": "branches", "i": 12, "bodies": [
            [{"do": "sleep", "i": 13, "ms": 4096}],
            [{"do": "step", "i": 14, "ms": 64, "fails": False, "undo": False}],
        ]},
        {"do": "wait", "i": 15, "name": "red", "timeout_ms": 1024},  # in vain: the run fails, and is undone
    ],
    signals=((32, "red"),),
    cancel_ms=None,
)  # fmt: skip


#: A child ends while its parent waits for something near as well, and so is here, and suspended in the store.
_NEAR = Case(
    body=[
        {
            "do": "branches",
            "i": 10 * number + 4,
            "bodies": [
                [
                    {
                        "do": "child",
                        "i": 10 * number + 1,
                        "how": "await",
                        "undo": False,
                        "body": [{"do": "sleep", "i": 10 * number + 2, "ms": 300}],
                    }
                ],
                [{"do": "sleep", "i": 10 * number + 3, "ms": 900}],
            ],
        }
        for number in range(3)
    ],
    signals=(),
    cancel_ms=None,
)


#: While much is recorded something else sleeps, and waits for its next attempt: nearly every crash meets both.
_LONG_WAITS = Case(
    body=[
        {
            "do": "branches",
            "i": 1,
            "bodies": [
                [{"do": "sleep", "i": 2, "ms": 4096}],
                [{"do": "step", "i": 3, "ms": 4, "fails": False, "undo": False, "first_ms": 1, "retry_ms": 2048}],
                [
                    {"do": "step", "i": 10 + number, "ms": 2**number, "fails": False, "undo": False}
                    for number in range(4, 10)
                ],
            ],
        }
    ],
    signals=(),
    cancel_ms=None,
)


@pytest.mark.parametrize("case", [_RICH, _NEAR, _LONG_WAITS], ids=["rich", "near", "long waits"])
def test_the_program_that_shows_bugs_is_sound_itself(case: Case) -> None:
    _check(case, crashes_max=None)


def _sleep_begins_anew(patch: pytest.MonkeyPatch) -> None:
    """After a crash a sleep is not told that it had begun."""

    def go_live(self: sleep.SleepCall, now: int) -> None:
        self.state.agenda.waits.pop(self.key, None)
        original(self, now)

    original = sleep.SleepCall.go_live
    patch.setattr(sleep.SleepCall, "go_live", go_live)


def _retry_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """After a crash a step is not told of its failed attempts."""

    def go_live(self: functions.FunctionCall, now: int) -> None:
        self.state.agenda.waits.pop(self.key, None)
        original(self, now)

    original = functions.FunctionCall.go_live
    patch.setattr(functions.FunctionCall, "go_live", go_live)


def _signal_is_not_consumed(patch: pytest.MonkeyPatch) -> None:
    """A signal's row does not consume its mailbox entry."""

    def record(self: calls.Call, **fields: Any) -> None:
        fields.pop("taken", None)
        original(self, **fields)

    original = calls.Call.record
    patch.setattr(calls.Call, "record", record)


def _deadline_begins_anew(patch: pytest.MonkeyPatch) -> None:
    """A deadline counts from the clock, not from the last recorded outcome."""

    def due_after(now: int, seconds: float) -> int:
        return clock.due_after(VirtualClock().now(), seconds)

    patch.setattr(deadline, "due_after", due_after)


def _forward_compensation(patch: pytest.MonkeyPatch) -> None:
    """The first completed step is undone first."""

    def in_order(registered: Any) -> list[Any]:
        return [item for _, item in sorted(registered, key=lambda pair: pair[0])]

    patch.setattr(saga, "in_order", in_order)


def _child_is_not_cancelled_again(patch: pytest.MonkeyPatch) -> None:
    """After a crash a child whose parent's call is cancelled is waited for, but not cancelled."""

    def go_live(self: children.ChildEndCall, now: int) -> None:
        self.raise_cancel, kept = None, self.raise_cancel
        self.is_unabortable, is_unabortable = self.is_unabortable and kept is None, self.is_unabortable
        original(self, now)
        self.raise_cancel, self.is_unabortable = kept, is_unabortable

    original = children.ChildEndCall.go_live
    patch.setattr(children.ChildEndCall, "go_live", go_live)


def _childs_end_is_overlooked(patch: pytest.MonkeyPatch) -> None:
    """The notice of a child's end is consumed and the run left suspended, before the end is recorded."""
    patch.setattr(port.Port, "next_status", property(lambda self: None))


#: Where another program shows it sooner than the rich one.
_CASES: dict[Callable[[pytest.MonkeyPatch], None], Case] = {
    _sleep_begins_anew: _LONG_WAITS,
    _retry_is_forgotten: _LONG_WAITS,
    _childs_end_is_overlooked: _NEAR,
}
#: Single crashes in each try: trio's order of tasks is another each time, and one may hide a bug; most need few.
_CRASHES_OF_TRIES = (2, 2, None, None, None, None)


@pytest.mark.parametrize(
    "plant",
    [
        _sleep_begins_anew,
        _retry_is_forgotten,
        _signal_is_not_consumed,
        _deadline_begins_anew,
        _forward_compensation,
        _child_is_not_cancelled_again,
        _childs_end_is_overlooked,
    ],
    ids=lambda plant: plant.__name__.strip("_"),
)
def test_a_planted_bug_is_caught(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    monkeypatch.setattr(points, "EVERY_CRASH", True)  # a few may all miss the one moment that shows it
    case = _CASES.get(plant, _RICH)
    if case is _LONG_WAITS:  # a run that leaves memory has forgotten as well, also where nothing crashes
        monkeypatch.setattr(residency, "IDLE_SECONDS", 1e6)
    with pytest.raises((AssertionError, ExceptionGroup)):  # noqa: PT012
        for crashes_max in _CRASHES_OF_TRIES:
            _check(case, crashes_max=crashes_max)
