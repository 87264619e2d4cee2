"""Values come back from the codec the same, in type and content at every level, or are refused by name."""

from __future__ import annotations

import enum
import json
import math
import operator
import sys
import time as clock
import typing
import zoneinfo
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from inspect import Parameter
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID, uuid4

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_trio import limits
from durable_trio.codec import ANY_SCALARS, UNANNOTATED, Codec, parse
from durable_trio.digest import is_same
from durable_trio.errors import CodecError, PayloadTooLarge

T = TypeVar("T")
CODEC = Codec()
UserId = NewType("UserId", int)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.StrEnum):
    FAST = "fast"


class Bits(enum.Flag):
    A = 1
    B = 2


class Shape(enum.Enum):
    POINT = (0, 0)
    LINE = (1, 2)


@attrs.frozen
class Card:
    number: str
    limit: Decimal = Decimal(0)


@attrs.define
class Transfer:
    iban: str
    _secret: int = 3
    due: date | None = None


@attrs.frozen
class Cash:
    number: str
    limit: Decimal = Decimal(0)


@dataclass
class Line:
    name: str
    count: int = 1
    parts: list[Line] = field(default_factory=list)
    seen: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float


@dataclass
class Seeded:
    seed: InitVar[int]
    value: int = 0


@attrs.define
class Box(Generic[T]):
    item: T
    more: list[T] = attrs.Factory(list)


@attrs.define
class Crate(Box[list[T]], Generic[T]):
    label: T = None  # type: ignore[assignment]


@attrs.define
class Tree:
    value: int
    left: Tree | None = None
    right: Tree | None = None


@attrs.define
class Forest:
    """Its fields have the names that generated code might use, and a type within itself behind an abstract one."""

    cl: int
    converter: str = ""
    instance: Mapping[int, Forest] = attrs.Factory(dict)
    res: tuple[Forest, ...] | None = None
    o: Any = None
    plain: Any = None
    value: Any = None
    type: bytes = b""
    attrs: Sequence[Forest] = ()


@attrs.define
class BaseThing:
    a: int


@attrs.define
class DerivedThing(BaseThing):
    b: int = 0


class Pair(NamedTuple):
    name: str
    value: bytes = b""


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Text(str):
    pass


class Number(int):
    pass


def check(value: Any, annotation: Any) -> str:
    """Encode and decode; both give back the same."""
    text, first = CODEC.encode(value, annotation, where="step 'pay#0': result")
    again = CODEC.decode(text, annotation, where="step 'pay#0': result")
    assert is_same(value, first), (value, first)
    assert is_same(value, again), (value, again)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return text


def refusal(value: Any, annotation: Any = UNANNOTATED) -> CodecError:
    with pytest.raises(CodecError) as caught:
        CODEC.encode(value, annotation, where="step 'pay#0': result")
    assert str(caught.value).startswith("step 'pay#0': result")
    assert caught.value.where == "step 'pay#0': result"
    str(caught.value).encode()  # an error's text can be stored
    return caught.value


def unreadable(text: str, annotation: Any = UNANNOTATED) -> CodecError:
    with pytest.raises(CodecError) as caught:
        CODEC.decode(text, annotation, where="step 'pay#0': result")
    return caught.value


# ---- round trips -------------------------------------------------------------------------------------------------

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["$int", "$type", "$"]
)
floats = st.floats() | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324])
integers = st.integers() | st.integers(-(2**70), 2**70) | st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**4000])
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-3, seconds=7)), BERLIN, zoneinfo.ZoneInfo("UTC")])
datetimes = st.datetimes(timezones=zones, allow_imaginary=True)
times = st.times(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=5)), BERLIN]))
decimals = st.decimals(allow_nan=False) | st.sampled_from(
    [Decimal("1.00"), Decimal("-0"), Decimal("1E+999"), Decimal("inf")]
)
jsons = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
scalars: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: integers,
    float: floats,
    str: texts,
    bytes: st.binary(max_size=20),
    datetime: datetimes,
    time: times,
    date: st.dates(),
    timedelta: st.timedeltas(),
    Decimal: decimals,
    UUID: st.uuids(),
    Path: texts.map(Path),
    PurePosixPath: texts.map(PurePosixPath),
    PureWindowsPath: texts.map(PureWindowsPath),
    Color: st.sampled_from(Color),
    Level: st.sampled_from(Level),
    Mode: st.sampled_from(Mode),
    Bits: st.sampled_from([Bits(0), Bits.A, Bits.A | Bits.B]),
    Shape: st.sampled_from(Shape),
    UserId: integers,
    Literal["a", 1, True, None, b"x", Color.RED]: st.sampled_from(["a", 1, True, None, b"x", Color.RED]),
    Card: st.builds(Card, texts, decimals),
    Point: st.builds(Point, floats, floats),
    Pair: st.builds(Pair, texts, st.binary(max_size=5)),
    Annotated[int, "a note"]: integers,
}
# What is equal to itself and can be an item of a set.
hashables = {t: s for t, s in scalars.items() if t not in (float, Point)}


