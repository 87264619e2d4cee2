"""What a step returns comes back with its value and its type, live and at replay."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NewType

import attrs
import pytest
import trio
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from durable_trio import Context, workflow
from tests.calls.kit import Color, Item
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")


UserId = NewType("UserId", int)


@dataclass(frozen=True)
class Stay:
    guest: UserId
    nights: tuple[date, ...]
    room: Item | None = None


Typed = tuple[Any, Any]  # an annotation and a value of it


AWARE = st.builds(
    lambda moment, minutes: moment.replace(tzinfo=timezone(timedelta(minutes=minutes))),
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),
    st.integers(-14 * 60, 14 * 60),
)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


ITEMS: st.SearchStrategy[Item] = st.deferred(
    lambda: st.builds(
        Item,
        TEXT,
        st.decimals(allow_nan=False, allow_infinity=False),
        st.sampled_from(Color),
        st.lists(ITEMS, max_size=1),
    )
)


STAYS = st.builds(Stay, st.integers().map(UserId), st.lists(st.dates(), max_size=3).map(tuple), st.none() | ITEMS)


HASHABLE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False),  # in a set, one that is not equal to itself is refused
    str: TEXT,
    bytes: st.binary(max_size=12),
    date: st.dates(),
    datetime: st.datetimes(timezones=st.just(UTC)) | AWARE | st.datetimes(),
    timedelta: st.timedeltas(),
    Decimal: st.decimals(allow_nan=False),  # one that is not equal to itself is refused
    uuid.UUID: st.uuids(),
    Path: st.sampled_from([Path("/tmp/a b"), Path("x/../y"), Path()]),
    Color: st.sampled_from(Color),
    UserId: st.integers(),
    Literal["a", 1, None]: st.sampled_from(["a", 1, None]),
}


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    **HASHABLE,
    float: st.floats(),
    None: st.none(),
    Item: ITEMS,
    Stay: STAYS,
    Any: st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=5,
    ),
}


def _pairs(strategies: dict[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[Typed]:
    return st.one_of([st.tuples(st.just(annotation), values) for annotation, values in strategies.items()])


# Names of which mypy does not take a subscript for a type.
LIST: Any = list


DICT: Any = dict


TUPLE: Any = tuple


def _containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda it: (LIST[it[0]], [it[1], it[1]])),
        inner.map(lambda it: (DICT[str, it[0]], {"key": it[1]})),
        inner.map(lambda it: (TUPLE[it[0], ...], (it[1],) * 3)),
        inner.map(lambda it: (it[0] | None if it[0] is not None else None, None)),
        st.tuples(inner, inner).map(lambda two: (TUPLE[two[0][0], two[1][0]], (two[0][1], two[1][1]))),
    )


SETS = st.one_of(
    [
        st.tuples(st.just(kind[annotation]), st.lists(values, max_size=4).map(kind))
        for kind in (set, frozenset)
        for annotation, values in HASHABLE.items()
    ]
)


TYPED = st.recursive(_pairs(SCALARS) | SETS, _containers, max_leaves=3)


# Those of the list of promised types that a random draw might miss.
EACH_TYPE: list[Typed] = [
    (None, None),
    (bool, True),
    (bool | int, False),
    (int | str, 2**70),
    (float, float("inf")),
    (int | float, 1),
    (float, 1.0),
    (str, "\u0000é\u2028🦀"),
    (bytes, bytes(range(256))),
    (dict[str, list[int]], {"b": [], "a": [1]}),
    (dict[UserId, Color], {UserId(1): Color.RED}),
    (Item, Item("x", Decimal("1.10"), Color.BLUE, [Item("y", Decimal("-0"), Color.RED)])),
    (Stay | Item | None, Stay(UserId(3), (date(2024, 2, 29),), Item("z", Decimal("1E+3"), Color.RED))),
    (datetime, datetime(2024, 3, 31, 2, 30, 0, 1, tzinfo=UTC)),
    (datetime, datetime(2024, 3, 31, 2, 30, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    (tuple[int, str, tuple[bool, ...]], (1, "1", (True, False))),
    (tuple[()], ()),
    (set[tuple[int, str]], {(1, "a"), (2, "b")}),
    (frozenset[Color], frozenset(Color)),
    (list[dict[str, tuple[set[int], Decimal | None]]], [{"a": ({1}, None), "b": (set(), Decimal("2.0"))}]),
    (Any, {"a": [None, True, 1, 1.5, "x", {"b": []}]}),
]


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, set | frozenset):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if attrs.has(type(one)):
        return _same(attrs.astuple(one, recurse=False), attrs.astuple(other, recurse=False))
    if isinstance(one, datetime):
        return bool(one == other) and one.utcoffset() == other.utcoffset()
    return repr(one) == repr(other)  # tells -0.0 from 0.0, and finds NaN equal to itself


@settings(max_examples=10, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(pairs=st.lists(TYPED, min_size=20, max_size=40))
@example(pairs=EACH_TYPE)
def test_each_value_comes_back_equal_and_of_equal_type_live_and_at_replay(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Typed]
) -> None:
    path = str(tmp_path_factory.mktemp("typed") / "app.db")
    seen: list[list[Any]] = []

    @workflow
    async def typed(ctx: Context) -> None:
        values = []
        for annotation, value in pairs:
            returns = type(None) if annotation is None else annotation
            values.append(await ctx.step("value", _give(value), returns=returns))
        seen.append(values)
        await ctx.wait_signal("go")

    async def main() -> None:
        async with serving(path, typed, durability="normal") as engine:
            run = await engine.start(typed, id="r")
            with trio.fail_after(PATIENCE_SECONDS):
                await wait_passivated(engine)
            assert (await run.record()).error is None, (await run.record()).error
        async with serving(path, typed, durability="normal") as engine:
            await engine.send_signal("r", "go")
            await engine.get("r").result()

    trio.run(main)
    live, replayed = seen
    for (annotation, given_value), first, second in zip(pairs, live, replayed, strict=True):
        assert _same(first, given_value), (annotation, given_value, first)
        assert _same(second, given_value), (annotation, given_value, second)


def _give(value: Any) -> Callable[[], Any]:
    async def give() -> Any:
        return value

    return give


async def test_the_annotation_of_the_function_says_the_type(store_path: str) -> None:
    class Desk:
        async def stay(self) -> Stay:
            return Stay(UserId(1), (date(2024, 1, 1),))

        def __call__(self) -> frozenset[Color]:
            return frozenset({Color.RED, Color.BLUE})

    def price() -> Decimal:
        return Decimal("1.10")

    seen: list[list[Any]] = []

    @workflow
    async def annotated(ctx: Context) -> None:
        values: list[Any] = [
            await ctx.step("method", Desk().stay),
            await ctx.step("callable", Desk()),
            await ctx.step("sync", price),
            await ctx.transaction("transaction", lambda _connection: (1, 2), returns=tuple[int, int]),
        ]
        seen.append(values)
        await ctx.wait_signal("go")

    async with serving(store_path, annotated) as engine:
        run = await engine.start(annotated)
        await wait_passivated(engine)
        await run.signal("go")
        await run.result()
    expected = [Stay(UserId(1), (date(2024, 1, 1),)), frozenset(Color), Decimal("1.10"), (1, 2)]
    assert [_same(values, expected) for values in seen] == [True, True]


async def test_a_function_may_be_anything_that_can_be_called(store_path: str) -> None:
    class Adder:
        async def __call__(self, one: int, two: int) -> int:
            await trio.lowlevel.checkpoint()
            return one + two

        async def method(self, one: int, two: int) -> int:
            return await self(one, two)

        @staticmethod
        def static(one: int, two: int) -> int:
            return one + two

    @workflow
    async def adds(ctx: Context) -> list[int]:
        adder = Adder()
        return [
            await ctx.step("object", adder, 1, 2),
            await ctx.step("method", adder.method, 1, 3),
            await ctx.step("static", adder.static, 1, 4),
            await ctx.step("partial", functools.partial(adder.method, 1), 5),
            await ctx.step("partial of sync", functools.partial(adder.static, two=6), 1),
            await ctx.step("lambda that makes a coroutine", lambda: adder(1, 7)),
            await ctx.step("builtin", max, 9, 8),
        ]

    async with serving(store_path, adds) as engine:
        assert await engine.run(adds) == [3, 4, 5, 6, 7, 8, 9]
