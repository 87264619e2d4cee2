"""What would not come back the same is refused by name, in bounded time."""

from __future__ import annotations

import math
import time as clock
import typing
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path, PurePath
from typing import (
    Any,
    Literal,
)
from uuid import uuid4

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_trio import limits
from durable_trio.codec import ANY_SCALARS, UNANNOTATED, Codec
from durable_trio.codec.extent import room_left
from durable_trio.codec.faults import Fault, fault_of
from durable_trio.errors import PayloadTooLarge
from tests.codec.codec_examples import (
    CODEC,
    BaseThing,
    Card,
    Cash,
    Color,
    DerivedThing,
    Level,
    Line,
    Mode,
    Movie,
    Number,
    Pair,
    Point,
    Seeded,
    Text,
    Transfer,
    Tree,
    annotated,
    check,
    refusal,
)


def loop() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def tall_tree(depth: int) -> Tree:
    tree = Tree(0)
    for _ in range(depth):
        tree = Tree(0, tree)
    return tree


@pytest.mark.parametrize(
    ("value", "annotation", "path"),
    [
        ((1, 2), UNANNOTATED, ""),
        ({"a": [1, (2,)]}, UNANNOTATED, "['a'][1]"),
        ({1: 2}, UNANNOTATED, "[1]"),
        ({"a": b""}, Any, "['a']"),
        ({"a": {1}}, UNANNOTATED, "['a']"),
        (Color.RED, UNANNOTATED, ""),
        (Level.LOW, UNANNOTATED, ""),
        (Mode.FAST, UNANNOTATED, ""),
        (Card("1"), UNANNOTATED, ""),
        (Point(1.0, 2.0), UNANNOTATED, ""),
        (date(2024, 1, 1), UNANNOTATED, ""),
        (uuid4(), UNANNOTATED, ""),
        (Text("x"), UNANNOTATED, ""),
        ({"a": Number(1)}, UNANNOTATED, "['a']"),
        (OrderedDict(a=1), UNANNOTATED, ""),
        ([Pair("a")], UNANNOTATED, "[0]"),
        (lambda: None, UNANNOTATED, ""),
        (True, int, ""),
        (1, bool, ""),
        (True, float, ""),
        (Number(1), float, ""),
        (Decimal(1), float, ""),
        (1.0, int, ""),
        (Number(1), int, ""),
        (Text("x"), str, ""),
        ("x", bytes, ""),
        (b"x", str, ""),
        ([1], tuple[int, ...], ""),
        ((1,), list[int], ""),
        ((1,), tuple[int, int], ""),
        ({1}, frozenset[int], ""),
        (defaultdict(int), dict[str, int], ""),
        (datetime(2024, 1, 1), date, ""),
        (date(2024, 1, 1), datetime, ""),
        (Decimal("nan"), Decimal, ""),
        (Path("x"), PurePath, ""),
        (Level.LOW, int, ""),
        (1, Level, ""),
        ("red", Color, ""),
        (True, Literal[1], ""),
        ("c", Literal["a", "b"], ""),
        (DerivedThing(1, 2), BaseThing, ""),
        ([Card("1"), Cash("1")], list[Card], "[1]"),
        (Line("a", 1, [Line("b", True)]), Line, ".parts[0].count"),
        ({"k": Transfer("x", "y")}, dict[str, Transfer], "['k']._secret"),  # type: ignore[arg-type]
        ({"year": 1}, Movie, ""),
        ({"title": "x", "more": 1}, Movie, ""),
        ({"title": "x", 1: 1}, Movie, ""),
        ({1.0}, set[int], "[0]"),
        ({math.nan}, set[float], ""),
        (Seeded(1), Seeded, ""),
        (1.5, int | str, ""),
        (Card("1"), Cash | Transfer, ""),
        (object(), object, ""),
        ("\ud800", str, ""),
        (["x", {"a": "\udfff"}], UNANNOTATED, "[1]['a']"),
        ({"\ud800": 1}, UNANNOTATED, "['\\ud800']"),
        (10**5000, int, ""),
        (loop(), UNANNOTATED, None),
        (nested(101), UNANNOTATED, None),
        (nested(100_000), UNANNOTATED, None),
        (tall_tree(101), Tree, None),
        (tall_tree(100_000), Tree, None),
        (1, complex, ""),
        (1, list[complex], ""),
        (1, "Card", ""),
        (1, typing.Callable[[], int], ""),
    ],
    ids=lambda value: type(value).__name__,  # some of them have no repr
)
def test_what_would_come_back_changed_is_refused_with_its_place(value: Any, annotation: Any, path: str | None) -> None:
    error = refusal(value, annotation)

    if path is not None:
        assert error.path == path