of: Any = operator.getitem  # of(list, int) is list[int], for types that are drawn


@st.composite
def annotated(draw: st.DrawFn, depth: int = 2) -> Any:
    """Draw an annotation and a strategy for its values."""
    kinds = ["scalar", "scalar", "list", "tuple", "fixed", "set", "frozenset", "dict", "union", "box", "any"]
    kind = draw(st.sampled_from(kinds)) if depth else "scalar"
    if kind == "scalar":
        return draw(st.sampled_from(list(scalars.items())))
    if kind in ("set", "frozenset", "dict"):
        item, values = draw(st.sampled_from(list(hashables.items())))
        if kind == "dict":
            inner, entries = draw(annotated(depth - 1))
            return of(dict, (item, inner)), st.dictionaries(values, entries, max_size=3)
        return (
            (of(set, item), st.sets(values, max_size=3))
            if kind == "set"
            else (of(frozenset, item), st.frozensets(values, max_size=3))
        )
    if kind == "any":
        return UNANNOTATED, jsons
    first, some = draw(annotated(depth - 1))
    second, others = draw(annotated(depth - 1))
    if kind == "list":
        return of(list, first), st.lists(some, max_size=3)
    if kind == "tuple":
        return of(tuple, (first, ...)), st.lists(some, max_size=3).map(tuple)
    if kind == "fixed":
        return of(tuple, (first, second)), st.tuples(some, others)
    if kind == "box":
        return of(Box, first), st.builds(Box, some, st.lists(some, max_size=2))
    return of(Union, (first, second)) if UNANNOTATED not in (first, second) else of(list, first), (
        some | others if UNANNOTATED not in (first, second) else st.lists(some, max_size=2)
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


# ---- refusals ----------------------------------------------------------------------------------------------------


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
        (1, float, ""),
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


# ---- hostile text ------------------------------------------------------------------------------------------------


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
        ('{"$type":"Card","number":"1"}', Card),
        ('{"$type":"os.system","value":"x"}', Card | Cash),
        ('{"$type":["Card"],"number":"1"}', Card | Cash),
        ('{"$type":"bytes"}', str | bytes),
        ('{"$type":"bytes","value":"eA==","x":1}', str | bytes),
        ('{"number":"1"}', Card | Cash),
        ("1.5", Level | str | None),
        ("1", bool),
        ("true", int),
        ("1.0", int),
        ("1", float),
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
    started = clock.perf_counter()

    error = unreadable(text, annotation)

    assert clock.perf_counter() - started < 2
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


# ---- arguments and digests ---------------------------------------------------------------------------------------


def digest(*args: Any, annotations: Sequence[Any] | None = None) -> bytes:
    return CODEC.encode_arguments(args, annotations or [UNANNOTATED] * len(args), where="x")[1]


def test_arguments_come_back_in_order_and_with_their_types() -> None:
    annotations = [Card, tuple[int, ...], UNANNOTATED, bytes | None]
    args = (Card("1"), (1, 2), {"a": math.nan}, b"x")

    text, _ = CODEC.encode_arguments(args, annotations, where="x")

    assert is_same(CODEC.decode_arguments(text, annotations, where="x"), args)
    assert CODEC.decode_arguments(text, [*annotations, int], where="x") is not None


def test_an_argument_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(CodecError, match=r"order: arguments\[1\]\['a'\]: tuple"):
        CODEC.encode_arguments([1, {"a": ()}], [int, UNANNOTATED], where="order: arguments")


def test_more_arguments_than_parameters_are_refused() -> None:
    with pytest.raises(CodecError, match="2 arguments, but only 1"):
        CODEC.encode_arguments([1, 2], [int], where="x")
    with pytest.raises(CodecError, match="2 arguments, but only 1"):
        CODEC.decode_arguments("[1,2]", [int], where="x")
    with pytest.raises(CodecError, match="a list of arguments"):
        CODEC.decode_arguments("{}", [int], where="x")


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=100, deadline=None)
@given(jsons)
def test_the_digest_does_not_depend_on_the_order_of_dicts(value: Any) -> None:
    assert digest(value) == digest(reordered(value))


@settings(max_examples=100, deadline=None)
@given(jsons, jsons)
def test_values_that_differ_have_digests_that_differ(a: Any, b: Any) -> None:
    assert (digest(a) == digest(b)) == is_same(sort(a), sort(b))


def sort(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sort(value[key]) for key in sorted(value)}
    return [sort(item) for item in value] if isinstance(value, list) else value


def test_types_tell_in_the_digest_and_order_in_sets_does_not() -> None:
    assert len({digest(1), digest(True), digest(1.0), digest("1"), digest(None), digest([1]), digest(1, None)}) == 7
    one, other = set(range(100)), set(range(99, -1, -1))
    assert digest(one, annotations=[set[int]]) == digest(other, annotations=[set[int]])
    keys = dict[int | str, int]
    assert digest({1: 1, "1": 2}, annotations=[keys]) == digest({"1": 2, 1: 1}, annotations=[keys])
