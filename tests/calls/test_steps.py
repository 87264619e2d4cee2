"""Steps: recorded before the call returns, given back with value and type, attempted as their options say."""

from __future__ import annotations

import configparser
import contextlib
import enum
import functools
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NewType, cast

import attrs
import pytest
import trio
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from durable_trio import (
    CodecError,
    Context,
    PayloadTooLarge,
    Retry,
    RunCancelled,
    RunFailed,
    RunStatus,
    StepFailed,
    StepInterrupted,
    StepTimeout,
    current_step,
    open_engine,
    workflow,
)
from durable_trio.testing import VirtualClock
from tests.engine.harness import (
    PATIENCE_SECONDS,
    SettableClock,
    killed_when_ready,
    noted,
    serving,
    wait_parked,
    wait_passivated,
    wait_status,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@attrs.frozen
class Item:
    name: str
    price: Decimal
    color: Color
    parts: list[Item] = attrs.field(factory=list)


@dataclass(frozen=True)
class Stay:
    guest: UserId
    nights: tuple[date, ...]
    room: Item | None = None


@attrs.frozen
class Opaque:
    inner: Any


# ---- first run and replay give back the same -----------------------------------------------------------------------

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


async def test_what_a_body_does_to_a_value_is_not_recorded(store_path: str) -> None:
    """The value that the function keeps, the one that the body gets and the recorded one are three."""
    kept: list[int] = [1]
    seen: list[list[int]] = []

    @workflow
    async def changes(ctx: Context) -> None:
        values = await ctx.step("list", lambda: kept, returns=list[int])
        seen.append(list(values))
        values.append(2)
        await ctx.wait_signal("go")

    async with serving(store_path, changes) as engine:
        run = await engine.start(changes)
        await wait_passivated(engine)
        kept.append(3)
        await run.signal("go")
        await run.result()
    assert seen == [[1], [1]]
    assert kept == [1, 3]


async def test_completed_steps_are_not_run_again(file_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def several(ctx: Context) -> list[int]:
        values = [await ctx.step("count", lambda: noted(calls, "step", len(calls))) for _ in range(3)]
        values.append(await ctx.transaction("count", lambda _: noted(calls, "transaction", len(calls))))
        values.append(await ctx.wait_signal("go"))
        values.append(await ctx.step("after", lambda: noted(calls, "after", len(calls))))
        return values

    async with serving(file_path, several) as engine:
        await engine.start(several, id="r")
        await wait_passivated(engine)
    for _ in range(2):
        async with serving(file_path, several) as engine:
            await trio.lowlevel.checkpoint()
    async with serving(file_path, several) as engine:
        await engine.send_signal("r", "go", 9)
        assert await engine.get("r", several).result() == [0, 1, 2, 3, 9, 4]
    assert calls == ["step"] * 3 + ["transaction", "after"]


async def test_the_outcome_is_stored_before_the_call_returns(store_path: str) -> None:
    """Also that of a failure and of a transaction: another reader sees the row as soon as the body goes on."""
    rows: list[list[tuple[str, str]]] = []

    async def look() -> None:
        rows.append([(step.key, step.status) for step in await engine.get("r").steps()])

    @workflow
    async def looks(ctx: Context) -> None:
        await ctx.step("a", lambda: 1)
        await look()
        with pytest.raises(ValueError, match="no"):
            await ctx.step("b", _fail, ValueError("no"))
        await look()
        await ctx.transaction("c", lambda _: 1)
        await look()

    async with serving(store_path, looks) as engine:
        run = await engine.start(looks, id="r")
        await run.result()
    a, b, c = ("a#0", "completed"), ("b#0", "failed"), ("c#0", "completed")
    assert rows == [[a], [a, b], [a, b, c]]


def _fail(error: Exception) -> None:
    raise error


async def test_a_context_call_in_a_cancelled_scope_does_not_begin(store_path: str) -> None:
    calls: list[str] = []

    @workflow
    async def stops(ctx: Context) -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ctx.step("never", lambda: calls.append("never"))
        await ctx.wait_signal("go")
        return scope.cancelled_caught

    async with serving(store_path, stops) as engine:
        run = await engine.start(stops)
        await wait_passivated(engine)
        await run.signal("go")
        assert await run.result() is True
        assert [step.key for step in await run.steps()] == ["go#0"]
    assert calls == []


async def test_a_cancelled_async_function_records_nothing_and_one_that_returns_is_recorded(store_path: str) -> None:
    """Recorded means delivered: what has returned reaches the body, also in a cancelled scope."""
    seen: list[tuple[bool, bool, Any]] = []

    async def stubborn() -> str:
        scopes[-1].cancel()  # now that it has begun
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "returned"  # on purpose: the worst that a function can do

    async def quiet() -> None:
        scopes[-1].cancel()
        await trio.sleep_forever()

    scopes: list[trio.CancelScope] = []

    @workflow
    async def cancels(ctx: Context) -> None:
        value: Any = None
        with trio.CancelScope() as first:
            scopes.append(first)
            await ctx.step("quiet", quiet)
        with trio.CancelScope() as second:
            scopes.append(second)
            value = await ctx.step("stubborn", stubborn)
            await trio.lowlevel.checkpoint()  # the next cancel point raises
        seen.append((first.cancelled_caught, second.cancelled_caught, value))

    async with serving(store_path, cancels) as engine:
        run = await engine.start(cancels)
        await run.result()
        assert [step.key for step in await run.steps()] == ["stubborn#0"]
    assert seen == [(True, True, "returned")]


# ---- failures --------------------------------------------------------------------------------------------------------


class OutOfStock(Exception):
    """A business error of this module: the workflow's module counts."""

    def __init__(self, item: str, *, left: int) -> None:
        super().__init__(item)
        self.left = left


def _with_note(error: Exception) -> Exception:
    error.add_note("a note")
    return error


FAILURES: dict[str, Callable[[], Exception]] = {
    "builtin": lambda: ValueError("bad", 1),
    "os": lambda: FileNotFoundError(2, "No such file", "/x"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "why"),
    "trio": lambda: trio.BusyResourceError("busy"),
    "durable_trio": lambda: RunFailed("inner", run_id="i"),
    "own module": lambda: OutOfStock("shoes", left=3),
    "note": lambda: _with_note(KeyError("k")),
    "group": lambda: ExceptionGroup("two", [ValueError("a"), ExceptionGroup("in", [OutOfStock("hat", left=0)])]),
}


def _shape(error: BaseException) -> Any:
    """Return what must be equal of two exceptions."""
    if isinstance(error, BaseExceptionGroup):
        return type(error), error.message, [_shape(inner) for inner in error.exceptions]
    fields = {key: value for key, value in vars(error).items() if key != "__notes__"}
    return type(error), error.args, str(error), fields, getattr(error, "__notes__", [])


@pytest.mark.parametrize("make", FAILURES.values(), ids=FAILURES.keys())
async def test_a_failure_reaches_the_body_as_itself_live_and_at_replay(
    store_path: str, make: Callable[[], Exception]
) -> None:
    seen: list[Exception] = []
    calls: list[str] = []

    def fails() -> None:
        calls.append("call")
        raise make()

    @workflow
    async def catches(ctx: Context) -> str:
        try:
            await ctx.step("fails", fails)
        except Exception as error:
            seen.append(error)
        await ctx.wait_signal("go")
        return await ctx.step("after", lambda: "went on")

    async with serving(store_path, catches) as engine:
        run = await engine.start(catches)
        await wait_passivated(engine)
        await run.signal("go")
        assert await run.result() == "went on"
        row = (await run.steps())[0]
    live, replayed = seen
    assert _shape(live) == _shape(replayed) == _shape(make())
    assert live is not replayed
    assert calls == ["call"]
    assert row.status == "failed"
    assert row.error is not None
    assert row.error.type.endswith(type(make()).__name__)
    for error in seen:
        assert "in fails" in str(error.__cause__), "the cause shows where it was raised at first"


async def test_a_failure_of_a_class_that_is_not_allowed_is_a_step_failed_from_the_first_run_on(store_path: str) -> None:
    seen: list[Exception] = []

    @workflow
    async def catches(ctx: Context) -> None:
        try:
            await ctx.step("fails", _raise_foreign)
        except Exception as error:
            seen.append(error)
        await ctx.wait_signal("go")

    async with serving(store_path, catches) as engine:
        run = await engine.start(catches)
        await wait_passivated(engine)
        await run.signal("go")
        await run.result()
    live, replayed = seen
    assert type(live) is type(replayed) is StepFailed
    for error in (live, replayed):
        assert isinstance(error, StepFailed)
        assert error.type.endswith("NoSectionError")
        assert error.message == "No section: 'main'"
        assert "_raise_foreign" in error.traceback
    assert str(live) == str(replayed)


async def test_a_class_named_to_the_engine_is_rebuilt_and_one_that_is_missing_parks_the_run(file_path: str) -> None:
    seen: list[Exception] = []

    @workflow
    async def catches(ctx: Context) -> None:
        try:
            await ctx.step("fails", _raise_foreign)
        except configparser.NoSectionError as error:
            seen.append(error)
        await ctx.wait_signal("go")

    errors = [configparser.NoSectionError]
    async with serving(file_path, catches, errors=errors) as engine:
        await engine.start(catches, id="r")
        await wait_passivated(engine)
        await engine.send_signal("r", "go")
        await engine.get("r").result()
        await engine.start(catches, id="s")
        await wait_passivated(engine)
    assert [error.section for error in seen if isinstance(error, configparser.NoSectionError)] == ["main"] * 3
    async with serving(file_path, catches) as engine:
        run = engine.get("s")
        await run.signal("go")
        record = await wait_parked(run)
        assert record.problem is not None
        assert record.problem.kind == "exception"
        assert "NoSectionError" in record.problem.text
        assert "errors=" in record.problem.text
    assert len(seen) == 3
    async with serving(file_path, catches, errors=errors) as engine:
        await engine.resume("s")
        await engine.get("s").result()
    assert len(seen) == 4


def _raise_foreign() -> None:
    raise configparser.NoSectionError("main")


# ---- results that cannot be stored -----------------------------------------------------------------------------------

UNSTORABLE: dict[str, tuple[Callable[[], Any], Any, str, str]] = {
    "object": (lambda: {"a": [1, object()]}, None, "object", "a"),
    "tuple without annotation": (lambda: {"deep": (1, 2)}, None, "tuple", "deep"),
    "other type": (lambda: [Item("x", Decimal(1), Color.RED), 7], list[Item], "int", "1"),
    "set without annotation": (lambda: {1}, None, "set", ""),
    "key": (lambda: {"a": {1: 2}}, None, "int", "a"),
}


@pytest.mark.parametrize(("make", "returns", "type_name", "path"), UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_an_unstorable_result_fails_that_step_and_is_compensated_with_none(
    store_path: str, make: Callable[[], Any], returns: Any, type_name: str, path: str
) -> None:
    """The error names step, type and path, is recorded as any failure, and the effect took place."""
    seen: list[Exception] = []
    undone: list[Any] = []
    calls: list[str] = []

    def work() -> Any:
        calls.append("work")
        return make()

    @workflow
    async def careless(ctx: Context) -> None:
        try:
            await ctx.step("unstorable", work, returns=returns, compensate=undone.append)
        except CodecError as error:
            seen.append(error)
        await ctx.wait_signal("go")
        raise LookupError("later")

    async with serving(store_path, careless) as engine:
        run = await engine.start(careless)
        await wait_passivated(engine)
        await run.signal("go")
        with pytest.raises(RunFailed):
            await run.result()
        rows = await run.steps()
    live, replayed = seen
    assert _shape(live) == _shape(replayed)
    assert type(live) is CodecError
    text = str(live)
    assert "unstorable#0" in text
    assert type_name in text
    assert path in text
    assert undone == [None]
    assert calls == ["work"]
    assert (rows[0].kind, rows[0].status) == ("step", "failed")
    assert rows[-1].kind == "compensation"


async def test_a_result_over_the_limit_fails_that_step(store_path: str) -> None:
    seen: list[Exception] = []
    undone: list[Any] = []

    @workflow
    async def large(ctx: Context) -> str:
        try:
            await ctx.step("large", lambda: "x" * 70_000, compensate=undone.append)
        except PayloadTooLarge as error:
            seen.append(error)
        await ctx.wait_signal("go")
        return await ctx.step("small", lambda: "x" * 60_000)

    async with serving(store_path, large, payload_bytes_max=65_536) as engine:
        run = await engine.start(large)
        await wait_passivated(engine)
        await run.signal("go")
        assert await run.result() == "x" * 60_000
    live, replayed = seen
    assert _shape(live) == _shape(replayed)
    assert "large#0" in str(live)
    assert "65536" in str(live).replace(",", "").replace("_", "")
    assert undone == []  # the run has completed


# ---- sync functions --------------------------------------------------------------------------------------------------


async def test_a_sync_function_runs_in_a_thread_and_knows_its_step(store_path: str) -> None:
    here = threading.get_ident()

    def work(factor: int, number: int) -> list[Any]:
        step = current_step()
        return [threading.get_ident() != here, step.run_id, step.key, step.attempt, factor * number]

    @workflow
    async def threaded(ctx: Context) -> list[Any]:
        return await ctx.step("work", work, 6, 7)

    async with serving(store_path, threaded) as engine:
        assert await engine.run(threaded, id="r") == [True, "r", "work#0", 1, 42]


async def _wait_row(engine: Any, run_id: str, kind: str) -> None:
    """Return once the run has a history row of that kind."""
    with trio.fail_after(PATIENCE_SECONDS):
        while all(step.kind != kind for step in await engine.get(run_id).steps()):  # noqa: ASYNC110
            await trio.sleep(0.002)


async def test_a_cancel_waits_for_a_sync_function_and_its_outcome_is_recorded(store_path: str) -> None:
    begun, release = threading.Event(), threading.Event()
    delivered: list[str] = []

    def work() -> str:
        begun.set()
        assert release.wait(PATIENCE_SECONDS)
        return "done"

    @workflow
    async def blocks(ctx: Context) -> None:
        delivered.append(await ctx.step("work", work))
        await ctx.step("never", lambda: delivered.append("never"))

    try:
        async with serving(store_path, blocks) as engine:
            run = await engine.start(blocks, id="r")
            assert await trio.to_thread.run_sync(begun.wait, PATIENCE_SECONDS)
            assert await run.cancel()
            await _wait_row(engine, "r", "cancel")
            assert not (await run.record()).status.is_final
            assert delivered == []
            release.set()
            with pytest.raises(RunCancelled):
                await run.result()
            assert [step.key for step in await run.steps() if step.kind == "step"] == ["work#0"]
    finally:
        release.set()
    assert delivered == ["done"]


async def test_a_heartbeat_is_the_cancel_point_of_a_sync_function(store_path: str) -> None:
    begun = threading.Event()
    events: list[str] = []

    def work() -> None:
        begun.set()
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                current_step().heartbeat()
                time.sleep(0.002)
            events.append("was not cancelled")
        except BaseException as error:
            events.append(type(error).__name__)
            raise

    @workflow
    async def beats(ctx: Context) -> None:
        await ctx.step("work", work)

    async with serving(store_path, beats) as engine:
        run = await engine.start(beats)
        assert await trio.to_thread.run_sync(begun.wait, PATIENCE_SECONDS)
        await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
        assert [step.kind for step in await run.steps()] == ["cancel"]
    assert events == ["Cancelled"]


async def test_a_timeout_waits_for_a_sync_function(store_path: str) -> None:
    """Its outcome counts, for the effect took place; without a heartbeat there is no point at which it could stop."""
    events: list[str] = []

    def work() -> str:
        time.sleep(0.25)
        events.append("worked")
        return "late"

    @workflow
    async def slow(ctx: Context) -> str:
        value = await ctx.step("slow", work, timeout=0.1)
        events.append("returned")
        return value

    async with serving(store_path, slow) as engine:
        assert await engine.run(slow) == "late"
    assert events == ["worked", "returned"]


async def test_a_heartbeat_past_the_timeout_ends_a_sync_function(store_path: str) -> None:
    beats: list[int] = []

    def work() -> None:
        for number in range(50):
            time.sleep(0.1)
            beats.append(number)
            current_step().heartbeat()

    @workflow
    async def slow(ctx: Context) -> str:
        try:
            await ctx.step("slow", work, timeout=0.01)
        except StepTimeout as error:
            return str(error.step)
        return "no timeout"

    async with serving(store_path, slow) as engine:
        assert await engine.run(slow) == "slow#0"
    assert len(beats) < 50


async def test_a_heartbeat_restarts_the_timeout(autojump_clock: MockClock) -> None:
    async def work(beat: bool) -> str:
        for _ in range(5):
            await trio.sleep(4)
            if beat:
                current_step().heartbeat()
        return "done"

    @workflow
    async def beats(ctx: Context, beat: bool) -> str:
        return await ctx.step("work", work, beat, timeout=5)

    async with serving(":memory:", beats, clock=VirtualClock()) as engine:
        assert await engine.run(beats, True) == "done"
        with pytest.raises(RunFailed) as caught:
            await engine.run(beats, False)
    assert isinstance(caught.value.error, StepTimeout)


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_abandon_lets_go_of_a_sync_function(store_path: str, how: str) -> None:
    begun, release = threading.Event(), threading.Event()
    events: list[str] = []

    def work() -> None:
        begun.set()
        release.wait(PATIENCE_SECONDS)
        events.append("came out")

    @workflow
    async def lets_go(ctx: Context) -> None:
        await ctx.step("work", work, abandon=True, timeout=0.3 if how == "timeout" else None)

    try:
        async with serving(store_path, lets_go) as engine:
            run = await engine.start(lets_go)
            assert await trio.to_thread.run_sync(begun.wait, PATIENCE_SECONDS)
            if how == "cancel":
                await run.cancel()
            with pytest.raises(RunFailed if how == "timeout" else RunCancelled) as caught:
                await run.result()
            assert events == []
            if isinstance(caught.value, RunFailed):
                assert isinstance(caught.value.error, StepTimeout)
    finally:
        release.set()


# ---- timeouts --------------------------------------------------------------------------------------------------------


async def test_a_timeout_is_recorded_and_given_back_on_replay(autojump_clock: MockClock) -> None:
    seen: list[Exception] = []

    @workflow
    async def slow(ctx: Context) -> None:
        try:
            await ctx.step("slow", trio.sleep, 100, timeout=timedelta(seconds=5))
        except trio.TooSlowError as error:
            seen.append(error)
        await ctx.sleep(60)

    async with serving(":memory:", slow, clock=VirtualClock()) as engine:
        run = await engine.start(slow, id="r")
        await run.result()
        row = (await run.steps())[0]
    live, replayed = seen
    assert type(live) is type(replayed) is StepTimeout
    assert str(live) == str(replayed)
    assert live.step == replayed.step == "slow#0"
    assert live.run_id == replayed.run_id == "r"
    assert (row.status, row.attempt) == ("timed_out", 1)
    assert row.finished_at - row.started_at == timedelta(seconds=5)


async def test_a_timeout_counts_per_attempt(autojump_clock: MockClock) -> None:
    attempts: list[int] = []

    async def third_time_quick() -> str:
        attempts.append(current_step().attempt)
        await trio.sleep(4 if len(attempts) == 3 else 6)
        return "done"

    @workflow
    async def slow(ctx: Context) -> str:
        return await ctx.step("slow", third_time_quick, timeout=5, retry=Retry.fixed(3, 1))

    async with serving(":memory:", slow, clock=VirtualClock()) as engine:
        run = await engine.start(slow)
        assert await run.result() == "done"
        row = (await run.steps())[0]
    assert attempts == [1, 2, 3]
    assert row.finished_at - row.started_at == timedelta(seconds=5 + 1 + 5 + 1 + 4)


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_timeout_of_nothing_is_due_at_once(autojump_clock: MockClock, timeout: float) -> None:
    @workflow
    async def hasty(ctx: Context) -> bool:
        try:
            await ctx.step("hasty", trio.sleep, 1, timeout=timeout)
        except StepTimeout:
            return True
        return False

    async with serving(":memory:", hasty, clock=VirtualClock()) as engine:
        assert await engine.run(hasty) is True


async def test_wrong_options_are_refused_and_leave_no_row(store_path: str) -> None:
    calls: list[str] = []

    def work() -> None:
        calls.append("work")

    @workflow
    async def wrong(ctx: Context) -> None:
        with pytest.raises(ValueError, match="at_most_once and retry"):
            await ctx.step("a", work, at_most_once=True, retry=Retry.fixed(2, 0))
        with pytest.raises(ValueError, match="NaN"):
            await ctx.step("a", work, timeout=float("nan"))
        with pytest.raises(TypeError):
            await ctx.step("a", work, timeout=cast(Any, "5"))
        with pytest.raises(TypeError, match="did you mean 'timeout'"):
            await ctx.step("a", work, timout=5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="arguments of the function are given by position"):
            await ctx.step("a", work, amount=5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="takes a name, a function, then its arguments"):
            await ctx.step("a", "work")  # type: ignore[call-overload]

    async with serving(store_path, wrong) as engine:
        run = await engine.start(wrong)
        await run.result()
        assert await run.steps() == ()
    assert calls == []


# ---- identity of a step ----------------------------------------------------------------------------------------------


def test_there_is_no_current_step_outside_of_one() -> None:
    with pytest.raises(RuntimeError, match="only inside the function of a step"):
        current_step()


async def test_there_is_no_current_step_in_a_body(store_path: str) -> None:
    @workflow
    async def looks(ctx: Context) -> None:
        with pytest.raises(RuntimeError):
            current_step()
        await ctx.step("a", lambda: None)
        with pytest.raises(RuntimeError):
            current_step()

    async with serving(store_path, looks) as engine:
        await engine.run(looks)


async def test_the_idempotency_key_is_one_per_step_and_run_whatever_the_attempt(store_path: str) -> None:
    keys: list[tuple[str, int, str]] = []

    def flaky(_connection: Any = None) -> str:
        step = current_step()
        keys.append((step.key, step.attempt, step.idempotency_key))
        if step.attempt < 3:
            raise OSError("again")
        return step.idempotency_key

    @workflow
    async def identified(ctx: Context) -> list[str]:
        retry = Retry.fixed(3, 0)
        return [
            await ctx.step("a", flaky, retry=retry),
            await ctx.step("a", flaky, retry=retry),
            await ctx.transaction("b", flaky, retry=retry),
        ]

    async with serving(store_path, identified) as engine:
        first = await engine.run(identified, id="r")
        other = await engine.run(identified, id="s")
        assert keys == [
            (key, attempt, value)
            for values in (first, other)
            for key, value in zip(("a#0", "a#1", "b#0"), values, strict=True)
            for attempt in (1, 2, 3)
        ]
        await engine.delete("r")
        recreated = await engine.run(identified, id="r")
    assert len({*first, *other, *recreated}) == 9  # also another one for a run that was made anew


# ---- at most once, and what a crash leaves ---------------------------------------------------------------------------


async def test_a_step_at_most_once_that_was_detached_is_interrupted_for_good(file_path: str) -> None:
    calls: list[str] = []
    seen: list[StepInterrupted] = []

    async def charge() -> None:
        calls.append("charge")
        await trio.sleep_forever()

    @workflow
    async def pays(ctx: Context) -> str:
        try:
            await ctx.step("charge", charge, at_most_once=True)
        except StepInterrupted as error:
            seen.append(error)
        return str(await ctx.wait_signal("go"))

    async with serving(file_path, pays, grace_seconds=0) as engine:
        await engine.start(pays, id="r")
        await wait_until(lambda: calls)
    async with serving(file_path, pays) as engine:
        run = engine.get("r")
        await wait_until(lambda: seen)
        await wait_passivated(engine)
        row = (await run.steps())[0]
        assert (row.key, row.status) == ("charge#0", "failed")
    async with serving(file_path, pays) as engine:
        await engine.send_signal("r", "go", "paid by hand")
        assert await engine.get("r").result() == "paid by hand"
    live, replayed = seen
    assert _shape(live) == _shape(replayed)
    assert (live.step, live.run_id) == ("charge#0", "r")
    assert calls == ["charge"]


async def test_a_sleep_beside_a_step_at_most_once_ends_in_time_also_after_a_restart(file_path: str) -> None:
    clock, may_end, slept = SettableClock(), trio.Event(), trio.Event()

    async def once() -> None:
        clock.advance(100)
        await may_end.wait()

    async def works(ctx: Context) -> None:
        await ctx.wait_signal("go")
        await ctx.step("once", once, at_most_once=True)

    async def sleeps(ctx: Context) -> None:
        await ctx.sleep(100)
        slept.set()

    @workflow
    async def both(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(works)
            nursery.start_soon(sleeps)

    async with serving(file_path, both, clock=clock) as engine:
        await wait_status(await engine.start(both, id="r"), RunStatus.SUSPENDED)
    async with serving(file_path, both, clock=clock) as engine:
        await engine.get("r").signal("go")
        with trio.fail_after(PATIENCE_SECONDS):
            await slept.wait()
        may_end.set()
        await engine.get("r").result()


async def test_a_step_at_most_once_that_ends_is_recorded_as_any(store_path: str) -> None:
    @workflow
    async def pays(ctx: Context) -> list[Any]:
        values: list[Any] = [await ctx.step("works", lambda: 1, at_most_once=True)]
        with pytest.raises(OSError, match="refused"):
            await ctx.step("fails", _fail, OSError("refused"), at_most_once=True)
        values.append(await ctx.wait_signal("go"))
        return values

    async with serving(store_path, pays) as engine:
        run = await engine.start(pays)
        await wait_passivated(engine)
        await run.signal("go", 2)
        assert await run.result() == [1, 2]


async def test_a_step_at_most_once_that_a_cancelled_scope_stops_is_not_taken_for_interrupted(store_path: str) -> None:
    @workflow
    async def stops(ctx: Context) -> str:
        with trio.move_on_after(0.01):
            await ctx.step("a", trio.sleep_forever, at_most_once=True)
        await ctx.wait_signal("go")
        return "on"

    async with serving(store_path, stops) as engine:
        run = await engine.start(stops)
        await wait_passivated(engine)
        await run.signal("go")
        assert await run.result() == "on"
        assert [step.key for step in await run.steps()] == ["go#0"]


_is_first_process = False


async def _hang_in_the_first_process() -> None:
    if _is_first_process:
        await trio.sleep_forever()


def _note(effects: str, line: str) -> None:
    with Path(effects).open("a") as file:
        file.write(line + "\n")


@workflow
async def once(ctx: Context, effects: str) -> str:
    async def charge() -> None:
        _note(effects, f"once {current_step().idempotency_key}")
        await _hang_in_the_first_process()

    await ctx.step("before", lambda: _note(effects, "before"))
    try:
        await ctx.step("charge", charge, at_most_once=True)
    except StepInterrupted as error:
        return f"interrupted {error.step}"
    return "charged"


@workflow
async def again(ctx: Context, effects: str) -> str:
    async def work() -> str:
        _note(effects, f"again {current_step().idempotency_key}")
        await _hang_in_the_first_process()
        return current_step().idempotency_key

    await ctx.step("before", lambda: _note(effects, "before"))
    return await ctx.step("work", work)


@workflow
async def retried(ctx: Context, effects: str) -> int:
    def work() -> int:
        _note(effects, f"attempt {current_step().attempt}")
        if current_step().attempt < 2:
            raise OSError("again")
        return current_step().attempt

    return await ctx.step("work", work, retry=Retry.fixed(2, 0.5))


@workflow
async def inserts(ctx: Context, effects: str) -> int:
    def insert(connection: Any) -> int:
        connection.execute("CREATE TABLE IF NOT EXISTS bookings (process INTEGER)")
        connection.execute("INSERT INTO bookings VALUES (?)", (os.getpid(),))
        _note(effects, "insert")
        if _is_first_process:
            print("ready", flush=True)  # others' commits wait for this transaction from now on
            time.sleep(3600)
        return os.getpid()

    return await ctx.transaction("insert", insert)


def work_until_killed(path: str, effects: str) -> None:
    """Called in the process that is killed: three runs in the middle of a step or a retry, one of a transaction."""
    global _is_first_process
    _is_first_process = True

    async def main() -> None:
        async with open_engine(path, workflows=[once, again, retried, inserts]) as engine:
            for item in (once, again, retried):
                await engine.start(item, effects, id=item.name)
            await wait_until(lambda: Path(effects).exists() and len(Path(effects).read_text().splitlines()) == 5)
            await wait_status(engine.get("retried"), RunStatus.SUSPENDED)
            await engine.run(inserts, effects, id="inserts")

    trio.run(main)


async def test_after_a_kill_each_run_goes_on_from_its_last_commit(file_path: str, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    assert await killed_when_ready(__name__, "work_until_killed", file_path, str(effects)) == "ready"
    before = effects.read_text().splitlines()
    assert [line.partition(" ")[0] for line in sorted(before)] == [
        *("again", "attempt", "before", "before", "insert", "once")
    ]
    async with serving(file_path, once, again, retried, inserts) as engine:
        assert await engine.get("once").result() == "interrupted charge#0"
        key = await engine.get("again").result()
        assert await engine.get("retried").result() == 2
        assert await engine.get("inserts").result() == os.getpid()
        recoveries = {run.id: run.recoveries for run in (await engine.list_runs()).runs}
        with contextlib.closing(engine.connect()) as connection:
            rows = connection.execute("SELECT process FROM bookings").fetchall()
    after = effects.read_text().splitlines()[len(before) :]
    assert sorted(after) == [f"again {key}", "attempt 2", "insert"]
    assert f"again {key}" in before, "the idempotency key is the same after the crash"
    assert rows == [(os.getpid(),)], "the rows of the killed transaction are gone, those of the next are there once"
    assert recoveries == {"once": 1, "again": 1, "retried": 0, "inserts": 1}


# ---- transactions ----------------------------------------------------------------------------------------------------


def _create(connection: Any) -> None:
    connection.execute("CREATE TABLE notes (text TEXT)")


def _insert(connection: Any, text: str) -> str:
    connection.execute("INSERT INTO notes VALUES (?)", (text,))
    return text.upper()


def _texts(connection: Any) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY rowid")]


async def test_a_transaction_commits_its_rows_with_its_outcome(file_path: str) -> None:
    seen: list[list[str]] = []

    def read() -> list[str]:
        with contextlib.closing(engine.connect()) as connection:
            return _texts(connection)

    @workflow
    async def notes(ctx: Context) -> list[str]:
        await ctx.transaction("create", _create)
        first = await ctx.transaction("insert", _insert, "one")
        await ctx.step("read", lambda: seen.append(read()))
        await ctx.wait_signal("go")
        return [first, await ctx.transaction("insert", _insert, "two")]

    async with serving(file_path, notes) as engine:
        await engine.start(notes, id="r")
        await wait_passivated(engine)
    async with serving(file_path, notes) as engine:
        await engine.send_signal("r", "go")
        assert await engine.get("r").result() == ["ONE", "TWO"]
        assert read() == ["one", "two"]
    assert seen == [["one"]]


def _keep_and_fail(connection: Any) -> None:
    _insert(connection, "lost")
    raise OutOfStock("shoes", left=0)


def _keep_and_return_opaque(connection: Any) -> Any:
    _insert(connection, "lost")
    return object()


async def _keep_async(connection: Any) -> None:
    _insert(connection, "lost")


def _keep_and_take_for_ever(connection: Any) -> int:
    _insert(connection, "lost")
    (count,) = connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    ).fetchone()
    return int(count)


ROLLED_BACK: dict[str, tuple[Callable[..., Any], type[Exception], float | None, str]] = {
    "raises": (_keep_and_fail, OutOfStock, None, "failed"),
    "unstorable": (_keep_and_return_opaque, CodecError, None, "failed"),
    "async": (_keep_async, TypeError, None, "failed"),
    "too long": (_keep_and_take_for_ever, StepTimeout, 0.05, "timed_out"),
}


@pytest.mark.parametrize(("fn", "expected", "timeout", "status"), ROLLED_BACK.values(), ids=ROLLED_BACK.keys())
async def test_a_transaction_that_fails_leaves_its_failure_and_no_row(
    store_path: str, fn: Callable[..., Any], expected: type[Exception], timeout: float | None, status: str
) -> None:
    """Nothing took place, so there is nothing to compensate either."""
    undone: list[Any] = []
    seen: list[Exception] = []

    @workflow
    async def rolls_back(ctx: Context) -> None:
        await ctx.transaction("create", _create)
        try:
            await ctx.transaction("fails", fn, timeout=timeout, compensate=undone.append)
        except Exception as error:
            seen.append(error)
        await ctx.transaction("works", _insert, "kept")
        await ctx.wait_signal("go")
        raise LookupError(await ctx.transaction("read", _texts))

    async with serving(store_path, rolls_back) as engine:
        run = await engine.start(rolls_back)
        await wait_passivated(engine)
        await run.signal("go")
        with pytest.raises(RunFailed) as caught:
            await run.result()
        statuses = {step.key: (step.kind, step.status) for step in await run.steps()}
    live, replayed = seen
    assert type(live) is expected
    assert _shape(live) == _shape(replayed)
    if isinstance(live, StepTimeout):
        assert (live.step, live.run_id) == ("fails#0", run.id)
    assert statuses["fails#0"] == ("transaction", status)
    assert isinstance(caught.value.error, LookupError)
    assert caught.value.error.args == (["kept"],)
    assert undone == []


async def test_a_transaction_is_tried_again_with_no_row_of_the_failed_attempts(store_path: str) -> None:
    def flaky(connection: Any) -> int:
        attempt = current_step().attempt
        _insert(connection, f"attempt {attempt}")
        if attempt < 3:
            raise OSError("again")
        return attempt

    @workflow
    async def retries(ctx: Context) -> list[str]:
        await ctx.transaction("create", _create)
        await ctx.transaction("flaky", flaky, retry=Retry.fixed(5, 0))
        return await ctx.transaction("read", _texts)

    async with serving(store_path, retries) as engine:
        run = await engine.start(retries)
        assert await run.result() == ["attempt 3"]
        assert [step.attempt for step in await run.steps()] == [1, 3, 1]


FORBIDDEN: dict[str, Callable[[Any], Any]] = {
    "commit": lambda it: it.commit(),
    "rollback": lambda it: it.rollback(),
    "block": lambda it: it.__enter__(),
    "executescript": lambda it: it.executescript("SELECT 1"),
    "close": lambda it: it.close(),
    "COMMIT": lambda it: it.execute("COMMIT"),
    "ROLLBACK": lambda it: it.execute("ROLLBACK"),
    "BEGIN": lambda it: it.execute("BEGIN"),
    "ATTACH": lambda it: it.execute("ATTACH ':memory:' AS other"),
    "DETACH": lambda it: it.execute("DETACH main"),
    "PRAGMA": lambda it: it.execute("PRAGMA synchronous=OFF"),
    "VACUUM": lambda it: it.execute("VACUUM"),
    "insert into ours": lambda it: it.execute("INSERT INTO published VALUES (1, 'a', '1')"),
    "update ours": lambda it: it.execute("UPDATE runs SET status = 'completed'"),
    "delete ours": lambda it: it.execute("DELETE FROM history"),
    "drop ours": lambda it: it.execute("DROP TABLE history"),
    "alter ours": lambda it: it.execute("ALTER TABLE history ADD COLUMN x"),
    "trigger on ours": lambda it: it.execute("CREATE TRIGGER t AFTER INSERT ON history BEGIN SELECT 1; END"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_the_connection_of_a_transaction_refuses_what_would_break_it(store_path: str, what: str) -> None:
    """Even a function that catches the refusal gets its rows committed with its outcome, and nothing else."""
    refused: list[str] = []

    def tries(connection: Any) -> None:
        _insert(connection, "before")
        try:
            FORBIDDEN[what](connection)
        except Exception as error:
            refused.append(type(error).__name__)
        _insert(connection, "after")

    def fails(connection: Any) -> None:
        _insert(connection, "lost")
        FORBIDDEN[what](connection)

    @workflow
    async def guarded(ctx: Context) -> list[str]:
        await ctx.transaction("create", _create)
        await ctx.transaction("tries", tries)
        with pytest.raises(Exception) as caught:  # noqa: PT011  # SQLite's class, which depends on the library in use
            await ctx.transaction("fails", fails)
        refused.append(type(caught.value).__name__)
        return await ctx.transaction("read", _texts)

    async with serving(store_path, guarded) as engine:
        run = await engine.start(guarded)
        assert await run.result() == ["before", "after"]
        assert len(await run.steps()) == 4
    assert len(refused) == 2


async def test_the_connection_of_a_transaction_is_of_no_use_after_it(store_path: str) -> None:
    kept: list[Any] = []
    refused: list[str] = []

    def keep(connection: Any) -> None:
        kept.extend([connection, connection.execute("SELECT 1 UNION SELECT 2")])

    @workflow
    async def keeps(ctx: Context) -> None:
        await ctx.transaction("keep", keep)
        with pytest.raises(Exception, match=r".") as caught:  # SQLite's class
            kept[0].execute("CREATE TABLE stolen (a)")
        refused.append(str(caught.value))

    async with serving(store_path, keeps) as engine:
        await engine.run(keeps)
    kept.clear()
    assert refused
