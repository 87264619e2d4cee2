"""Workflow programs as data: how they are made up, how one workflow function runs them, and what is seen of a run.

A program is a list of JSON objects. Every duration in it is another power of two milliseconds, so no two chains of
durations take equally long: at which instant something ends, and what ends first, is the program's doing alone. Step
functions last until an instant that was fixed when they were first begun, as work outside of the process does: a crash
in between changes no time. All functions are async: virtual time does not wait for threads. So a program must come out
the same with and without crashes, to the millisecond.

Things that happen in one chain at the same instant have no order that a program fixes; they are compared as a set.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import attrs
import trio
from hypothesis import strategies as st

from durable_trio import (
    Context,
    Engine,
    FailureRecord,
    Retry,
    Run,
    RunCancelled,
    RunExpired,
    RunFailed,
    RunFinished,
    RunStatus,
    StepKind,
    current_step,
    workflow,
)
from durable_trio.stores.questions import FindRun, ListHistory

T = TypeVar("T")
Node = dict[str, Any]
Block = list[Node]

_SIGNAL_NAMES = ("red", "blue")
#: Timed services of a program: the last one takes 2 ** (_SLOTS_MAX - 1) milliseconds.
_SLOTS_MAX = 16
_SLOTS_OF_A_NODE_MAX = 4
#: When the driver cancels whatever still waits, for ever perhaps.
_END_MS = 2**_SLOTS_MAX * 2
_UNFINISHED = [status for status in RunStatus if not status.is_final]


@attrs.frozen
class Case:
    """A program, and what happens to it from outside: signals, and perhaps a request to cancel."""

    body: Block
    signals: tuple[tuple[int, str], ...]  # (milliseconds, name)
    cancel_ms: int | None

    def to_text(self) -> str:
        """Return the case as JSON, for people to run again."""
        return json.dumps([self.body, self.signals, self.cancel_ms])

    @classmethod
    def from_text(cls, text: str) -> Case:
        """Return the case that ``to_text`` has written."""
        body, signals, cancel_ms = json.loads(text)
        return cls(body, tuple((ms, name) for ms, name in signals), cancel_ms)


# ---- making up -----------------------------------------------------------------------------------------------------


class _Builder:
    """Draws a program. Durations are numbered as they come and get their length at the end."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self._numbers = 0
        self._slots: list[tuple[dict[str, Any], str]] = []

    def case(self) -> Case:
        signals: list[Node] = [{"name": self._pick(_SIGNAL_NAMES)} for _ in range(self._below(4))]
        for signal in signals:
            self._time(signal, "ms")
        outside: Node = {"cancel_ms": None}
        if self._below(6) == 5:
            self._time(outside, "cancel_ms")
        body = self._block(3, in_child=False, in_branch=False)
        for slot, (node, field) in zip(self._draw(st.permutations(range(len(self._slots)))), self._slots, strict=True):
            node[field] = 2**slot
        sent = sorted((signal["ms"], signal["name"]) for signal in signals)
        return Case(body, tuple(sent), outside["cancel_ms"])

    def _block(self, depth: int, *, in_child: bool, in_branch: bool) -> Block:
        block: Block = []
        for _ in range(1 + depth + self._below(2)):
            if len(self._slots) <= _SLOTS_MAX - _SLOTS_OF_A_NODE_MAX:
                node = self._node(depth, in_child=in_child, in_branch=in_branch)
                # Most failures are caught, so that programs do not end at the first one.
                block.append({"do": "try", "i": self._number(), "body": [node]} if self._below(3) else node)
        if self._below(8) == 7:
            block.append({"do": "raise", "i": self._number()})
        return block

    def _node(self, depth: int, *, in_child: bool, in_branch: bool) -> Node:
        leaves = ["step", "step", "sleep", "wait", "publish", *([] if in_branch else ["patched"])]
        inner = ["branches", "branches", "map", "deadline", "child", "child"]
        kind = self._pick(leaves + (inner if depth else []))
        node: Node = {"do": kind, "i": self._number()}
        below: dict[str, bool] = {"in_child": in_child, "in_branch": in_branch}
        if kind == "step":
            self._time(node, "ms")
            node["fails"] = self._below(5) == 4
            node["undo"] = self._below(2) == 1
            if self._below(4) == 3:
                self._time(node, "first_ms")
                self._time(node, "retry_ms")
        elif kind == "sleep":
            self._time(node, "ms")
        elif kind == "wait":
            node["name"] = self._pick(_SIGNAL_NAMES)
            if in_child or self._below(2):
                self._time(node, "timeout_ms")
        elif kind == "branches":
            below["in_branch"] = True
            node["bodies"] = [self._block(depth - 1, **below) for _ in range(2 + self._below(2))]
        elif kind == "map":
            node["items"] = [{"fails": self._below(8) == 7} for _ in range(self._below(5))]
            for item in node["items"]:
                self._time(item, "ms")
            node["limit"] = self._pick([None, 1, 2])
            node["keeps_errors"] = self._below(2) == 1
            node["undo"] = self._below(2) == 1
        elif kind == "deadline":
            self._time(node, "ms")
            node["raises"] = self._below(2) == 1
            node["body"] = self._block(depth - 1, **below)
        elif kind == "child":
            node["how"] = self._pick(["run", "run", "await", "start", "detach", "cancel"])
            node["undo"] = self._below(2) == 1
            if node["how"] == "cancel":
                self._time(node, "ms")
            if self._below(4) == 3:
                self._time(node, "ttl_ms")
            # Not all of it may happen at the instant of its start, at which it may be cancelled, too.
            nap: Node = {"do": "sleep", "i": self._number()}
            self._time(nap, "ms")
            node["body"] = [nap, *self._block(depth - 1, in_child=True, in_branch=False)]
        return node

    def _time(self, node: dict[str, Any], field: str) -> None:
        self._slots.append((node, field))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _below(self, limit: int) -> int:
        return int(self._draw(st.integers(0, limit - 1)))

    def _pick(self, choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))


