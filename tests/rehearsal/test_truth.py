"""What a rehearsal says of a run is what serving it then does: random programs, random edits, at any commit.

``DURABLE_TRIO_PROGRAMS=N`` tries as many at random, in place of the small repeatable set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from trio.testing import MockClock, trio_test

from durable_trio import Context, Engine, Rehearsal, RunRecord, Workflow, open_engine, workflow
from durable_trio.testing import CrashingStore, VirtualClock
from tests.engine.harness import wait_passivated
from tests.kit.crash_points import Crashed, crashing_store
from tests.rehearsal.kit import left_by, rehearsed

PROGRAMS = int(os.environ.get("DURABLE_TRIO_PROGRAMS", "0"))

Op = tuple[Any, ...]
NAMES = st.sampled_from("abc")
LEAVES = st.one_of(
    st.tuples(st.just("step"), NAMES),
    st.tuples(st.just("undone"), NAMES),
    st.tuples(st.just("caught"), NAMES),
    st.tuples(st.just("transaction"), NAMES),
    st.tuples(st.just("sleep"), st.sampled_from([0, 10])),
    st.tuples(st.just("signal"), NAMES),
    st.tuples(st.just("map"), NAMES, st.integers(1, 3)),
    st.tuples(st.just("child"), NAMES),
    st.tuples(st.just("publish"), NAMES),
    st.tuples(st.just("number"), NAMES),
)
BLOCKS = st.recursive(
    st.lists(LEAVES, max_size=4),
    lambda inner: st.lists(
        st.one_of(
            LEAVES,
            st.tuples(st.just("nursery"), inner, inner),
            st.tuples(st.just("deadline"), st.sampled_from([5, 1000]), inner),
            st.tuples(st.just("patched"), NAMES, inner),
        ),
        max_size=4,
    ),
    max_leaves=6,
)
ENDS = st.sampled_from([("raise",), ("signal", "last"), ("signal", "last"), ("step", "last")])
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace", "swap", "nothing", "patch"]),
        st.integers(0, 5),
        st.one_of(LEAVES, st.just(("raise",)), st.just(("text", "a"))),
    ),
    min_size=1,
    max_size=2,
)


class Oddity(Exception):
    """What bodies raise by themselves."""


async def fails() -> None:
    raise ValueError("as it should")


async def text() -> str:
    return "text"


async def number() -> int:
    return 7


@workflow
async def kid(ctx: Context, name: str) -> str:
    await ctx.step("kid", text)
    return str(await ctx.wait_signal("kid")) if name == "a" else name


async def run(ctx: Context, block: list[Op]) -> None:
    for op, *args in block:
        await OPS[op](ctx, *args)


async def _caught(ctx: Context, name: str) -> None:
    with suppress(ValueError):
        await ctx.step(name, fails)


async def _nursery(ctx: Context, *blocks: list[Op]) -> None:
    async with ctx.open_nursery() as nursery:
        for block in blocks:
            nursery.start_soon(run, block, name="branch")


async def _deadline(ctx: Context, seconds: float, block: list[Op]) -> None:
    with ctx.move_on_after(seconds):
        await run(ctx, block)


async def _patched(ctx: Context, name: str, block: list[Op]) -> None:
    if ctx.patched(name):
        await run(ctx, block)


async def _raise(ctx: Context) -> None:
    raise Oddity("of the code")


async def _undo(result: object) -> None:
    """Undoes nothing."""


OPS: dict[str, Callable[..., Any]] = {
    "step": lambda ctx, name: ctx.step(name, text),
    "undone": lambda ctx, name: ctx.step(name, text, compensate=_undo),
    "number": lambda ctx, name: ctx.step(name, number),
    "text": lambda ctx, name: ctx.step(name, text, returns=list[str]),  # as no code has recorded it
    "caught": _caught,
    "transaction": lambda ctx, name: ctx.transaction(name, lambda _: 1),
    "sleep": lambda ctx, seconds: ctx.sleep(seconds),
    "signal": lambda ctx, name: ctx.wait_signal(name),
    "map": lambda ctx, name, count: ctx.map(name, lambda item: item, range(count)),
    "child": lambda ctx, name: ctx.run_child(kid, name),
    "publish": lambda ctx, name: ctx.publish(name, name),
    "nursery": _nursery,
    "deadline": _deadline,
    "patched": _patched,
    "raise": _raise,
}


def code(block: list[Op]) -> list[Workflow[..., Any]]:
    @workflow
    async def flow(ctx: Context) -> None:
        await run(ctx, block)

    return [flow, kid]


def edited(block: list[Op], edits: list[tuple[str, int, Op]]) -> list[Op]:
    found = list(block)
    for what, place, op in edits:
        at = min(place, len(found) - 1)
        if what == "insert":
            found.insert(at, op)
        elif what == "patch":
            found.insert(at, ("patched", "new", [op]))
        elif what == "delete":
            del found[at]
        elif what == "replace":
            found[at] = op
        elif what == "swap":
            found[0], found[at] = found[at], found[0]
        if not found:
            found = [("signal", "last")]
    return found


async def begin(engine: Engine) -> None:
    await engine.start("flow", id="run")
    await engine.send_signal("run", "a")
    await wait_passivated(engine)


async def truth(store: CrashingStore, workflows: list[Workflow[..., Any]]) -> tuple[RunRecord, int, int]:
    """Serve, and return the record with the numbers of rows before and after."""
    async with Engine(store) as client:
        before = len(await client.get("run").steps())
        with closing(client.connect()) as connection:  # it is replayed now, whatever it waits for
            connection.execute("UPDATE runs SET wake_at = 0, is_due = 1 WHERE owner IS NULL AND finished_at IS NULL")
            connection.commit()
    async with open_engine(store, workflows=workflows, clock=VirtualClock()) as engine:
        await wait_passivated(engine)
        return await engine.get("run").record(), before, len(await engine.get("run").steps())


def check(found: Rehearsal, record: RunRecord, before: int, after: int) -> None:
    (verdict,) = [group.verdict.value for group in found.groups if group.workflow == "flow"]
    if record.problem is not None:
        kind = record.problem.kind
        assert verdict == {"divergence": "diverges"}.get(kind, "does_not_fit"), record.problem.text
    elif record.status.value == "failed" and after == before:
        assert verdict in ("raises", "goes_on")
        assert (verdict == "raises") == (found.raises != ())
        is_oddity = isinstance(record.error, Exception) and "of the code" in str(record.error)
        assert verdict == "raises" or not is_oddity, record.error
    else:
        assert verdict in ("goes_on", "raises"), (record.status, record.error)
        # Undoing steps is recorded, and it is a failure that leads to it.
        assert verdict == "goes_on" or record.status.value in ("failed", "compensating"), record.status


@settings(
    max_examples=PROGRAMS or 40,
    derandomize=not PROGRAMS,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(block=BLOCKS, end=ENDS, edits=EDITS, commit=st.integers(1, 14), loses_it=st.booleans())
def test_a_verdict_is_what_serving_does(
    block: list[Op], end: Op, edits: list[tuple[str, int, Op]], commit: int, loses_it: bool
) -> None:
    block = [*block, end]
    other = edited(block, edits)
    note(json.dumps([block, other, commit, loses_it]))

    @trio_test
    async def case(autojump_clock: MockClock) -> None:
        async with crashing_store() as store:
            store.crash_after(2 + commit, loses_it=loses_it)
            with suppress(Crashed):
                await left_by(store, code(block), begin)
            store.crash_after(None)
            async with Engine(store) as client:
                runs = {each.id: each.status for each in (await client.list_runs()).runs}
            if "run" not in runs or runs["run"].is_final:
                return
            found = await rehearsed(store, code(other))
            note(str(found.groups))
            check(found, *await truth(store, code(other)))

    case(autojump_clock=MockClock(autojump_threshold=0))
