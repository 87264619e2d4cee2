"""Who is taken for dead: by what an observer has seen, whatever clocks and pauses there are."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_trio.clock import MICROSECONDS
from durable_trio.rules.liveness import (
    COUNTED_MAX,
    RENEWALS_OF_A_LEASE,
    Liveness,
    Silence,
    counted,
    judge,
    watched,
)

LEASES = st.integers(1000, 100 * MICROSECONDS)
LEASE = 30 * MICROSECONDS
DOUBT = MICROSECONDS
# Between two looks: mostly short, now and then the observer is stopped, or the store is away.
PAUSES = st.lists(st.one_of(st.integers(0, 300_000), st.integers(0, 10**10)), min_size=1, max_size=60)


def silence(looks: list[tuple[int, int]], lease: int) -> Silence:
    """Return what somebody knows who has looked at these instants, and seen these renewals."""
    known, before = None, 0
    for instant, renewals in looks:
        known = watched(known, renewals, passed=instant - before, lease=lease)
        before = instant
    assert known is not None
    return known


@pytest.mark.parametrize("is_locked", [True, False, None])
@pytest.mark.parametrize("seen_for", [None, 0, LEASE - 1, LEASE, 2 * LEASE])
def test_the_table(is_locked: bool | None, seen_for: int | None) -> None:
    found = judge(is_locked, None if seen_for is None else Silence(7, seen_for), lease=LEASE)
    if is_locked is False:
        assert found is Liveness.ENDED
    elif seen_for is None or seen_for < LEASE:
        assert found is Liveness.LIVES
    else:
        assert found is Liveness.SILENT


@pytest.mark.parametrize(("gone_for", "has_ended"), [(None, False), (0, False), (DOUBT - 1, False), (DOUBT, True)])
def test_who_may_come_back_has_ended_once_it_was_gone_for_as_long_as_there_is_doubt(
    gone_for: int | None, has_ended: bool
) -> None:
    found = judge(False, Silence(7, LEASE - 1, gone_for), lease=LEASE, doubt=DOUBT)
    assert found is (Liveness.ENDED if has_ended else Liveness.LIVES)


def test_of_a_short_lease_only_a_third_is_doubt() -> None:
    assert judge(False, Silence(7, 0, LEASE // 3), lease=LEASE, doubt=2 * LEASE) is Liveness.ENDED


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=20), st.integers(0, 300_000))
def test_only_what_was_seen_since_it_was_last_there_counts(looks: list[bool | None], pause: int) -> None:
    known = None
    for is_locked in looks:
        known = watched(known, 3, passed=pause, lease=LEASE, is_locked=is_locked)
    assert known is not None
    gone = len(looks) - max((number for number, each in enumerate(looks, 1) if each is not False), default=0)
    assert known.gone_for == ((gone - 1) * pause if gone else None)


@pytest.mark.parametrize("lease", [0, -1])
def test_a_lease_that_makes_no_sense_kills_nobody(lease: int) -> None:
    assert judge(True, Silence(0, 0), lease=lease) is Liveness.LIVES


@given(st.integers(-(10**12), 10**12), LEASES)
def test_of_one_pause_little_counts(passed: int, lease: int) -> None:
    assert 0 <= counted(passed, lease) <= min(COUNTED_MAX, lease // RENEWALS_OF_A_LEASE, max(0, passed))


@given(PAUSES, LEASES, st.integers(0, 5))
def test_who_is_seen_for_the_first_time_lives(pauses: list[int], lease: int, renewals: int) -> None:
    assert silence([(pauses[0], renewals)], lease) == Silence(renewals, 0)


@given(PAUSES, LEASES)
def test_what_was_seen_is_never_more_than_what_has_passed_since_the_last_renewal(pauses: list[int], lease: int) -> None:
    looks = list(accumulate(pauses))
    known = silence([(instant, 3) for instant in looks], lease)
    assert known.seen_for <= looks[-1] - looks[0]


@given(st.lists(st.integers(0, 300_000), max_size=40), st.integers(0, 10**12), LEASES)
def test_after_any_pause_there_is_a_third_of_a_lease_to_renew(steps: list[int], pause: int, lease: int) -> None:
    """In which the observer was stopped, and who is looked at with it, just before it was to renew."""
    third = lease // RENEWALS_OF_A_LEASE
    looks = [instant for instant in accumulate(steps, initial=0) if instant <= third]
    last = looks[-1] + pause
    looks += [last + instant for instant in accumulate(steps, initial=0) if instant < third]
    assert judge(True, silence([(instant, 3) for instant in looks], lease), lease=lease) is Liveness.LIVES


@given(LEASES, st.integers(1000, 300_000), st.integers(0, 9))
def test_who_does_not_renew_is_silent_after_its_lease_and_not_before(lease: int, pause: int, renewals: int) -> None:
    """Where it is looked at as often as observers do."""
    known, passed = Silence(renewals), 0
    pause = min(pause, max(1, lease // RENEWALS_OF_A_LEASE))
    for _ in range(min(-(-lease // pause), 2000)):
        if passed < lease:
            assert judge(True, known, lease=lease) is Liveness.LIVES
        known = watched(known, renewals, passed=pause, lease=lease)
        passed += pause
    assert passed < lease or judge(None, known, lease=lease) is Liveness.SILENT


@given(st.integers(0, 100), st.integers(0, 100), LEASES)
def test_any_other_number_is_a_renewal(before: int, after: int, lease: int) -> None:
    found = watched(Silence(before, lease), after, passed=lease, lease=lease)
    assert (found.seen_for == 0) is (before != after)
