"""Text in cells, tables, durations: the pure parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_trio.cli.runs_table import in_hand_text
from durable_trio.cli.screen import Screen
from durable_trio.cli.table import Column, table
from durable_trio.cli.text import compact, cut, first_line, pad, visible, width_of
from durable_trio.cli.times import duration_text, instant_text, read_seconds, read_when
from durable_trio.records import StepInHand
from durable_trio.views.values import iso

NOW = datetime(2026, 3, 12, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "cells"),
    [("", 0), ("abc", 3), ("値段", 4), ("e\u0301", 1), ("ａ", 2), ("🙂", 2), ("ﾊ", 1), ("a\u200db", 2)],
)
def test_width_counts_cells_not_characters(text: str, cells: int) -> None:
    assert width_of(text) == cells


@given(st.text(max_size=30), st.integers(0, 20))
def test_a_cut_text_fits_and_a_padded_one_fits_exactly(text: str, cells: int) -> None:
    assert width_of(cut(text, cells)) <= cells
    assert width_of(pad(text, cells)) == cells
    assert width_of(pad(text, cells, right=True)) == cells


def test_what_is_cut_ends_with_an_ellipsis_and_wide_characters_are_not_halved() -> None:
    assert cut("値段表", 4) == "値…"
    assert cut("値段", 4) == "値段"
    assert cut("order", 4) == "ord…"
    assert cut("order", 0) == ""


def test_nothing_unseen_is_in_a_value() -> None:
    assert compact({"k": "\x9b31m\u2066"}) == '{"k": "\\x9b31m\\u2066"}'


def test_values_that_json_has_not_are_written_with_their_tag() -> None:
    assert compact([float("inf"), {"x": float("nan")}, 1.5]) == '[{"$float": "inf"}, {"x": {"$float": "nan"}}, 1.5]'


def test_only_the_first_line_is_shown_and_that_there_are_more() -> None:
    assert first_line("\n  out of stock\nnext week") == "out of stock …"
    assert first_line("one\n\n") == "one"
    assert first_line("") == ""


# ---- tables --------------------------------------------------------------------------------------------------------

COLUMNS = (Column(title="RUN", width_min=6), Column(title="N", width_min=1, drop_cost=1), Column(title="NOTE"))


@given(
    st.lists(st.tuples(st.text(max_size=12), st.text(max_size=6), st.text(max_size=40)), min_size=1, max_size=4),
    st.integers(14, 60),
)
def test_no_line_of_a_table_is_wider_than_the_screen(rows: list[tuple[str, str, str]], width: int) -> None:
    cleaned = [tuple(map(visible, row)) for row in rows]
    for line in table(COLUMNS, cleaned, Screen(width=width)):
        assert width_of(click.unstyle(line)) <= width


def test_columns_that_are_empty_are_left_out_and_others_where_room_is_short() -> None:
    rows = [("order-7", "12", ""), ("x", "3", "")]
    assert list(map(click.unstyle, table(COLUMNS, rows, Screen(width=20)))) == [
        "RUN      N",
        "order-7  12",
        "x        3",
    ]
    assert list(map(click.unstyle, table(COLUMNS, rows, Screen(width=8)))) == ["RUN", "order-7", "x"]


def test_where_nothing_is_to_be_cut_nothing_is_cut() -> None:
    rows = [("r", "1", "x" * 300)]
    assert table(COLUMNS, rows, Screen(width=20, is_cut=False))[1].endswith("x" * 300)


# ---- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "<1 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m"),
        (61, "1 m 1 s"),
        (3599.9, "1 h"),
        (3660, "1 h 1 m"),
        (86_399, "1 d"),
        (90_000, "1 d 1 h"),
        (86_400 * 400 + 3600, "400 d"),
        (-5, "<1 ms"),
    ],
)
def test_durations_are_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.floats(0, 1e12))
def test_every_duration_has_a_text_that_fits_its_column(seconds: float) -> None:
    if seconds < 86_400 * 9_999:
        assert len(duration_text(seconds)) <= 9


def test_an_instant_is_short_for_people_and_exact_for_programs() -> None:
    assert instant_text(NOW - timedelta(days=2), NOW)[:6] == "Mar 10"
    assert instant_text(NOW - timedelta(days=700), NOW) == "2024-04-11"
    assert iso(NOW) == "2026-03-12T12:00:00.000000Z"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5h", 5400), ("2d 3h", 183_600), ("15M", 900), ("250ms", 0.25), ("1w", 604_800)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5y", "-1", "nan", "inf", "1h x", "d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        read_seconds(text)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("1d 12h", NOW - timedelta(hours=36)),
        ("2026-03-01T10:00Z", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01T10:00+02:00", datetime(2026, 3, 1, 8, tzinfo=UTC)),
    ],
)
def test_times_and_ages_are_read(text: str, instant: datetime) -> None:
    assert read_when(text, NOW) == instant


def test_a_time_without_zone_is_local() -> None:
    assert read_when("2026-03-01", NOW) == datetime(2026, 3, 1).astimezone(UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "7", "2026", "2026-13-01", "99999999999d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        read_when(text, NOW)


def test_a_step_in_hand_says_where_it_is_and_how_old_that_may_be() -> None:
    step = StepInHand(run_id="r", key="charge#0", started_at=NOW, pid=7, thread=8)
    since = f"charge#0, since {instant_text(NOW, NOW)}"
    reported = attrs.evolve(step, is_reported=True)
    assert in_hand_text(step, NOW) == f"{since}, in process 7, thread 8"
    assert in_hand_text(reported, NOW) == f"{since}, in process 7, thread 8 (at most a second old)"
    assert in_hand_text(attrs.evolve(step, is_alive=False), NOW) == f"{since}, when process 7 died"
    died = in_hand_text(attrs.evolve(reported, is_alive=False), NOW)
    assert died == f"{since}, when process 7 died (up to a second before)"
