"""Values come back from the codec the same, in type and content at every level."""

from __future__ import annotations

import math
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from inspect import Parameter
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Union,
)
from uuid import UUID

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_trio import CodecError
from durable_trio.codec import ANY_SCALARS, UNANNOTATED
from tests.codec.codec_examples import (
    BERLIN,
    CODEC,
    BaseThing,
    Box,
    Card,
    Cash,
    Crate,
    DerivedThing,
    Forest,
    Level,
    Line,
    Movie,
    Pair,
    Point,
    Transfer,
    Tree,
    annotated,
    check,
    hashables,
    jsons,
    scalars,
    texts,
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_value_of_any_supported_annotation_comes_back_the_same(data: st.DataObject) -> None:
    annotation, values = data.draw(annotated())
    value = data.draw(values)
    check(value, annotation)


@settings(max_examples=200, deadline=None)
@given(jsons)
def test_a_json_value_without_annotation_comes_back_the_same(value: Any) -> None:
    check(value, UNANNOTATED)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.one_of(
            *(scalars[t] for t in (bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, Path))
        ),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(texts, inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_a_value_of_the_standard_librarys_types_needs_no_annotation_where_all_are_allowed(value: Any) -> None:
    check(value, ANY_SCALARS)


@pytest.mark.parametrize("annotation", list(scalars), ids=str)
def test_each_scalar_comes_back_alone_in_a_union_and_as_a_key(annotation: Any) -> None:
    @settings(max_examples=12, deadline=None)
    @given(scalars[annotation])
    def examine(value: Any) -> None:
        check(value, annotation)
        check([value, None, "x"], list[Union[annotation, str, None]])  # noqa: UP007
        check((value,), tuple[annotation, ...])
        if annotation in hashables:
            check({value: 1}, dict[annotation, int])
            check({value: 1, "1": 2}, dict[Union[annotation, str], int])  # noqa: UP007

    examine()


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        (Card("4111", Decimal("9.90")), Card, '{"number":"4111","limit":"9.90"}'),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), datetime, '"2024-05-01T12:00:00+00:00"'),
        (datetime(2024, 5, 1, 12, tzinfo=BERLIN), datetime, '"2024-05-01T12:00:00+02:00[Europe/Berlin]"'),
        (datetime(2024, 10, 27, 2, 30, fold=1), datetime, '"2024-10-27T02:30:00[fold=1]"'),
        (timedelta(days=-1, milliseconds=-500), timedelta, '"-P1DT0.500000S"'),
        (b"abc", bytes, '"YWJj"'),
        ({3, 1, 2}, set[int], "[1,2,3]"),
        ({1: "a", 2: "b"}, dict[int, str], '{"1":"a","2":"b"}'),
        (Pair("a", b"abc"), Pair, '{"name":"a","value":"YWJj"}'),
        (Card("1"), Card | Transfer, '{"$type":"Card","number":"1","limit":"0"}'),
        (Card("1"), Card | None, '{"number":"1","limit":"0"}'),
        ("x", str | bytes, '"x"'),
        (b"x", str | bytes, '{"$type":"bytes","value":"eA=="}'),
        ([1], Sequence[int], "[1]"),
        (math.inf, float, '{"$float":"inf"}'),
        (3, float, "3"),  # to type checkers an int is a float; it comes back as what it was
        (3.0, float, "3.0"),
        (2**64, float, '{"$int":"18446744073709551616"}'),
        ([1, 2.5], list[float], "[1,2.5]"),
        ([3, 3.0, None], list[float | None], "[3,3.0,null]"),
        ([3, 3.0], list[int | float], "[3,3.0]"),
        ([Level.LOW, 3.0], list[float | Level], "[1,3.0]"),  # an int alone would be taken for a level
        (2**64, UNANNOTATED, '{"$int":"18446744073709551616"}'),
        ({"$int": "1"}, UNANNOTATED, '{"$dict":{"$int":"1"}}'),
        (-0.0, UNANNOTATED, "-0.0"),
        ({"b": 1, "a": 2}, UNANNOTATED, '{"b":1,"a":2}'),
    ],
    ids=str,
)
def test_the_stored_text_is_readable(value: Any, annotation: Any, text: str) -> None:
    assert check(value, annotation) == text


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Line("a", 2, [Line("b")]), Line),
        (Transfer("DE", 4, date(2024, 1, 1)), Transfer),
        (Crate([1], [[2]], 3), Crate[int]),
        (Box({"a": [1]}), Box),
        (Box(Card("1")), Box[Card | Transfer]),
        (Tree(1, Tree(2), Tree(3, None, Tree(4))), Tree),
        (
            Forest(1, "c", {4: Forest(5)}, (Forest(6),), [1], value={"a": None}, attrs=(Forest(2, attrs=[Forest(3)]),)),
            Forest,
        ),
        (DerivedThing(1, 2), BaseThing | DerivedThing),
        (Cash("1"), Card | Cash),
        ({"title": "x"}, Movie),
        ({"year": 1, "title": "x"}, Movie),
        ((1, 2), Sequence[int]),
        ([1, 2], Iterable[int]),
        ({"a": (1,)}, Mapping[str, Sequence[int]]),
        (frozenset({1}), AbstractSet[int]),
        ((), tuple[()]),
        ([[1], ["a"]], list[list[int] | list[str]]),
        ([1, 1.0, True, "1", None, Decimal(1)], list[int | float | bool | str | Decimal | None]),
        ([date(2024, 1, 1), datetime(2024, 1, 1), time(1)], list[date | datetime | time]),
        ({"a": {"$type": "Card", "number": "1"}}, dict[str, Card | dict[str, str]]),
        ({(1, "a"): {Level.LOW: b"x"}}, dict[tuple[int, str], dict[Level, bytes]]),
        ({True: 1, "true": 2}, dict[bool | str, int]),
        ({1: 2, 1.5: 3.5}, dict[float, float]),
        ([{1, 2.5}, (1, 2.0)], list[set[float] | tuple[float, float]]),
        (Point(1, 2.0), Point),
        ({1: 1, "a": {"$x": math.nan}}, dict[int | str, Any]),
        (datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN), datetime),  # an hour that the clocks leave out
        (datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1), datetime),
        ([1, "x", None], typing.List[Any]),  # noqa: UP006
        (None, None),
        (1, Annotated[int, []]),
        ([1], list[Annotated[int, []]]),
        ([None], object),
        ([None], Parameter.empty),
    ],
    ids=str,
)
def test_nested_and_generic_values_come_back_the_same(value: Any, annotation: Any) -> None:
    check(value, annotation)


