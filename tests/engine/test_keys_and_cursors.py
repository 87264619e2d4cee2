"""Keys, cursors, limits and filters that nobody was given: an error that says so, and nothing else happens."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable_trio import Context, Engine, RunNotFound, workflow
from tests.engine.harness import serving


async def double(n: int) -> int:
    return 2 * n


@workflow
async def quick(ctx: Context, n: int) -> int:
    return await ctx.step("a", double, n)


@asynccontextmanager
async def one_run() -> AsyncIterator[Engine]:
    async with serving(":memory:", quick) as engine:
        await engine.run(quick, 2, id="run")
        yield engine
        assert [record.id for record in (await engine.list_runs()).runs] == ["run"]


@pytest.mark.parametrize(
    "before",
    ["", "a", "#", "a#", "a#x", "a#-1", "a#1.0", "a#٣", "a#" + "9" * 18, "a#" + "9" * 30, "a#" + "9" * 5000, "\ud800#0",
     "a/b#0", "b#0", "a#1", "a#0\x00"],
)  # fmt: skip
async def test_a_key_that_no_row_has_is_a_value_error(before: str) -> None:
    async with one_run() as engine:
        with pytest.raises(ValueError, match=r"key|history row"):
            await engine.fork("run", before=before)
        with pytest.raises(RunNotFound):  # first: there is no run that could have it
            await engine.fork("unknown", before=before)


@pytest.mark.parametrize("before", [None, 0, b"a#0", ["a#0"], True])
async def test_a_key_of_another_type_is_a_type_error(before: Any) -> None:
    async with one_run() as engine:
        with pytest.raises(TypeError, match="before"):
            await engine.fork("run", before=before)


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    ["", "x", "\ud800", "é", cursor(""), cursor("1"), cursor("1.x"), cursor("1.2.3"), cursor("9" * 30 + ".1"),
     cursor("1." + "9" * 30), cursor("-" + "9" * 30 + ".1"), cursor("9" * 5000 + ".1"), cursor("nan.1")],
)  # fmt: skip
async def test_a_cursor_that_no_page_gave_is_a_value_error(text: str) -> None:
    async with one_run() as engine:
        with pytest.raises(ValueError, match="cursor"):
            await engine.list_runs(cursor=text)


@pytest.mark.parametrize("numbers", ["0.0", "-1.-1", f"{2**63 - 1}.{2**63 - 1}", f"{-(2**63)}.0"])
async def test_a_cursor_that_a_page_might_have_given_finds_what_comes_after_it(numbers: str) -> None:
    async with one_run() as engine:
        found = (await engine.list_runs(cursor=cursor(numbers))).runs
        assert len(found) == (1 if numbers.startswith("9") else 0)


@pytest.mark.parametrize("limit", [0, -1, 1001, 10**30, True, 1.0, None, "5"])
async def test_a_limit_out_of_range_is_a_value_error(limit: Any) -> None:
    async with one_run() as engine:
        with pytest.raises(ValueError, match="limit"):
            await engine.list_runs(limit=limit)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"workflow": 5}, TypeError),
        ({"workflow": "\ud800"}, ValueError),
        ({"queue": b"q"}, TypeError),
        ({"queue": "\ud800"}, ValueError),
        ({"parent": object()}, TypeError),
        ({"parent": "\ud800"}, ValueError),
        ({"cursor": 5}, TypeError),
        ({"cursor": b"MS4x"}, TypeError),
        ({"status": "bogus"}, ValueError),
        ({"status": [None]}, ValueError),
        ({"tags": {"a": 1}}, TypeError),
        ({"created_after": 5}, TypeError),
        ({"created_after": datetime(2026, 1, 1)}, ValueError),
    ],
)
async def test_a_filter_of_another_type_or_that_is_no_text_is_refused(options: Any, error: type[Exception]) -> None:
    async with one_run() as engine:
        with pytest.raises(error):
            await engine.list_runs(**options)


async def test_a_filter_that_nothing_can_match_finds_nothing() -> None:
    async with one_run() as engine:
        far = datetime.max.replace(tzinfo=UTC)
        for options in ({"workflow": ""}, {"queue": "x" * 5000}, {"parent": "\x00"}, {"created_after": far}):
            assert (await engine.list_runs(**options)).runs == ()


async def test_prune_takes_only_what_it_is_told() -> None:
    async with one_run() as engine:
        later = datetime.now(UTC) + timedelta(days=1)
        assert await engine.prune(later, status=[]) == 0  # none of them, not all
        for before, error in ((None, TypeError), (5, TypeError), (datetime(2026, 1, 1), ValueError)):
            with pytest.raises(error):
                await engine.prune(before)  # type: ignore[arg-type]
        assert await engine.prune(datetime.min.replace(tzinfo=UTC)) == 0


@pytest.mark.parametrize("run_id", [None, 5, b"run", "", " run", "\ud800", "a" * 257, "a\nb"])
async def test_an_id_that_no_run_can_have_is_refused_at_every_door(run_id: Any) -> None:
    async with one_run() as engine:
        doors = (
            lambda: engine.resume(run_id),
            lambda: engine.fork(run_id, before="a#0"),
            lambda: engine.delete(run_id),
            lambda: engine.cancel(run_id),
            lambda: engine.send_signal(run_id, "go"),
        )
        for door in doors:
            with pytest.raises((TypeError, ValueError)):
                await door()
        with pytest.raises((TypeError, ValueError)):
            engine.get(run_id)
