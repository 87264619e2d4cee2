"""How fast runs and steps end, from looks at an engine's status."""

from __future__ import annotations

from durable_trio.records import EngineStatus, RunStatus
from durable_trio.views.rates import Rates, unfinished_count


def status(completed: int, recorded: int) -> EngineStatus:
    return EngineStatus(
        durability="full",
        executors=(),
        runs_by_status={RunStatus.COMPLETED: completed, RunStatus.PENDING: 7},
        parked=(),
        unknown_workflows={},
        resident_runs=0,
        store_version="",
        warnings=(),
        recorded_count=recorded,
    )


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = Rates()
    assert (rates.runs, rates.steps) == (0, 0)
    rates.add(status(100, 1000), 0.0)
    assert (rates.runs, rates.steps) == (0, 0)
    rates.add(status(110, 1050), 5.0)
    assert (rates.runs, rates.steps) == (2, 10)
    rates.add(status(110, 1050), 10.0)
    assert (rates.runs, rates.steps) == (0, 0)


def test_a_rate_is_never_below_zero_when_runs_are_removed() -> None:
    rates = Rates()
    rates.add(status(100, 1000), 0.0)
    rates.add(status(0, 0), 1.0)
    assert (rates.runs, rates.steps) == (0, 0)


def test_what_has_not_ended_is_counted_whatever_its_status() -> None:
    assert unfinished_count(status(3, 0)) == 7
