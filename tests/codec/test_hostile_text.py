"""Any text is read, or refused by a typed error, in bounded time."""

from __future__ import annotations

import time as clock
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import (
    Any,
    Literal,
)
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_trio.codec import ANY_SCALARS, UNANNOTATED, parse
from durable_trio.errors import CodecError
from tests.codec.codec_examples import (
    CODEC,
    Bits,
    Card,
    Cash,
    Color,
    Crate,
    Level,
    Line,
    Movie,
    Seeded,
    Transfer,
    Tree,
    check,
    jsons,
    scalars,
    unreadable,
)


@pytest.mark.parametrize(
    ("text", "annotation"),
    [
        ("", UNANNOTATED),
        ("{", UNANNOTATED),
        ("NaN", UNANNOTATED),
        ("[1,]", UNANNOTATED),
        ("1e999", UNANNOTATED),
        ('"\\ud800"', str),
        ('"\ud800"', str),
        ("123456789012345678901234567890", UNANNOTATED),
        ("9" * 100_000, UNANNOTATED),
        ('{"$int":"' + "9" * 1_000_000 + '"}', int),
        ('{"$int":"1_0"}', int),
        ('{"$int":1}', int),
        ('{"$int":"1","x":1}', int),
        ('{"$float":"1e5"}', float),
        ('{"$float":"infinity"}', UNANNOTATED),
        ('{"$pickle":"x"}', UNANNOTATED),
        ('{"$dict":1}', UNANNOTATED),
        ('{"$dict":{},"a":1}', dict[str, int]),
        ('{"a":1,"a":2}', UNANNOTATED),
        ('{"a":{"b":1,"b":2}}', dict[str, dict[str, int]]),
        ("[1,1]", set[int]),
        ("[[]]", set[Any]),
        ('{"1":1,"01":2}', dict[int, int]),
        ('{"x":1}', dict[int, int]),
        ("[" * 100_000, UNANNOTATED),
        ("[" * 100_000 + "]" * 100_000, UNANNOTATED),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, dict[str, Any]),
        ('{"value":1,"left":' * 1000 + "null" + "}" * 1000, Tree),
        ("[{" * 60 + "}]" * 60, UNANNOTATED),
        ("[" * 101 + "]" * 101, UNANNOTATED),
        ('{"number":"1","limit":"0","more":1}', Card),
        ('{"limit":"0"}', Card),
        ('{"number":1}', Card),
        ('{"number":"1","limit":"x"}', Card),
        ("[]", Card),
        ('{"$type":"Cash","number":"1"}', Card),
        ('{"$type":"Card","value":{"number":"1"}}', Card),
        ('{"$type":["Card"],"number":"1"}', Card),
        ('{"$type":"os.system","value":"x"}', Card | Cash),
        ('{"$type":["Card"],"number":"1"}', Card | Cash),
        ('{"$type":"bytes"}', str | bytes),
        ('{"$type":"bytes","value":"eA==","x":1}', str | bytes),
        ('{"number":"1"}', Card | Cash),
        ("1.5", Level | str | None),
        ("1", bool),
        ("true", int),
        ("1.0", int),
        ("true", float),
        ('"1"', float),
        ('{"$int":"x"}', float),
        ("null", str),
        ("1.0", Level),
        ("3", Level),
        ("99", Bits),
        ('"green"', Color),
        ("{}", Color),
        ("true", Literal[1]),
        ('"é"', bytes),
        ('"eA"', bytes),
        ('"P1D"', timedelta),
        ('"P999999999999DT0S"', timedelta),
        ('"0000-01-01"', date),
        ('"2024-01-01T00:00:00+00:00[../../etc/passwd]"', datetime),
        ('"2024-01-01T00:00:00+00:00[No/Where]"', datetime),
        ('"x"', UUID),
        ('"x"', Decimal),
        ("[1]", tuple[int, int]),
        ('{"title":"x","y":1}', Movie),
        ('{"seed":1}', Seeded),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "backslashreplace").decode(),
)
def test_hostile_text_is_a_typed_error_in_bounded_time(text: str, annotation: Any) -> None:
    started = clock.process_time()

    error = unreadable(text, annotation)

    assert clock.process_time() - started < 2
    assert len(str(error)) < 2000
    str(error).encode()


@settings(max_examples=200, deadline=None)
@given(
    jsons.map(lambda value: CODEC.encode(value, UNANNOTATED, where="x").text) | st.text(max_size=30),
    st.sampled_from(
        [*scalars, Tree, Line, Card | Cash, dict[int, str], ANY_SCALARS, Crate[int], Movie, list[set[int]]]
    ),
)
def test_any_text_is_read_or_refused_by_a_typed_error(text: str, annotation: Any) -> None:
    try:
        value = CODEC.decode(text, annotation, where="x")
    except CodecError:
        return
    check(value, annotation)


def test_a_class_that_has_grown_a_default_reads_yesterdays_payload() -> None:
    assert CODEC.decode('{"number":"1"}', Card, where="x") == Card("1")


def test_a_union_reads_what_was_written_for_one_member_if_the_fields_leave_no_doubt() -> None:
    text = CODEC.encode(Transfer("DE"), Transfer, where="x").text

    assert CODEC.decode(text, Card | Transfer, where="x") == Transfer("DE")


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    check(['[{"\\' * 500], UNANNOTATED)
    check({"[" * 500: "\\"}, dict[str, str])


def test_parse_shows_the_text_as_it_stands() -> None:
    assert parse('{"$type":"Card","number":"1"}', where="x") == {"$type": "Card", "number": "1"}
