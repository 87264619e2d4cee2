"""A run's timeline: what has happened, in which branch, in which order, and what of it still goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from durable_trio.records import FailureRecord, RunRecord, RunStatus, StepKind, StepRecord, StepStatus, WaitRecord
from durable_trio.views.run import RunView, began_at, with_steps
from durable_trio.views.timeline import Entry, Nature, timeline_of

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def run(run_id: str = "run", status: RunStatus = RunStatus.RUNNING, **fields: Any) -> RunRecord:
    known: dict[str, Any] = dict.fromkeys((field.name for field in attrs.fields(RunRecord)), None)
    known |= {"id": run_id, "status": status, "created_at": BEGIN, "started_at": BEGIN, "values": {}, "owner": "1"}
    return RunRecord(**(known | fields))


def step(key: str, begin: float, end: float, kind: StepKind = StepKind.STEP, **fields: Any) -> StepRecord:
    known: dict[str, Any] = {"status": StepStatus.COMPLETED, "attempt": 1, "result": None, "error": None}
    return StepRecord(key=key, kind=kind, started_at=at(begin), finished_at=at(end), **(known | fields))


def wait(key: str, kind: str = "sleep", **fields: Any) -> WaitRecord:
    known: dict[str, Any] = {"due_at": at(99), "attempt": 1, "error": None, "started_at": at(5)}
    return WaitRecord(key=key, kind=kind, **(known | fields))


def view(*steps: StepRecord, record: RunRecord | None = None, **fields: Any) -> RunView:
    known: dict[str, Any] = {"waits": (), "unread": (), "children": (), "owner": None}
    return RunView(record=record or run(), steps=steps, **(known | fields))


def rows(shown: RunView) -> list[str]:
    """Return labels and titles, indented."""
    return [
        "  " * row.depth + (row.what if isinstance(row.what, str) else row.what.label)
        for row in timeline_of(shown, at(10)).rows
    ]


def entries(shown: RunView) -> dict[str, Entry]:
    return {row.what.label: row.what for row in timeline_of(shown, at(10)).rows if isinstance(row.what, Entry)}


def test_nothing_has_happened_yet() -> None:
    assert timeline_of(view(), at(10)).rows == ()


def test_rows_stand_under_their_branch_in_the_order_of_beginnings() -> None:
    steps = [
        step("last#0", 5, 6),
        step("both#0/right#0/b#0", 2, 3),
        step("both#0/left#0/a#0", 1, 4),
        step("one#0", 0, 1),
    ]
    assert rows(view(*steps)) == ["one#0", "both#0", "  left#0", "    a#0", "  right#0", "    b#0", "last#0"]


def test_branches_that_hold_only_one_branch_share_its_title() -> None:
    assert rows(view(step("outer#0/inner#0/a#0", 0, 1))) == ["outer#0/inner#0", "  a#0"]


def test_items_of_a_map_that_begin_together_stand_in_their_order() -> None:
    steps = [step(f"rows#0/item#{number}", 0, 1) for number in (10, 2, 1)]
    assert rows(view(*steps)) == ["rows#0", "  item#1", "  item#2", "  item#10"]


def test_what_is_undone_comes_last_under_the_branch_of_its_step() -> None:
    undo = step("compensate/both#0/left#0/pay#0", 2, 3, StepKind.COMPENSATION)
    shown = view(undo, step("both#0/left#0/pay#0", 0, 1), step("ship#0", 4, 5))
    assert rows(shown) == ["both#0/left#0", "  pay#0", "ship#0", "both#0/left#0", "  pay#0"]
    assert [entries(view(undo))["pay#0"].nature, entries(view(undo))["pay#0"].kind] == [Nature.UNDO, "undo"]


@pytest.mark.parametrize(
    ("kind", "nature", "word"),
    [
        (StepKind.STEP, Nature.WORK, "step"),
        (StepKind.TRANSACTION, Nature.WORK, "commit"),
        (StepKind.SLEEP, Nature.WAIT, "timer"),
        (StepKind.SIGNAL, Nature.WAIT, "signal"),
        (StepKind.CHILD_END, Nature.WAIT, "child end"),
    ],
)
def test_each_kind_is_work_or_a_wait(kind: StepKind, nature: Nature, word: str) -> None:
    entry = entries(view(step("a#0", 0, 1, kind)))["a#0"]
    assert (entry.nature, entry.kind, entry.attempt) == (nature, word, None)


def test_a_failure_and_the_attempts_before_it_are_told() -> None:
    error = FailureRecord(type="ValueError", message="no")
    entry = entries(view(step("a#0", 0, 1, status=StepStatus.FAILED, attempt=3, error=error)))["a#0"]
    assert (entry.has_failed, entry.attempt, entry.error) == (True, 3, error)


@pytest.mark.parametrize(
    ("kind", "nature", "word", "attempt"),
    [
        ("sleep", Nature.WAIT, "timer", None),
        ("signal", Nature.WAIT, "signal", None),
        ("retry", Nature.WAIT, "step", 1),
        ("intent", Nature.WORK, "step", None),
    ],
)
def test_an_open_wait_has_no_end(kind: str, nature: Nature, word: str, attempt: int | None) -> None:
    open_wait = wait("a#0", kind)
    entry = entries(view(waits=(open_wait,)))["a#0"]
    assert (entry.ended_at, entry.wait, entry.nature) == (None, open_wait, nature)
    assert (entry.kind, entry.attempt) == (word, attempt)


def test_a_child_is_shown_for_as_long_as_it_lives_where_it_was_stored() -> None:
    start = step("child#0", 1, 1, StepKind.CHILD, result="child")
    child = run("child", RunStatus.FAILED, started_at=at(4), finished_at=at(6))
    shown = view(start, step("a#0", 2, 3), children=(child,))
    assert rows(shown) == ["child#0", "a#0"]
    entry = entries(shown)["child#0"]
    assert (entry.started_at, entry.ended_at, entry.has_failed) == (at(4), at(6), True)
    unknown = entries(view(start))["child#0"]
    assert (unknown.child_id, unknown.child, unknown.result, unknown.ended_at) == ("child", None, None, at(1))


def test_it_spans_the_life_of_the_run_until_now() -> None:
    goes_on = timeline_of(view(step("a#0", 0, 1)), at(10))
    assert (goes_on.began_at, goes_on.ended_at, goes_on.seconds, goes_on.has_unrecorded) == (at(0), at(10), 10, True)
    ended = timeline_of(view(step("a#0", 0, 1), record=run(status=RunStatus.FAILED, finished_at=at(4))), at(10))
    assert (ended.seconds, ended.has_unrecorded) == (4, False)
    waits = timeline_of(view(waits=(wait("a#0"),)), at(10))
    assert not waits.has_unrecorded


def test_of_a_run_that_nobody_executes_nothing_is_said_to_be_in_hand() -> None:
    assert not timeline_of(view(step("a#0", 0, 1), record=run(owner=None)), at(10)).has_unrecorded


def test_a_fork_began_when_it_was_taken_and_what_it_was_given_is_copied() -> None:
    fork = run(created_at=at(5), started_at=at(0))
    assert began_at(fork) == at(5)
    assert began_at(attrs.evolve(fork, status=RunStatus.PENDING)) is None
    shown = timeline_of(view(step("old#0", 1, 2), step("new#0", 6, 7), record=fork), at(10))
    copied = {row.what.label: shown.is_copied(row.what) for row in shown.rows if isinstance(row.what, Entry)}
    assert copied == {"old#0": True, "new#0": False}


# ---- long ones -----------------------------------------------------------------------------------------------------


def folded(shown: RunView) -> list[str]:
    """Return labels and titles, indented, with what failed marked."""
    found = timeline_of(shown, at(10), is_folded=True).rows
    return [
        "  " * row.depth
        + (row.what if isinstance(row.what, str) else row.what.label + ("!" if row.what.has_failed else ""))
        for row in found
    ]


def test_steps_of_one_name_that_came_out_alike_are_folded() -> None:
    failed: dict[str, Any] = {"status": StepStatus.FAILED, "error": FailureRecord(type="E", message="x")}
    steps = [step(f"{name}#{n}", n, n + 0.5) for n in range(5) for name in ("a", "b")]
    steps += [step(f"a#{n}", n, n + 0.5, **failed) for n in range(5, 10)]
    steps += [step(f"c#{n}", 9, 9) for n in range(3)]  # few
    shown = view(*steps)
    assert folded(shown) == ["a ×5", "b ×5", "a ×5!", "c#0", "c#1", "c#2"]
    assert len(rows(shown)) == len(steps)


def test_what_is_folded_tells_how_long_each_took_and_spans_them_all() -> None:
    steps = [step(f"a#{n}", n, n + 1 + n / 10) for n in range(5)]
    (row,) = timeline_of(view(*steps), at(10), is_folded=True).rows
    entry = row.what
    assert isinstance(entry, Entry)
    assert entry.fold is not None
    assert (entry.fold.count, entry.started_at, entry.ended_at) == (5, at(0), at(5.4))
    seconds = (entry.fold.seconds_min, entry.fold.seconds_median, entry.fold.seconds_max)
    assert seconds == pytest.approx((1.0, 1.2, 1.4))


def test_branches_of_one_name_are_folded_with_what_is_in_them() -> None:
    steps = [step(f"nursery#0/leg#{n}/load#0", n, n + 1) for n in range(9)]
    steps += [step(f"nursery#0/leg#{n}/m#0/item#{item}", n, n + 1) for n in range(9) for item in range(2)]
    steps += [step(f"nursery#0/other#{n}/m#0/item#0", n, n + 1) for n in range(2)]
    assert folded(view(*steps)) == [
        "nursery#0",
        "  leg ×9",
        "    load ×9",
        "    m ×9",
        "      item ×18",
        "  other#0/m#0",
        "    item#0",
        "  other#1/m#0",
        "    item#0",
    ]


@pytest.mark.parametrize("is_folded", [False, True])
def test_a_map_that_goes_on_tells_how_many_of_its_items_have_come_out(is_folded: bool) -> None:
    steps = [step(f"m#0/item#{n}", n, n + 1) for n in range(6)]
    going_on = [wait("m#0", kind="map", due_at=None, total=1000), wait("m#0/item#9", kind="retry", attempt=2)]
    first, *others = timeline_of(view(*steps, waits=tuple(going_on)), at(10), is_folded=is_folded).rows
    assert first.what == "m#0  6 of 1,000"
    assert len(others) == (2 if is_folded else 7)
    (only,) = timeline_of(view(waits=tuple(going_on[:1])), at(10)).rows
    assert only.what == "m#0  0 of 1,000"


def test_steps_are_chosen_by_key_branch_name_and_failure() -> None:
    failed: dict[str, Any] = {"status": StepStatus.FAILED, "error": FailureRecord(type="E", message="x")}
    steps = [step("a#0", 0, 1), step("a#1", 1, 2, **failed), step("m#0/item#0", 2, 3), step("m#0/a#0", 2, 3)]
    retrying = wait("a#2", kind="retry", error=FailureRecord(type="E", message="x"))
    whole = view(*steps, waits=(retrying, wait("s#0"), wait("m#0", kind="map", total=9)))

    def keys(**chosen: Any) -> list[str]:
        some = with_steps(whole, **chosen)
        return [*(each.key for each in some.steps), *(each.key for each in some.waits)]

    assert keys(key="a#1") == ["a#1"]
    assert keys(key="a") == ["a#0", "a#1", "m#0/a#0", "a#2"]
    assert keys(key="m#0") == ["m#0/item#0", "m#0/a#0"]
    assert keys(failed=True) == ["a#1", "a#2"]
    assert keys(failed=True, key="a#1") == ["a#1"]
    assert keys(key="nothing") == []
    assert with_steps(whole) is whole
