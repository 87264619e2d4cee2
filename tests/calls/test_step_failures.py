"""What a step raises reaches the body as itself; a result that cannot be stored is a failure."""

from __future__ import annotations

import configparser
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import trio

from durable_trio import CodecError, Context, PayloadTooLarge, RunFailed, StepFailed, workflow
from tests.calls.kit import Color, Item, shape_of
from tests.engine.harness import serving, wait_parked, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")


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
    assert shape_of(live) == shape_of(replayed) == shape_of(make())
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
    assert shape_of(live) == shape_of(replayed)
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
    assert shape_of(live) == shape_of(replayed)
    assert "large#0" in str(live)
    assert "65536" in str(live).replace(",", "").replace("_", "")
    assert undone == []  # the run has completed
