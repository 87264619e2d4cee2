"""The pure rules: restart types, groups, the sliding window, automatic shutdown, backoff."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors import AutoShutdown, Backoff, Intensity, Restart, Strategy
from supervisors.rules import count_restart, delay_seconds, is_restarted, is_shutdown_due, next_attempt, restart_group

names = st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=8, unique=True)
ascending = st.lists(st.integers(0, 60), max_size=40).map(sorted)


@pytest.mark.parametrize(
    ("restart", "after_crash", "after_return"),
    [(Restart.PERMANENT, True, True), (Restart.TRANSIENT, True, False), (Restart.TEMPORARY, False, False)],
)
def test_restart_types(restart: Restart, after_crash: bool, after_return: bool) -> None:
    assert is_restarted(restart, is_crash=True) is after_crash
    assert is_restarted(restart, is_crash=False) is after_return


@given(names, st.data())
def test_one_for_one_restarts_that_child_alone(all_names: list[str], data: st.DataObject) -> None:
    ended = data.draw(st.sampled_from(all_names))
    assert list(restart_group(Strategy.ONE_FOR_ONE, all_names, ended)) == [ended]


@given(names, st.data())
def test_one_for_all_restarts_all_in_starting_order(all_names: list[str], data: st.DataObject) -> None:
    ended = data.draw(st.sampled_from(all_names))
    assert list(restart_group(Strategy.ONE_FOR_ALL, all_names, ended)) == all_names


@given(names, st.data())
def test_rest_for_one_restarts_that_child_and_those_after_it(all_names: list[str], data: st.DataObject) -> None:
    ended = data.draw(st.sampled_from(all_names))
    group = list(restart_group(Strategy.REST_FOR_ONE, all_names, ended))
    assert group[0] == ended
    assert all_names[: len(all_names) - len(group)] + group == all_names


@given(st.integers(0, 5), st.integers(1, 10), ascending)
def test_the_window_refuses_exactly_when_more_than_the_allowed_restarts_lie_in_it(
    restarts: int, per: int, times: list[int]
) -> None:
    """Against the definition: a restart is allowed while at most `restarts` (with it) are within the last `per` s."""
    intensity = Intensity(restarts, per=per)
    kept: tuple[float, ...] = ()
    for place, now in enumerate(times):
        in_window_count = sum(now - earlier <= per for earlier in times[: place + 1])
        counted = count_restart(intensity, kept, now)
        assert (counted is None) == (in_window_count > restarts)
        if counted is None:
            return
        kept = counted
        assert len(kept) == in_window_count


def test_three_restarts_in_five_seconds_are_allowed_and_a_fourth_is_not() -> None:
    intensity = Intensity(3, per=5)
    counted = count_restart(intensity, (0.0, 1.0), 2.0)
    assert counted == (0.0, 1.0, 2.0)
    assert count_restart(intensity, counted, 5.0) is None
    assert count_restart(intensity, counted, 5.1) == (1.0, 2.0, 5.1)


@pytest.mark.parametrize(
    ("auto_shutdown", "is_significant", "others_alive_count", "is_due"),
    [
        (AutoShutdown.NEVER, True, 0, False),
        (AutoShutdown.ANY_SIGNIFICANT, True, 3, True),
        (AutoShutdown.ANY_SIGNIFICANT, False, 0, False),
        (AutoShutdown.ALL_SIGNIFICANT, True, 1, False),
        (AutoShutdown.ALL_SIGNIFICANT, True, 0, True),
        (AutoShutdown.ALL_SIGNIFICANT, False, 0, False),
    ],
)
def test_automatic_shutdown(
    auto_shutdown: AutoShutdown, is_significant: bool, others_alive_count: int, is_due: bool
) -> None:
    due = is_shutdown_due(auto_shutdown, is_significant=is_significant, others_alive_count=others_alive_count)
    assert due is is_due


def test_a_child_without_backoff_is_restarted_at_once() -> None:
    assert delay_seconds(None, 7, 0.5) == 0


def test_backoff_doubles_up_to_the_longest() -> None:
    backoff = Backoff(first=1, factor=2, longest=10, jitter=0)
    assert [delay_seconds(backoff, attempt, 0.9) for attempt in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 10]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.floats(0, 100))
def test_jitter_takes_off_at_most_its_part_and_no_attempt_is_too_many(
    attempt: int, sample: float, jitter: float, first: float
) -> None:
    backoff = Backoff(first=first, longest=100, jitter=jitter)
    full = delay_seconds(backoff, attempt, 0.0)
    assert full <= 100
    assert full * (1 - jitter) <= delay_seconds(backoff, attempt, sample) <= full


def test_attempts_start_over_after_a_long_enough_time_of_being_ready() -> None:
    backoff = Backoff(reset_after=60)
    assert next_attempt(backoff, 4, 59.9) == 5
    assert next_attempt(backoff, 4, 60) == 1
    assert next_attempt(None, 4, 1e9) == 5
