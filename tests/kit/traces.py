"""What tests of several folders share: steps that leave a trace, an engine in virtual time, and the end of a run."""

from __future__ import annotations

from typing import Any, Final

import trio

from durable_trio import Context, Run, RunStatus, Workflow, current_step, workflow
from durable_trio.testing import VirtualClock
from tests.engine.harness import serving

#: What the steps of a test have done; ``no_effects`` empties it before each test.
effects: list[str] = []
#: Virtual seconds: longer than any test lasts.
LONG_SECONDS: Final = 86400.0


async def note(text: str) -> str:
    effects.append(text)
    return text


async def undo(text: str) -> None:
    effects.append(f"undo {text}")


async def tell_key(name: str) -> list[str]:
    effects.append(name)
    return [name, current_step().idempotency_key]


def virtual(*workflows: Workflow[..., Any], **options: Any) -> Any:
    """Serve the workflows in memory and in virtual time."""
    return serving(":memory:", *workflows, clock=VirtualClock(), **options)


async def ended(run: Run[Any]) -> RunStatus:
    """Return the final status of a run."""
    with trio.fail_after(LONG_SECONDS):
        async with run.watch() as changes:
            async for record in changes:
                status = record.status
    return status


@workflow(name="flow")
async def flow_before(ctx: Context) -> list[str]:
    first = await ctx.step("first", note, "first")
    await ctx.wait_signal("go")
    return [first, await ctx.step("last", note, "old last")]


@workflow
async def counting(ctx: Context, number: int, until: int) -> list[int]:
    await ctx.step("count", note, f"{number}")
    await ctx.publish(f"seen {number}", ctx.generation)
    if number < until:
        await ctx.continue_as_new(number + 1, until)
    return [number, ctx.generation]