def test_the_error_names_step_place_and_type() -> None:
    error = refusal({"items": [{"price": (1,)}]}, UNANNOTATED)

    assert str(error).startswith("step 'pay#0': result['items'][0]['price']: tuple")


def test_an_annotation_that_failed_to_compile_fails_again() -> None:
    @attrs.define
    class Bad:
        me: list[Card]
        other: complex

    for _ in range(2):
        assert "complex" in str(refusal(Bad([], 1j), Bad))


def test_a_payload_over_the_limit_names_size_and_limit() -> None:
    codec = Codec(payload_bytes_max=100)

    assert codec.encode("x" * 98, str, where="w").value == "x" * 98
    for annotation in (str, UNANNOTATED):
        with pytest.raises(PayloadTooLarge, match=r"w has 101 bytes; at most 100"):
            codec.encode("é" * 49 + "x", annotation, where="w")


def test_the_deepest_payload_allowed_comes_back() -> None:
    check(nested(limits.PAYLOAD_DEPTH_MAX), UNANNOTATED)
    check(tall_tree(limits.PAYLOAD_DEPTH_MAX - 1), Tree)


def shared(make: Callable[[Any], Any]) -> Any:
    """Return a value that holds the same part twice, 45 times over: small in memory, endless as text."""
    value = make(make("x"))
    for _ in range(43):
        value = make(value)
    return value


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (shared(lambda part: [part, part]), UNANNOTATED),
        (shared(lambda part: {"a": part, "b": part}), UNANNOTATED),
        (shared(lambda part: (part, part)), UNANNOTATED),
        (shared(lambda part: [part, part]), list[Any]),
        (shared(lambda part: (part, part)), ANY_SCALARS),
        (shared(lambda part: frozenset({part, (part,)})), ANY_SCALARS),
        (Tree(0, *shared(lambda part: [Tree(0, *part)] * 2 if part != "x" else [None, None])), Tree),
        (["x" * 1_000_000] * 1_000_000, UNANNOTATED),
        ([{"x" * 1_000_000: 1}] * 1_000_000, list[dict[str, int]]),
        ({1: [b"x" * 1_000_000] * 1_000_000}, dict[int, list[bytes]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_shares_its_parts_without_end_is_too_large_in_bounded_time(value: Any, annotation: Any) -> None:
    codec = Codec(payload_bytes_max=100_000)
    started = clock.process_time()

    with pytest.raises(PayloadTooLarge, match="w has more than 200000 bytes; at most 100000"):
        codec.encode(value, annotation, where="w")
    with pytest.raises(PayloadTooLarge, match="w has more than 200000 bytes; at most 100000"):
        codec.encode_arguments([1, value], [int, annotation], where="w")
    with pytest.raises(Fault, match="longer than a payload"):
        codec.to_plain(value, annotation)

    assert clock.process_time() - started < 2


def test_what_shares_itself_below_the_depth_allowed_is_refused_for_its_depth() -> None:
    value: Any = shared(lambda part: [part, part])
    for _ in range(60):
        value = [value]
    me: list[Any] = []
    me += [me, me]

    for each, annotation in [(value, UNANNOTATED), (value, list[Any]), (me, UNANNOTATED), (me, list[Any])]:
        error = refusal(each, annotation)
        assert "nested deeper than 100 levels" in str(error)
        assert error.path.startswith("[0][0][0]")


async def forgotten() -> None:
    """Is not awaited."""


def test_a_class_that_is_not_converted_is_named_even_where_it_holds_itself() -> None:
    tree = Tree(0)
    tree.left = tree.right = tree

    assert "codec_examples.Tree is no JSON type" in str(refusal([tree]))
    coroutine = forgotten()
    assert "a coroutine (is an await missing?) is no JSON type" in str(refusal(coroutine))
    coroutine.close()
    assert "codec_examples.Tree is no Card" in str(refusal(tree, Card))
    assert "nested deeper than 100 levels" in str(refusal(tree, Tree))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_value_is_estimated_longer_than_its_text(data: st.DataObject) -> None:
    annotation, values = data.draw(annotated())
    value = data.draw(values)
    text = CODEC.encode(value, annotation, where="x").text

    assert room_left(value, len(text.encode())) >= 0


def test_what_a_values_own_code_has_raised_is_told_in_one_line() -> None:
    fault = fault_of(ValueError("1 validation error for Cart\nitem\n  Field required"), "Pydantic cannot convert it")
    assert fault.reason == "Pydantic cannot convert it: ValueError: 1 validation error for Cart item Field required"