@st.composite
def cases(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Case:
    """Make up a case."""
    return _Builder(draw).case()


# ---- running -------------------------------------------------------------------------------------------------------


@attrs.define
class World:
    """What is outside of the process and outlives it: work that was begun, and effects."""

    began_at: float
    begun: dict[tuple[int, int], float] = attrs.Factory(dict)
    executions: Counter[tuple[int, int]] = attrs.Factory(Counter)
    undone: list[int] = attrs.Factory(list)

    async def work(self, number: int, attempt: int, ms: int) -> None:
        """Note that an attempt has begun, and wait until it ends: so long after it was first begun."""
        self.executions[number, attempt] += 1
        await trio.sleep_until(self.begun.setdefault((number, attempt), trio.current_time()) + ms / 1000)


_world: World


def enter(world: World) -> None:
    """Have step functions act on this world from now on."""
    global _world
    _world = world


class OutOfOrderError(Exception):
    """A step's own failure."""


async def _work(number: int, ms: int, fails: bool, first_ms: int | None) -> int:
    attempt = current_step().attempt
    if first_ms is not None and attempt == 1:
        await _world.work(number, attempt, first_ms)
        raise OSError("try again")
    await _world.work(number, attempt, ms)
    if fails:
        raise OutOfOrderError(f"step {number}")
    return number


async def _work_item(item: dict[str, Any]) -> int:
    return await _work(item["i"], item["ms"], item["fails"], None)


async def _undo(number: Any) -> None:
    _world.undone.append(number)


async def _undo_child(number: int, result: Any) -> None:
    _world.undone.append(number)


@workflow(max_recoveries=10_000)
async def program(ctx: Context, body: Block, label: str) -> list[str]:
    """Run a program; the result is a log in the order in which things came about, with their times."""
    return await _Interpreter(ctx.now()).run(ctx, body)


class _Interpreter:
    """One run of a program. All branches write into one log."""

    def __init__(self, began_at: datetime) -> None:
        self._began_at = began_at
        self._log: list[str] = []

    async def run(self, ctx: Context, body: Block) -> list[str]:
        await self._block(ctx, body)
        self._say(ctx, "end")
        return self._log

    def _say(self, ctx: Context, text: str) -> None:
        self._log.append(f"{round((ctx.now() - self._began_at).total_seconds() * 1000):06} {text}")

    async def _block(self, ctx: Context, body: Block) -> None:
        for node in body:
            said = await getattr(self, f"_{node['do']}")(ctx, node)
            self._say(ctx, f"{node['do']} {node['i']}: {said}")

    async def _step(self, ctx: Context, node: Node) -> Any:
        retry = Retry.fixed(2, node["retry_ms"] / 1000) if "retry_ms" in node else None
        arguments = (node["i"], node["ms"], node["fails"], node.get("first_ms"))
        return await ctx.step("work", _work, *arguments, retry=retry, compensate=_undo if node["undo"] else None)

    async def _sleep(self, ctx: Context, node: Node) -> None:
        await ctx.sleep(node["ms"] / 1000)

    async def _wait(self, ctx: Context, node: Node) -> Any:
        timeout_ms = node.get("timeout_ms")
        return await ctx.wait_signal(node["name"], timeout=None if timeout_ms is None else timeout_ms / 1000)

    async def _publish(self, ctx: Context, node: Node) -> None:
        await ctx.publish(f"p{node['i']}", self._log)

    async def _raise(self, ctx: Context, node: Node) -> None:
        raise OutOfOrderError(f"raise {node['i']}")

    async def _patched(self, ctx: Context, node: Node) -> bool:
        return ctx.patched("change")

    async def _branches(self, ctx: Context, node: Node) -> None:
        async with ctx.open_nursery() as nursery:
            for body in node["bodies"]:
                nursery.start_soon(self._block, body, name="branch")

    async def _map(self, ctx: Context, node: Node) -> Any:
        items = [{**item, "i": node["i"] * 100 + index} for index, item in enumerate(node["items"])]
        options: dict[str, Any] = {"limit": node["limit"], "return_exceptions": node["keeps_errors"]}
        results = await ctx.map("work", _work_item, items, compensate=_undo if node["undo"] else None, **options)
        return [result if isinstance(result, int) else describe(result) for result in results]

    async def _deadline(self, ctx: Context, node: Node) -> bool:
        seconds = node["ms"] / 1000
        with ctx.fail_after(seconds) if node["raises"] else ctx.move_on_after(seconds) as scope:
            await self._block(ctx, node["body"])
        return scope.cancelled_caught

    async def _try(self, ctx: Context, node: Node) -> str:
        try:
            await self._block(ctx, node["body"])
        except Exception as error:
            return describe(error)
        return "through"

    async def _child(self, ctx: Context, node: Node) -> Any:
        ttl = node["ttl_ms"] / 1000 if "ttl_ms" in node else None
        label = f"child {node['i']}"
        how = node["how"]
        if how == "run":
            undo = functools.partial(_undo_child, node["i"]) if node["undo"] else None
            return await ctx.run_child(program, node["body"], label, ttl=ttl, compensate=undo)
        child = await ctx.start_child(program, node["body"], label, ttl=ttl, detached=how == "detach")
        if how == "cancel":
            await ctx.sleep(node["ms"] / 1000)
            await child.cancel()
        return None if how in ("start", "detach") else await child.result()


def describe(error: BaseException | FailureRecord | None) -> str:
    """Return an error as text, groups with their members; without ids of runs, which are random."""
    if isinstance(error, BaseExceptionGroup):
        return f"[{', '.join(describe(member) for member in error.exceptions)}]"
    if isinstance(error, RunFailed):
        return f"failed({describe(error.error)})"
    if isinstance(error, OutOfOrderError | OSError):
        return f"{type(error).__name__}({error})"
    return error.type if isinstance(error, FailureRecord) else type(error).__name__


# ---- looking -------------------------------------------------------------------------------------------------------


@attrs.frozen
class Observation:
    """All that a case fixes: how the runs ended, their histories, their values, what was undone."""

    outcome: Any
    runs: dict[str, Any]  # by label: status, error, values, history
    undone: list[int]


async def drive(engine: Engine, case: Case, world: World) -> Observation:
    """Start the case's program, do to it what happens from outside, wait for all runs, and return what is seen."""
    run = await engine.start(program, case.body, "root", id="root")
    async with trio.open_nursery() as nursery:
        for number, (ms, name) in enumerate(case.signals):
            nursery.start_soon(_signal_at, world.began_at + ms / 1000, run, name, number)
        for cancel_ms in (case.cancel_ms, _END_MS):
            if cancel_ms is not None:
                nursery.start_soon(_cancel_at, world.began_at + cancel_ms / 1000, run)
        outcome = await _ending(run)
        nursery.cancel_scope.cancel()
    while unfinished := (await engine.list_runs(status=_UNFINISHED)).runs:  # detached ones may start more of them
        for record in unfinished:
            await _ending(engine.get(record.id, program))
    return await _observe(engine, outcome, world)


async def _signal_at(at: float, run: Run[Any], name: str, number: int) -> None:
    await trio.sleep_until(at)
    with contextlib.suppress(RunFinished):
        await run.signal(name, number, id=f"signal {number}")


async def _cancel_at(at: float, run: Run[Any]) -> None:
    await trio.sleep_until(at)
    await run.cancel()


async def _ending(run: Run[Any]) -> Any:
    try:
        with trio.fail_after(_END_MS):
            return sorted(await run.result())
    except (RunFailed, RunCancelled, RunExpired) as error:
        return describe(error)


async def _observe(engine: Engine, outcome: Any, world: World) -> Observation:
    records = (await engine.list_runs()).runs
    labels = {record.id: record.args[1] for record in records}
    assert len(set(labels.values())) == len(labels), f"a child was started twice: {sorted(labels.values())}"
    runs = {}
    for record in records:
        steps = await engine.get(record.id).steps()
        compensations = [step.key.removeprefix("compensate/") for step in steps if step.kind is StepKind.COMPENSATION]
        rows: list[str] = []
        for step in steps:
            ms = (step.finished_at.timestamp() - record.created_at.timestamp()) * 1000
            # Who asks again after a crash may be told that it is too late.
            result = "asked" if "cancel#" in step.key else repr(step.result)
            text = f"{ms:09.2f} {step.key.replace(' ', '-')} {step.kind} {step.status} {step.attempt} {result}"
            if step.error is not None:
                text += f" {describe(step.error)}"
            rows.append(_without_ids(text, labels))
        if record.status == "cancelled" and record.finished_at == record.created_at:
            rows, values = [], {}  # started and cancelled at one instant: how far it came is nobody's doing
        else:
            values = {key: sorted(value) for key, value in record.values.items()}
        runs[labels[record.id]] = {
            "status": str(record.status),
            "error": describe(record.error) if record.error is not None else None,
            "values": values,
            "history": sorted(rows),
            "compensations": compensations,
            "consumed": [step.result for step in steps if step.kind is StepKind.SIGNAL and step.error is None],
            "undoable": await _undoable(engine, record.id),
        }
    return Observation(outcome, runs, sorted(set(world.undone)))


async def _undoable(engine: Engine, run_id: str) -> list[str]:
    """Return the keys of the rows with which a compensation was registered, in order."""
    writer = engine._client.services_in_use().writer  # no part of the public API tells it
    row = writer.store.ask(FindRun(run_id))
    assert row is not None
    return [str(item.key) for item in writer.store.ask(ListHistory(row.run)) if item.compensates]


def _without_ids(text: str, labels: dict[str, str]) -> str:
    for run_id, label in labels.items():
        text = text.replace(run_id, f"<{label.replace(' ', '-')}>")
    return text
