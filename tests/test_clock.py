"""The clock keeps due times over a wall clock that jumps; instants and durations beyond a datetime are capped."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_trio import Clock, Retry
from durable_trio.clock import (
    INSTANT_MAX,
    INSTANT_MIN,
    Due,
    due_after,
    from_datetime,
    microseconds_of,
    seconds_of,
    to_datetime,
)
from durable_trio.engine.settings import make_settings
from durable_trio.rules.retry import delay_after

_FAR_WEST, _FAR_EAST = timezone(-timedelta(hours=23, minutes=59)), timezone(timedelta(hours=23, minutes=59))
_ZONES: list[tzinfo] = [UTC, _FAR_WEST, _FAR_EAST, ZoneInfo("America/New_York"), ZoneInfo("Pacific/Kiritimati")]


@given(st.datetimes(timezones=st.sampled_from(_ZONES)), st.sampled_from(_ZONES))
def test_every_aware_datetime_becomes_an_instant_that_every_zone_can_show(when: datetime, zone: tzinfo) -> None:
    instant = from_datetime(when)
    assert INSTANT_MIN <= instant <= INSTANT_MAX
    shown = to_datetime(instant)
    shown.astimezone(zone)
    if INSTANT_MIN < instant < INSTANT_MAX:
        assert shown - when == timedelta(0)


@pytest.mark.parametrize("zone", _ZONES)
def test_the_ends_of_datetime_are_the_ends_of_time(zone: tzinfo) -> None:
    assert from_datetime(datetime.max.replace(tzinfo=zone)) == INSTANT_MAX
    assert from_datetime(datetime.min.replace(tzinfo=zone)) == INSTANT_MIN


def test_an_hour_that_comes_twice_is_told_apart_by_its_fold() -> None:
    twice = datetime(2030, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert from_datetime(twice.replace(fold=1)) - from_datetime(twice) == 3600 * 10**6


def _short(duration: object) -> str:
    return str(duration)[:12]


_ENDLESS = [math.inf, 1e308, 10**400, timedelta.max, INSTANT_MAX]


@pytest.mark.parametrize("duration", _ENDLESS, ids=_short)
def test_a_duration_without_end_is_due_at_the_end_of_time(duration: float | timedelta) -> None:
    seconds = seconds_of(duration)
    assert due_after(0, seconds) == microseconds_of(duration) == INSTANT_MAX
    assert due_after(1_900_000_000_000_000, seconds) == INSTANT_MAX


@pytest.mark.parametrize("duration", [-math.inf, -1e308, -(10**400), timedelta.min, -0.0], ids=_short)
def test_a_duration_below_zero_is_due_at_once(duration: float | timedelta) -> None:
    assert due_after(7, seconds_of(duration)) == 7
    assert microseconds_of(duration) == 0


@pytest.mark.parametrize("duration", _ENDLESS, ids=_short)
def test_an_engine_takes_a_time_without_end_where_it_only_waits(duration: float | timedelta) -> None:
    settings = make_settings({"grace_seconds": duration, "replay_stall_seconds": duration})
    assert math.isfinite(1.0 + settings.grace_seconds + settings.replay_stall_seconds)
    for name in ("lease_seconds", "heartbeat_seconds"):
        with pytest.raises(ValueError, match=name):
            make_settings({name: duration})


@pytest.mark.parametrize("duration", _ENDLESS, ids=_short)
def test_delays_without_end_are_delays(duration: float | timedelta) -> None:
    for policy in (Retry.fixed(9, duration), Retry.exponential(9, duration, 1e308, duration)):
        for attempt in (1, 2, 8):
            delay = delay_after(policy, attempt, OSError(), chance=0.5)
            assert delay is not None
            assert due_after(0, delay) == INSTANT_MAX


def test_a_delay_of_nothing_stays_nothing_however_often_it_is_multiplied() -> None:
    policy = Retry.exponential(10_000, 0, 1e300, 60)
    assert delay_after(policy, 9_000, OSError(), chance=0.0) == 0


def test_a_policy_made_by_hand_is_checked_as_well() -> None:
    assert Retry(max_attempts=2, initial_delay=timedelta(minutes=1)).initial_delay == 60
    with pytest.raises(ValueError, match="NaN"):
        Retry(initial_delay=math.nan)
    with pytest.raises(ValueError, match="NaN"):
        Retry(max_delay=math.nan)
    with pytest.raises(ValueError, match="multiplier"):
        Retry(multiplier=math.inf)


# ---- a wall clock that jumps -----------------------------------------------------------------------------------------


class Machine:
    """A machine whose wall clock somebody sets; all in microseconds. Its monotonic clock tells what has passed."""

    def __init__(self) -> None:
        self.wall = 1_900_000_000_000_000
        self.passed = 0

    def clock(self) -> Clock:
        """The clock of a process that is started now."""
        return Clock(wall=lambda: self.wall * 1000, monotonic=lambda: self.passed * 1000)


@attrs.frozen
class Timer:
    """What somebody waits for: the stored instants, what the process keeps in memory, and the truth."""

    stamped_at: int
    due_at: int
    in_memory: Due
    started: int
    duration: int
    wall_has_said_so: list[bool] = attrs.field(factory=list)


_SECOND = 10**6
_moves = st.one_of(
    st.tuples(st.just("pass"), st.integers(0, 7200 * _SECOND)),
    st.tuples(st.just("set"), st.integers(_SECOND // 10, 20 * 86_400 * _SECOND)),
    st.tuples(st.just("set"), st.integers(-20 * 86_400 * _SECOND, -_SECOND // 10)),
    st.tuples(st.just("set"), st.sampled_from([-2 * _SECOND, -_SECOND, _SECOND, 2 * _SECOND])),
    st.tuples(st.just("start"), st.integers(0, 20_000 * _SECOND)),
)


@given(st.lists(_moves, max_size=40))
def test_whatever_the_wall_clock_does_nothing_is_due_early_and_nothing_later_than_by_both_clocks(
    moves: list[tuple[str, int]],
) -> None:
    machine = Machine()
    clock = machine.clock()
    timers: list[Timer] = []
    last = clock.now()
    for move, amount in moves:
        if move == "pass":
            machine.passed += amount
            machine.wall += amount
        elif move == "set":
            machine.wall += amount
        else:
            stamp = clock.stamp()
            assert stamp == machine.wall
            due = clock.due(stamp + amount)
            timers.append(Timer(stamp, stamp + amount, due, machine.passed, amount))
        now = clock.now()
        assert now >= last
        assert now >= clock.stamp() == machine.wall
        last = now
        restarted = machine.clock()
        for timer in timers:
            has_passed = machine.passed - timer.started >= timer.duration
            is_over_by_the_wall = machine.wall >= timer.due_at
            kept = clock.comes_at(timer.in_memory) <= now
            stored = clock.comes_at(clock.due(timer.due_at, stamped_at=timer.stamped_at)) <= now
            assert kept <= (has_passed or is_over_by_the_wall)  # never early
            assert stored <= (has_passed or is_over_by_the_wall)
            if is_over_by_the_wall:
                assert kept
                assert stored
            if has_passed and clock.era - timer.in_memory.era <= 16:
                assert kept
            after = restarted.comes_at(restarted.due(timer.due_at, stamped_at=timer.stamped_at)) <= restarted.now()
            assert after == is_over_by_the_wall  # another process takes what is stored as it is written


@given(st.lists(st.integers(-_SECOND // 10 + 1, _SECOND // 10 - 1)))
def test_small_corrections_of_the_wall_clock_are_followed_and_never_back(corrections: list[int]) -> None:
    machine = Machine()
    clock = machine.clock()
    last = clock.now()
    for correction in corrections:
        machine.wall += correction
        now = clock.now()
        assert now == max(last, machine.wall)
        last = now


@pytest.mark.parametrize("jump", [-3600, 3600, -864_000, 864_000])
def test_a_wait_that_was_stored_just_before_a_step_comes_when_its_time_has_passed(jump: int) -> None:
    machine = Machine()
    clock = machine.clock()
    stamp = clock.stamp()
    machine.passed += _SECOND
    machine.wall += _SECOND
    clock.now()
    machine.wall += jump * _SECOND
    left = clock.comes_at(clock.due(stamp + 3 * _SECOND, stamped_at=stamp)) - clock.now()
    assert left == 2 * _SECOND if jump < 0 else left < 0


def test_a_wait_from_after_a_glitch_is_stored_as_the_wall_clock_shows_it() -> None:
    """Ten days forward, and back: a process that is started later sees the same due time."""
    machine = Machine()
    clock = machine.clock()
    for jump in (864_000, -864_000):
        machine.wall += jump * _SECOND
        clock.now()
    due = clock.due(clock.stamp() + 3 * _SECOND)
    assert clock.comes_at(due) - clock.now() == 3 * _SECOND
    restarted = machine.clock()
    assert restarted.comes_at(restarted.due(due.instant)) - restarted.now() == 3 * _SECOND
    assert clock.comes_at(due) - clock.ahead == due.instant


def test_two_steps_back_do_not_mix_up_what_was_stored_between_them() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall -= 3600 * _SECOND
    stamp = clock.stamp()
    machine.wall -= 3600 * _SECOND
    assert clock.comes_at(clock.due(stamp + _SECOND, stamped_at=stamp)) - clock.now() == _SECOND


def test_a_clock_of_ones_own_may_say_only_what_now_is() -> None:
    class Counting(Clock):
        def now(self) -> int:
            return 7

    clock = Counting()
    assert clock.stamp() == clock.now() == 7
    assert clock.comes_at(clock.due(9)) == 9


# ---- a database with a clock of its own ------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-90 * 1_000_000, 90 * 1_000_000])
def test_a_clock_follows_that_of_a_database_whatever_is_done_to_the_machines_own(off: int) -> None:
    machine = Machine()
    clock = machine.clock()
    theirs = machine.wall + off
    clock.follow(theirs, between=(machine.passed * 1000, machine.passed * 1000 + 20_000))
    assert clock.stamp() == clock.now() == theirs - 10  # between the two looks at the monotonic clock
    assert clock.era == 0  # it is no step of the wall clock
    due = clock.due(theirs + 1_000_000)
    machine.wall += 3_600_000_000
    assert clock.now() < theirs
    machine.passed += 500_000
    assert clock.stamp() == theirs + 499_990
    assert clock.comes_at(due) == theirs + 1_000_000


def test_a_clock_that_is_followed_may_be_corrected_and_now_never_goes_back() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.follow(machine.wall, between=(0, 0))
    machine.passed += 60_000_000
    clock.now()
    began = clock.now()
    clock.follow(began - 5_000, between=(machine.passed * 1000,) * 2)  # it goes a little slower than ours
    assert (clock.now(), clock.stamp(), clock.era) == (began, began - 5_000, 0)
    machine.passed += 10_000
    assert clock.now() == began + 5_000
    clock.follow(began - 7_200_000_000, between=(machine.passed * 1000,) * 2)  # somebody has set it
    assert clock.now() >= began + 5_000
    assert clock.stamp() == began - 7_200_000_000
    assert clock.era == 1
