"""Where claims look once others keep the entries of what was claimed: behind that, and now and then at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from durable_trio.stores.contract import ClaimDue
from durable_trio.stores.lines import BEGUN, NEW, Due, Group
from durable_trio.stores.postgres import fronts as module
from durable_trio.stores.postgres.fronts import Fronts, Stretch
from durable_trio.stores.postgres.operations.claims import HEADS
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract.kit import codes_of, one, register
from tests.kit.postgres import drop_schema, new_schema_url
from tests.stores.postgres.kit import Rows

GROUP = Group("work", 0, "")
LINE = (GROUP, NEW)
LOWEST, HIGHEST = -(2**63), 2**63 - 1


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema in whose indexes nothing is left of other tests."""
    new = new_schema_url()
    yield new
    drop_schema(new)


class Clock:
    """A clock that stands until it is put forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of what is remembered of lines."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def due(priority: int, wake_at: int, run: int) -> Due:
    return Due(-priority, wake_at, run, GROUP)


def test_nothing_is_passed_over_in_a_line_that_nobody_has_taken_from() -> None:
    assert Fronts().stretches(LINE) == [Stretch()] == [Stretch(HIGHEST, LOWEST, LOWEST, LOWEST)]


def test_what_was_claimed_is_passed_over_by_priority() -> None:
    fronts = Fronts()
    for taken in (due(5, 10, 1), due(5, 12, 7), due(5, 11, 9), due(2, 40, 3), due(1, 50, 4)):
        fronts.took(LINE, taken)
    assert fronts.stretches(LINE) == [
        Stretch(HIGHEST, 6),
        Stretch(5, 5, 12, 7),
        Stretch(4, 3),
        Stretch(2, 2, 40, 3),
        Stretch(1, 1, 50, 4),
        Stretch(0),
    ]
    assert fronts.stretches((GROUP, BEGUN)) == [Stretch()]


@pytest.mark.parametrize(
    ("priority", "stretches"),
    [
        (HIGHEST, [(HIGHEST, HIGHEST, 1, 2), (HIGHEST - 1, LOWEST)]),
        (LOWEST, [(HIGHEST, LOWEST + 1), (LOWEST, LOWEST, 1, 2)]),
    ],
)
def test_the_highest_and_the_lowest_priority_there_can_be_have_nothing_beside_them(
    priority: int, stretches: list[tuple[int, ...]]
) -> None:
    fronts = Fronts()
    fronts.took(LINE, due(priority, 1, 2))
    assert fronts.stretches(LINE) == [Stretch(*each) for each in stretches]


def test_what_is_seen_before_a_place_is_not_passed_over() -> None:
    fronts = Fronts()
    fronts.took(LINE, due(5, 12, 7))
    fronts.put(LINE, due(5, 12, 8))
    fronts.put(LINE, due(4, 1, 1))
    assert fronts.stretches(LINE)[1] == Stretch(5, 5, 12, 7)
    fronts.put(LINE, due(5, 12, 3))
    assert fronts.stretches(LINE)[1] == Stretch(5, 5, 12, 3)


def test_of_very_many_priorities_none_is_remembered_for_ever() -> None:
    fronts = Fronts()
    for priority in range(100):
        fronts.took(LINE, due(priority, 1, priority))
    assert len(fronts.stretches(LINE)) <= 40


def test_each_look_is_from_the_beginning_as_long_as_they_are_short_or_little_was_claimed(clock: Clock) -> None:
    fronts = Fronts()
    assert fronts.groups(("work",)) is None
    for count, took in ((0, 20_000), (3000, 5_000)):
        for run in range(count):
            fronts.took(LINE, due(1, 1, run))
        fronts.looked_for_groups(("work",), [GROUP])
        fronts.note_microseconds(took)
        assert fronts.groups(("work",)) is None
    fronts.looked_for_groups(("work",), [GROUP])
    fronts.note_microseconds(20_000)
    fronts.note_microseconds(1_000)
    assert fronts.groups(("work",)) == [GROUP]
    assert fronts.groups(("work", "other")) is None
    fronts.put((Group("work", 3, ""), NEW), due(1, 1, 1))
    assert fronts.groups(("work",)) == [GROUP, Group("work", 3, "")]
    clock.now += 1
    assert fronts.groups(("work",)) is None


def claim(store: PostgresStore, owner: int, limit: int = 9) -> list[str]:
    return [row.id for row in one(store, ClaimDue(owner=owner, codes=codes_of("work"), now=1000, limit=limit))]


def test_what_comes_before_a_place_is_claimed_within_a_second(
    store: PostgresStore, rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLOW_MICROSECONDS", -1)
    monkeypatch.setattr(module, "_MANY", 0)
    executor = register(store)
    rows.add_runs(3, wake_at=50)
    rows.add_runs(1, wake_at=50, priority=2)
    assert claim(store, executor, 2) == ["run-3", "run-0"]
    rows.add_runs(1, wake_at=40)  # missed
    rows.add_runs(1, wake_at=40, priority=2)  # missed
    rows.add_runs(1, wake_at=40, priority=1)
    rows.add_runs(1, wake_at=40, priority=9)
    rows.add_runs(1, wake_at=40, is_due=False)  # seen when it is put in line
    rows.add_runs(1, wake_at=60)
    assert claim(store, executor, 9) == ["run-7", "run-6", "run-8", "run-1", "run-2", "run-9"]
    assert claim(store, executor) == []
    clock.now += 1
    assert claim(store, executor) == ["run-5", "run-4"]


def test_a_look_costs_no_more_for_what_others_keep_of_what_was_claimed(
    store: PostgresStore, rows: Rows, other: psycopg.Connection[Any]
) -> None:
    """By the pages that the server reads, not by time."""
    executor = register(store)
    for priority in (1, 2):
        rows.add_runs(1500, priority=priority)
    rows.execute("ANALYZE runs")
    other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    other.execute("SELECT 1")  # the snapshot
    while rows.one("SELECT count(*) FROM runs WHERE owner IS NULL") > 700:
        assert len(claim(store, executor, 100)) == 100
    rows.execute(f"PREPARE heads AS {HEADS}")
    whole, stretches = [Stretch()], store._fronts.stretches(LINE)
    assert len(stretches) == 4
    assert pages(rows, whole) > 4 * pages(rows, stretches)


def pages(rows: Rows, stretches: Sequence[Stretch]) -> int:
    """Return how many pages the server reads for a look at some stretches."""
    wanted = [{"place": 0, **GROUP._asdict(), "line": NEW, **each._asdict()} for each in stretches]
    document = json.dumps(wanted).replace("'", "''")
    ((plan,),) = rows.all(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE heads('{document}', 10)")
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])
