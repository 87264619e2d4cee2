"""Which runs that only wait stay in memory, as a table."""

from __future__ import annotations

import pytest

from durable_trio.rules import residency
from durable_trio.rules.residency import leave_at, leaving_count


@pytest.fixture(autouse=True)
def idle_runs_leave_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here they leave after the second that is the rule."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", 1.0)


@pytest.mark.parametrize(
    ("ages", "resident_count", "resident_max", "leaving"),
    [
        ([], 5, 3, 0),  # nobody only waits: those that have something to do stay
        ([0.0, 0.0], 5, 10, 0),  # they have just begun to wait
        ([0.9, 0.5, 0.0], 3, 3, 0),
        ([1.0, 0.5, 0.0], 3, 3, 1),  # a second of idleness
        ([9.0, 1.0, 0.5], 3, 3, 2),
        ([0.9, 0.5, 0.0], 4, 3, 1),  # beyond the bound the one that has waited longest goes first
        ([0.9, 0.5, 0.0], 9, 3, 3),  # and no more than there are
        ([9.0, 0.9, 0.5], 5, 4, 1),  # whoever leaves because of its idleness makes room, too
        ([9.0, 0.9, 0.5], 6, 4, 2),
    ],
)
def test_those_that_have_waited_longest_leave_first(
    ages: list[float], resident_count: int, resident_max: int, leaving: int
) -> None:
    since = [100.0 - age for age in ages]
    assert leaving_count(since, now=100.0, resident_count=resident_count, resident_max=resident_max) == leaving


def test_a_run_leaves_when_it_has_been_idle_for_long_enough() -> None:
    assert leave_at(100.0) == 101.0