def test_fields_that_init_does_not_take_are_kept() -> None:
    line = Line("a")
    line.seen = 7

    check(line, Line)


def test_what_encode_gives_back_is_a_fresh_object() -> None:
    value = {"a": [1]}

    again = CODEC.encode(value, dict[str, list[int]], where="x").value

    assert again == value
    assert again is not value
    assert again["a"] is not value["a"]


def test_the_recorded_instant_counts_when_a_zone_has_changed_its_rules() -> None:
    value = CODEC.decode('"2024-05-01T12:00:00+01:00[Europe/Berlin]"', datetime, where="x")

    assert value == datetime(2024, 5, 1, 11, tzinfo=UTC)
    assert value.tzinfo is BERLIN


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is new in Python 3.12")
def test_aliases_also_recursive_ones_are_seen_through() -> None:
    names: dict[str, Any] = {}
    exec("type Json = int | str | list[Json]\ntype Twice[X] = tuple[X, X]", names)

    check([1, ["a", [2]]], names["Json"])
    check((1, 2), names["Twice"][int])


def test_a_member_of_a_union_may_be_named_by_who_has_no_classes() -> None:
    """As a shell does: what is given without an annotation is stored as an ordinary dict."""

    @attrs.frozen
    class Cash:
        pass

    @attrs.frozen
    class Card:
        number: int

    for value, plain in [(Cash(), {"$type": "Cash"}), (Card(7), {"$type": "Card", "number": 7})]:
        text = CODEC.encode(plain, UNANNOTATED, where="x").text
        assert CODEC.decode(text, Cash | Card, where="x") == value
        assert CODEC.decode(text, list[Cash | Card] | Cash | Card, where="x") == value
        assert CODEC.decode(text, UNANNOTATED, where="x") == plain
        assert CODEC.decode(text, dict[str, Any] | Card, where="x") == plain  # a dict of the user's stays one
    text = CODEC.encode({"$type": "Gold"}, UNANNOTATED, where="x").text
    with pytest.raises(CodecError) as refused:
        CODEC.decode(text, Cash | Card, where="x")
    assert "Gold" in str(refused.value)
