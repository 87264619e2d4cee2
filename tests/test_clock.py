"""Instants and durations: what lies beyond a datetime is capped at every door, and whatever is stored can be shown."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_trio import Retry
from durable_trio.clock import (
    INSTANT_MAX,
    INSTANT_MIN,
    due_after,
    from_datetime,
    seconds_of,
    to_datetime,
    to_microseconds,
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
    assert to_microseconds(seconds) == INSTANT_MAX
    assert due_after(1_900_000_000_000_000, seconds) == INSTANT_MAX


@pytest.mark.parametrize("duration", [-math.inf, -1e308, -(10**400), timedelta.min, -0.0], ids=_short)
def test_a_duration_below_zero_is_due_at_once(duration: float | timedelta) -> None:
    assert due_after(7, seconds_of(duration)) == 7


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
