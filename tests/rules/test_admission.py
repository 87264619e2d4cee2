"""Executors that share a store take equal shares of what is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_trio.rules.admission import fair_share

counts = st.integers(0, 500)


def test_alone_an_executor_takes_all() -> None:
    assert fair_share(own_count=7, others_counts=[], due_count=40) == 40


def test_two_idle_executors_take_half_each_and_the_odd_one_is_taken_by_whoever_is_first() -> None:
    assert fair_share(own_count=0, others_counts=[0], due_count=40) == 20
    assert fair_share(own_count=0, others_counts=[0], due_count=1) == 1


def test_who_has_its_share_leaves_the_rest_to_others() -> None:
    assert fair_share(own_count=30, others_counts=[0, 0], due_count=20) == 0
    assert fair_share(own_count=0, others_counts=[30, 0], due_count=20) == 17


def test_nothing_due_is_nothing_to_take() -> None:
    assert fair_share(own_count=0, others_counts=[9], due_count=0) == 0


@given(own=counts, others=st.lists(counts, max_size=8), due=counts)
def test_a_share_is_never_more_than_is_due_and_never_makes_one_richer_than_the_equal_part(
    own: int, others: list[int], due: int
) -> None:
    share = fair_share(own_count=own, others_counts=others, due_count=due)
    assert 0 <= share <= due
    equal = -(-(own + sum(others) + due) // (len(others) + 1))
    assert share == 0 or own + share <= equal


@given(owned=st.lists(counts, min_size=1, max_size=8), due=st.integers(1, 500))
def test_somebody_always_takes_something_that_is_due(owned: list[int], due: int) -> None:
    shares = [
        fair_share(own_count=own, others_counts=[*owned[:place], *owned[place + 1 :]], due_count=due)
        for place, own in enumerate(owned)
    ]
    assert max(shares) >= 1
    assert sum(shares) >= due
