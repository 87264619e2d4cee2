"""Instants and durations: short and local for people, ISO in UTC for programs; and what people write."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["duration_text", "instant_text", "read_seconds", "read_when", "until_text"]

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
# Seconds, and the two units that a duration of that length is told in.
_LARGE: Final = (
    (86_400.0, "d", 3600.0, "h"),
    (3600.0, "h", 60.0, "m"),
    (60.0, "m", 1.0, "s"),
)
_YEAR_DAYS: Final = 365


def instant_text(instant: datetime, now: datetime) -> str:
    """Return an instant in local time: the time of today, day and time of this year, else the date."""
    local, today = instant.astimezone(), now.astimezone()
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    if abs(local - today) < timedelta(days=_YEAR_DAYS // 2) or local.year == today.year:
        return f"{local:%b} {local.day} {local:%H:%M}"
    return f"{local:%Y-%m-%d}"


def duration_text(seconds: float) -> str:
    """Return a duration in two units at most: ``3 ms``, ``1.5 s``, ``2 m 5 s``, ``400 d``."""
    if seconds < 0.0005:
        return "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    for size, unit, small, small_unit in _LARGE:
        if seconds >= size - small / 2:
            whole, rest = divmod(round(seconds / small), round(size / small))
            return f"{whole} {unit} {rest} {small_unit}" if rest and whole < 100 else f"{whole} {unit}"
    raise AssertionError(f"no unit for {seconds} seconds")


def until_text(instant: datetime, now: datetime) -> str:
    """Return ``in 5 m``, or ``now`` for what is due."""
    seconds = (instant - now).total_seconds()
    return f"in {duration_text(seconds)}" if seconds > 0 else "now"


def read_seconds(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``1.5h``, ``2d 3h``.

    Raises:
        ValueError: it is no duration.
    """
    text = text.strip().lower()
    try:
        seconds = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if not parts or _PART.sub("", text):
            raise ValueError(f"{text!r} is no duration; write for example 90, 15m, 36h or 7d") from None
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{text!r} is no duration; write for example 90, 15m, 36h or 7d")
    return seconds


def read_when(text: str, now: datetime) -> datetime:
    """Return the instant of an ISO date or time (local unless it names a zone), or of an age with a unit: ``7d``.

    Raises:
        ValueError: it is neither.
    """
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        if _PART.match(text.strip().lower()):  # a bare number could be a year
            return now - timedelta(seconds=read_seconds(text))
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"{text!r} is no time; write an age with its unit, such as 90s or 7d, or a time, such as 2026-03-01T12:00"
    )
