"""What is shown of a run that failed, where nobody catches it: the user's traceback, and nothing of the library's."""

from __future__ import annotations

import re
import traceback
from typing import Any

import pytest
import trio

from durable_trio import Context, RunFailed, workflow
from durable_trio.failures import StepTraceback, cause_of
from durable_trio.records import FailureRecord
from tests.engine.harness import serving

pytestmark = pytest.mark.usefixtures("no_leaks")


class UnknownError(Exception):
    """Takes what it does not keep, so that it cannot be rebuilt."""

    def __init__(self, *, reason: str) -> None:
        super().__init__()
        self.reason = reason


def deep() -> None:
    try:
        dict[str, int]()["missing"]
    except KeyError as error:
        failure = ValueError("boom")
        failure.add_note("a note of the user's")
        raise failure from error


async def in_async() -> None:
    deep()


async def not_rebuilt() -> None:
    raise UnknownError(reason="lost")


async def step_of(ctx: Context) -> None:
    await ctx.step("async", in_async)


async def sync_step_of(ctx: Context) -> None:
    await ctx.step("sync", deep)


async def map_of(ctx: Context) -> None:
    await ctx.map("items", lambda _: deep(), [1])


async def branch_of(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(step_of)


async def body_alone(ctx: Context) -> None:
    deep()


@workflow(name="child")
async def child(ctx: Context) -> None:
    await ctx.step("async", in_async)


async def child_of(ctx: Context) -> None:
    await ctx.run_child(child)


BODIES: list[Any] = [step_of, sync_step_of, map_of, branch_of, body_alone, child_of]


async def shown(path: str, body: Any, *, in_group: bool) -> str:
    """Return what Python prints of a run that nobody takes care of."""
    failing = workflow(name="failing")(body)

    async def fails() -> None:
        async with serving(path, failing, child) as engine:
            if in_group:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(engine.run, failing)
            else:
                await engine.run(failing)

    with pytest.raises((RunFailed, ExceptionGroup)) as caught:
        await fails()
    return "".join(traceback.format_exception(caught.value))


def library_frames(text: str) -> list[str]:
    """Return the library's frames in the recorded tracebacks of a text."""
    recorded = "".join(re.findall(r'"""\n(.*?)"""', text, re.DOTALL))
    return re.findall(r'File "(.*(?:/durable_trio|/supervisors|/trio|/outcome)/[a-z_/]+\.py)"', recorded)


@pytest.mark.parametrize("body", BODIES, ids=[body.__name__ for body in BODIES])
@pytest.mark.parametrize("in_group", [False, True])
async def test_the_user_s_traceback_is_shown_with_its_cause_and_notes(
    body: Any, in_group: bool, store_path: str
) -> None:
    text = await shown(store_path, body, in_group=in_group)
    assert f'File "{__file__}", line {deep.__code__.co_firstlineno + 6}, in deep' in text
    assert "KeyError: 'missing'" in text
    assert "a note of the user's" in text
    assert "RunFailed" in text
    if body is not body_alone:
        assert f"in {(child.fn if body is child_of else body).__name__}\n" in text
    assert not library_frames(text)


async def test_of_an_error_that_cannot_be_rebuilt_the_traceback_is_shown_too(store_path: str) -> None:
    async def fails(ctx: Context) -> None:
        await ctx.step("lost", not_rebuilt)

    text = await shown(store_path, fails, in_group=False)
    assert f'File "{__file__}", line {not_rebuilt.__code__.co_firstlineno + 1}, in not_rebuilt' in text
    assert "UnknownError" in text


def test_a_record_is_a_cause_by_its_traceback() -> None:
    cause = cause_of(FailureRecord(type="x.Y", message="m", traceback="at home"))
    assert isinstance(cause, StepTraceback)
    assert "at home" in str(cause)
    assert cause_of(None) is None
