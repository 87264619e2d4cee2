"""Classes, values and annotations for the tests of the codec, and what each test of a value asserts."""

from __future__ import annotations

import enum
import json
import math
import operator
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
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
from uuid import UUID

import attrs
import pytest
from hypothesis import strategies as st

from durable_trio.codec import UNANNOTATED, Codec
from durable_trio.codec.sameness import is_same
from durable_trio.errors import CodecError

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
