"""The rule of retries, for every policy: bounded, never above its cap, given up in time."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_trio import Retry
from durable_trio.rules.retry import delay_after

SECONDS = st.floats(0, 1e9)
CHANCES = st.floats(0, 1, exclude_max=True)
EXPONENTIAL = st.builds(
    Retry.exponential,
    st.integers(1, 10_000),
    initial_delay=SECONDS,
    multiplier=st.floats(1, 1e6),
    max_delay=SECONDS,
    jitter=st.floats(0, 1),
)
POLICIES = (
    EXPONENTIAL
    | st.builds(Retry.fixed, st.integers(1, 10_000), SECONDS)
    | st.builds(Retry.none, give_up_on=st.just(OSError))
)
ATTEMPTS = st.integers(1, 20_000)


@given(POLICIES, ATTEMPTS, CHANCES)
def test_it_gives_up_exactly_after_the_last_attempt(policy: Retry, attempt: int, chance: float) -> None:
    delay = delay_after(policy, attempt, OSError(), chance=chance)
    assert (delay is None) == (attempt >= policy.max_attempts)


@given(POLICIES, ATTEMPTS, CHANCES)
def test_a_delay_is_within_its_bounds(policy: Retry, attempt: int, chance: float) -> None:
    delay = delay_after(policy, attempt, OSError(), chance=chance)
    full = delay_after(policy, attempt, OSError(), chance=0)
    if delay is not None:
        assert full is not None
        assert 0 <= delay <= full <= policy.max_delay
        assert delay >= full * (1 - policy.jitter)


class Busy(Exception):
    def __init__(self, retry_after: object) -> None:
        self.retry_after = retry_after


class Shy(Exception):
    @property
    def retry_after(self) -> float:
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (Busy(7), 7.0),
        (Busy(7.5), 7.5),
        (Busy(timedelta(minutes=10)), 600.0),  # above max_delay
        (Busy(1), 2.0),  # a lower bound only
        (ExceptionGroup("", [OSError(), Busy(7), ExceptionGroup("", [Busy(9)])]), 9.0),
        *((Busy(wrong), 2.0) for wrong in (None, "7", True, -1, 0, math.nan, math.inf, 10**400, [7])),
        (Shy(), 2.0),
        (OSError(), 2.0),
    ],
)
def test_an_error_may_ask_for_a_longer_delay(error: Exception, delay: float) -> None:
    assert delay_after(Retry.exponential(3, 2, max_delay=60), 1, error, chance=0) == delay
    assert delay_after(Retry.none(), 1, error, chance=0) is None


def test_what_an_error_asks_for_is_not_shortened_by_jitter() -> None:
    assert delay_after(Retry.exponential(3, 2, jitter=1), 1, Busy(7), chance=0.9) == 7


def test_a_predicate_is_asked_last_and_decides() -> None:
    asked: list[Exception] = []

    def when(error: Exception) -> bool:
        asked.append(error)
        return "again" in str(error)

    policy = Retry.fixed(3, 1, on=(OSError, ValueError), give_up_on=ValueError, when=when)
    assert delay_after(policy, 1, OSError("again"), chance=0) == 1
    assert delay_after(policy, 1, OSError("no"), chance=0) is None
    assert len(asked) == 2
    assert delay_after(policy, 1, ValueError("again"), chance=0) is None
    assert delay_after(policy, 1, KeyError("again"), chance=0) is None
    assert delay_after(policy, 3, OSError("again"), chance=0) is None
    assert len(asked) == 2  # where something else decides, it is not asked


@pytest.mark.parametrize("wrong", [SystemExit(3), ValueError("oh")])
def test_a_predicate_that_raises_says_no_and_the_error_tells(wrong: BaseException) -> None:
    def when(error: Exception) -> bool:
        raise wrong

    error = OSError("x")
    assert delay_after(Retry.fixed(3, 1, when=when), 1, error, chance=0) is None
    assert type(wrong).__name__ in error.__notes__[0]


@given(EXPONENTIAL, st.integers(1, 5_000))
def test_full_delays_never_shrink(policy: Retry, attempt: int) -> None:
    delay = delay_after(policy, attempt, OSError(), chance=0)
    later = delay_after(policy, attempt + 1, OSError(), chance=0)
    if delay is not None and later is not None:
        assert delay <= later


@given(st.integers(2, 50), st.floats(0.001, 10), st.floats(1, 3), st.floats(0.001, 1000))
def test_each_delay_is_the_one_before_times_the_multiplier_up_to_the_cap(
    attempts: int, initial: float, multiplier: float, cap: float
) -> None:
    policy = Retry.exponential(attempts, initial, multiplier, cap)
    expected = initial
    for attempt in range(1, attempts):
        delay = delay_after(policy, attempt, OSError(), chance=0.5)
        assert delay is not None
        assert abs(delay - min(expected, cap)) <= 1e-9 * max(1.0, delay)
        expected = min(expected * multiplier, 1e300)


@given(st.integers(2, 100), CHANCES)
def test_only_errors_that_the_policy_names_are_tried_again(attempts: int, chance: float) -> None:
    policy = Retry.fixed(attempts, 1, on=(OSError, KeyError), give_up_on=(ConnectionError,))
    outcomes = {
        kind: delay_after(policy, 1, kind(), chance=chance)
        for kind in (OSError, FileNotFoundError, KeyError, ConnectionResetError, ValueError, LookupError)
    }
    tried = {OSError, FileNotFoundError, KeyError}
    assert {kind for kind, delay in outcomes.items() if delay is not None} == tried


def group(*errors: Exception) -> Exception:
    return ExceptionGroup("from a nursery", [ExceptionGroup("from another", errors)])


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (group(ConnectionError()), True),
        (group(ConnectionError(), ConnectionResetError()), True),
        (group(ConnectionError(), ValueError()), False),
        (group(ConnectionRefusedError()), False),
        (group(ConnectionRefusedError(), ConnectionError()), True),
    ],
)
def test_a_group_is_tried_again_as_what_it_holds_would_be_if_all_of_it_would(
    error: Exception, is_tried_again: bool
) -> None:
    policy = Retry.fixed(2, 1, on=ConnectionError, give_up_on=ConnectionRefusedError)
    assert (delay_after(policy, 1, error, chance=0) is not None) is is_tried_again


def test_a_group_named_as_such_is_among_the_errors_of_a_policy() -> None:
    error = group(ValueError())
    assert delay_after(Retry.fixed(2, 1, on=ExceptionGroup), 1, error, chance=0) == 1
    assert delay_after(Retry.fixed(2, 1, give_up_on=ExceptionGroup), 1, error, chance=0) is None
