"""A run's way out: in order, counted, with the status that the store has; and nothing once it is cut."""

from __future__ import annotations

from typing import Any

import pytest

from durable_trio import RunStatus
from durable_trio.stores.contract import Advance, Release
from durable_trio.turns.port import Port
from tests.turns.kit import FENCE, ManualOutlet, row

S = RunStatus


def make(status: RunStatus = S.RUNNING) -> tuple[Port, ManualOutlet]:
    outlet = ManualOutlet()
    return Port(outlet, FENCE, status), outlet


def nothing(_: Any) -> None:
    raise AssertionError("must not be called back")


def test_operations_go_out_in_order_with_the_fence_and_are_counted_until_they_are_done() -> None:
    port, outlet = make()
    outcomes: list[Any] = []
    port.advance(outcomes.append, rows=(row(1, "a"),), now=5)
    port.submit(Release(fence=FENCE, status=S.SUSPENDED, wake_at=None), outcomes.append)
    assert port.in_flight == 2
    first = outlet.commit("one")
    assert isinstance(first, Advance)
    assert (first.fence, first.now, first.rows) == (FENCE, 5, (row(1, "a"),))
    assert (outcomes, port.in_flight) == (["one"], 1)
    assert isinstance(outlet.commit("two"), Release)
    assert (outcomes, port.in_flight) == (["one", "two"], 0)


def test_a_row_makes_a_suspended_run_running_once() -> None:
    port, outlet = make(S.SUSPENDED)
    for name in ("a", "b"):
        port.advance(lambda _: None, rows=(row(1, name),), now=0)
    assert [outlet.commit().status, outlet.commit().status] == [S.RUNNING, None]
    assert port.status is S.RUNNING


def test_what_is_no_row_leaves_the_status_alone() -> None:
    port, outlet = make(S.SUSPENDED)
    port.advance(lambda _: None, published=(("a", "1"),), now=0)
    assert outlet.commit().status is None
    assert port.status is S.SUSPENDED


@pytest.mark.parametrize("status", [S.RUNNING, S.COMPENSATING])
def test_a_row_leaves_other_statuses_alone(status: RunStatus) -> None:
    port, outlet = make(status)
    port.advance(lambda _: None, rows=(row(1, "a"),), now=0)
    assert outlet.commit().status is None
    assert port.status is status


def test_a_status_that_is_given_is_sent_and_remembered() -> None:
    port, outlet = make()
    port.advance(lambda _: None, status=S.COMPENSATING, now=0)
    assert outlet.commit().status is S.COMPENSATING
    assert (port.status, port.next_status) == (S.COMPENSATING, None)


def test_a_row_that_was_committed_elsewhere_counts_too() -> None:
    port, _ = make(S.SUSPENDED)
    assert port.next_status is S.RUNNING
    port.recorded()
    assert port.status == S.RUNNING
    assert port.next_status is None


def test_a_rider_goes_with_the_next_commit_before_its_rows_and_once() -> None:
    port, outlet = make()
    port.ride(row(1, "rider"))
    assert outlet.waiting == []
    port.advance(lambda _: None, rows=(row(2, "a"),), now=0)
    port.advance(lambda _: None, rows=(row(3, "b"),), now=0)
    assert [item.seq for item in outlet.commit().rows] == [1, 2]
    assert [item.seq for item in outlet.commit().rows] == [3]


def test_a_transaction_is_counted_and_a_rider_goes_before_it() -> None:
    port, outlet = make()
    outcomes: list[Any] = []
    port.ride(row(1, "rider"))
    port.transaction(lambda _: Advance(fence=FENCE, rows=(row(2, "t"),), now=0), outcomes.append, seconds_max=1.0)
    assert outlet.rows == ["rider#0", "t#0"]
    assert port.in_flight == 2
    outlet.commit()
    outlet.commit("done")
    assert (outcomes, port.in_flight) == (["done"], 0)


def test_once_cut_nothing_goes_out_and_nothing_comes_back() -> None:
    port, outlet = make()
    port.advance(nothing, rows=(row(1, "a"),), now=0)
    port.cut()
    outlet.commit()
    assert port.in_flight == 0
    port.advance(nothing, rows=(row(2, "b"),), now=0)
    port.submit(Release(fence=FENCE, status=S.SUSPENDED, wake_at=None), nothing)
    port.transaction(lambda _: Advance(fence=FENCE, now=0), nothing, seconds_max=1.0)
    assert (outlet.waiting, port.in_flight) == ([], 0)
