"""Where hostile objects go: each place of a run, and of the calls around it, that takes something of the user's."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import attrs
import trio

from durable_trio import CodecError, Context, DurableError, Engine, Retry, Workflow, open_engine, workflow
from tests.engine.hostile import Hostile, errors, values

#: What a call with something hostile may raise: one named error, that of its own checks.
NAMED = (CodecError, TypeError, ValueError)
_TWICE = Retry.fixed(2, 0)


@attrs.define(eq=False)
class Case:
    """A hostile object at a place. A run finds its case by its id: the object itself is no argument of it."""

    number: int
    hostile: Hostile
    place: str
    thing: Any
    annotation: Any
    flow: Workflow[Any, Any]
    other: Workflow[Any, Any] | None = None  # takes or gives the object, by its type

    @property
    def flows(self) -> tuple[Workflow[Any, Any], ...]:
        """The workflows that an engine must know."""
        return (self.flow,) if self.other is None else (self.flow, self.other)

    def __str__(self) -> str:
        return f"{self.hostile} in: {self.place}"


CASES: dict[int, Case] = {}


def make_case(number: int, hostile: Hostile, place: str) -> Case:
    """Make the object, and the workflows that are annotated with its type."""
    thing, annotation = hostile.make(f"Hostile{number}")
    case = CASES[number] = Case(number, hostile, place, thing, annotation, at_place)
    if place == "value: result":
        case.flow = attrs.evolve(at_place, name=f"place {number}", result_type=annotation)
    elif place in ("value: arguments of a child", "value: argument of a run"):
        case.other = attrs.evolve(_takes, name=f"takes {number}", argument_types=(annotation,))
    elif place == "value: result of a child":
        case.other = attrs.evolve(_gives, name=f"gives {number}", result_type=annotation)
    return case


def _case(ctx: Context) -> Case:
    return CASES[int(ctx.run_id.partition(" ")[0])]


def _thing(ctx: Context) -> Any:
    return _case(ctx).thing


def _other(ctx: Context) -> Any:
    return _case(ctx).other


def _annotation(ctx: Context) -> Any:
    return _case(ctx).annotation


# ---- exceptions, raised in a run -------------------------------------------------------------------------------------


async def _in_step(ctx: Context) -> None:
    async def fail() -> NoReturn:
        raise _thing(ctx)

    await ctx.step("fail", fail)


async def _in_step_twice(ctx: Context) -> None:
    async def fail() -> NoReturn:
        raise _thing(ctx)

    await ctx.step("fail", fail, retry=_TWICE, timeout=60)


async def _in_sync_step(ctx: Context) -> None:
    def fail() -> NoReturn:
        raise _thing(ctx)

    await ctx.step("fail", fail)


async def _in_map(ctx: Context) -> None:
    async def fail(_: int) -> NoReturn:
        raise _thing(ctx)

    results = await ctx.map("fail", fail, [1, 2], return_exceptions=True)
    raise results[1]


async def _in_transaction(ctx: Context) -> None:
    def fail(_: Any) -> NoReturn:
        raise _thing(ctx)

    await ctx.transaction("fail", fail, retry=_TWICE)


async def _in_compensation(ctx: Context) -> None:
    async def undo(_: Any) -> NoReturn:
        raise _thing(ctx)

    await ctx.step("begin", trio.lowlevel.checkpoint, compensate=undo)
    raise ValueError("undo it")


async def _in_body(ctx: Context) -> None:
    raise _thing(ctx)


async def _in_branch(ctx: Context) -> None:
    async def branch(_: Context) -> NoReturn:
        raise _thing(ctx)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch)
        nursery.start_soon(Context.sleep, 3600)


async def _in_nursery_block(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(Context.sleep, 3600)
        raise _thing(ctx)


async def _in_deadline(ctx: Context) -> None:
    with ctx.fail_after(3600), ctx.move_on_after(3600):
        raise _thing(ctx)


async def _in_deadline_that_is_over(ctx: Context) -> None:
    with ctx.move_on_after(0):
        try:
            await ctx.sleep(3600)
        finally:
            raise _thing(ctx)


async def _in_clean_up(ctx: Context) -> None:
    async def fail() -> NoReturn:
        try:
            await trio.sleep_forever()
        finally:
            raise _thing(ctx)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(Context.step, "fail", fail)
        await ctx.step("ready", trio.lowlevel.checkpoint)
        nursery.cancel_scope.cancel()


async def _in_child(ctx: Context) -> None:
    await ctx.run_child(raises_in_body, id=f"{ctx.run_id} child")


async def _in_group(ctx: Context) -> None:
    async def fail() -> NoReturn:
        raise ExceptionGroup("several", [ValueError("one"), _thing(ctx)])

    await ctx.step("fail", fail)


async def _as_cause(ctx: Context) -> None:
    async def fail() -> NoReturn:
        raise ValueError("because of it") from _thing(ctx)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(Context.step, "fail", fail)


async def _as_argument_of_another(ctx: Context) -> None:
    async def fail() -> NoReturn:
        error = ValueError("about it", _thing(ctx))
        error.__dict__["thing"] = _thing(ctx)
        raise error

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(Context.step, "fail", fail)


async def _in_branch_as_argument(ctx: Context) -> None:
    async def branch(_: Context) -> NoReturn:
        raise ValueError("about it", _thing(ctx))

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch)


@workflow
async def raises_in_body(ctx: Context) -> None:
    raise _thing(ctx)


# ---- values, given back by a run or given to a call of it ------------------------------------------------------------


async def _from_step(ctx: Context) -> None:
    async def give() -> Any:
        return _thing(ctx)

    await ctx.step("give", give, returns=_annotation(ctx))


async def _from_step_unannotated(ctx: Context) -> None:
    async def give() -> Any:
        return [{"it": _thing(ctx)}]

    await ctx.step("give", give)


async def _from_sync_step(ctx: Context) -> None:
    await ctx.step("give", lambda: _thing(ctx), returns=list[_annotation(ctx)] | int)  # type: ignore[misc]


async def _from_map(ctx: Context) -> None:
    async def give(_: Any) -> Any:
        return _thing(ctx)

    await ctx.map("give", give, [_thing(ctx), _thing(ctx)], returns=_annotation(ctx) | None)


async def _from_transaction(ctx: Context) -> None:
    await ctx.transaction("give", lambda _: _thing(ctx), returns=_annotation(ctx))


async def _undone(ctx: Context) -> None:
    async def give() -> Any:
        return _thing(ctx)

    async def undo(_: Any) -> Any:
        return _thing(ctx)

    try:
        await ctx.step("give", give, returns=_annotation(ctx), compensate=undo)
    finally:
        raise ValueError("undo it")


async def _published(ctx: Context) -> None:
    await ctx.publish("it", {"of": [_thing(ctx)]})


async def _to_child(ctx: Context) -> None:
    await ctx.run_child(_other(ctx), _thing(ctx), id=f"{ctx.run_id} child")


async def _from_child(ctx: Context) -> None:
    await ctx.run_child(_other(ctx), id=f"{ctx.run_id} child")


async def _to_next_generation(ctx: Context) -> None:
    await ctx.continue_as_new(_thing(ctx))


async def _as_result(ctx: Context) -> Any:
    return _thing(ctx)


async def _as_function(ctx: Context) -> None:
    await ctx.step("call", _thing(ctx))


async def _as_options(ctx: Context) -> None:
    """As whatever a call takes besides: a name, a number, a switch."""
    thing = _thing(ctx)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: ctx.step(thing, trio.lowlevel.checkpoint),
        lambda: ctx.step("step", trio.lowlevel.checkpoint, timeout=thing),
        lambda: ctx.step("step", trio.lowlevel.checkpoint, at_most_once=thing),
        lambda: ctx.step("step", lambda: None, abandon=thing),
        lambda: ctx.step("step", trio.lowlevel.checkpoint, retry=thing),
        lambda: ctx.step("step", trio.lowlevel.checkpoint, compensate=thing),
        lambda: ctx.step("step", trio.lowlevel.checkpoint, returns=thing),
        lambda: ctx.map("map", _nothing, [1, 2], limit=thing),
        lambda: ctx.map("map", _nothing, [1, 2], return_exceptions=thing),
        lambda: ctx.publish(thing, 1),
        lambda: ctx.start_child(thing, detached=True),
        lambda: ctx.start_child(nothing_at_all, priority=thing, detached=thing),
        lambda: ctx.start_child(nothing_at_all, tags={"it": thing}),
    ]
    for call in calls:
        try:
            await call()
        except Exception:
            continue


async def _nothing(_: Any) -> None:
    return None


@workflow(name="nothing at all")
async def nothing_at_all(ctx: Context) -> None:
    return None


ERRORS_IN_RUNS: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "step": _in_step,
    "step that is tried again": _in_step_twice,
    "sync step": _in_sync_step,
    "map": _in_map,
    "transaction": _in_transaction,
    "compensation": _in_compensation,
    "body": _in_body,
    "branch": _in_branch,
    "block of a nursery": _in_nursery_block,
    "deadline": _in_deadline,
    "deadline that is over": _in_deadline_that_is_over,
    "clean-up": _in_clean_up,
    "child": _in_child,
    "group": _in_group,
    "cause of another": _as_cause,
    "argument of another": _as_argument_of_another,
    "argument of another in a branch": _in_branch_as_argument,
}
VALUES_IN_RUNS: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "value: step": _from_step,
    "value: step without annotation": _from_step_unannotated,
    "value: sync step": _from_sync_step,
    "value: map": _from_map,
    "value: transaction": _from_transaction,
    "value: compensation": _undone,
    "value: publish": _published,
    "value: arguments of a child": _to_child,
    "value: result of a child": _from_child,
    "value: next generation": _to_next_generation,
    "value: result": _as_result,
    "value: function": _as_function,
    "value: options": _as_options,
}


@workflow(name="takes")
async def _takes(ctx: Context, given: Any) -> str:
    return "taken"


@workflow(name="gives")
async def _gives(ctx: Context) -> Any:
    return _thing(ctx)


@workflow(name="place")
async def at_place(ctx: Context, place: str) -> Any:
    return await (VALUES_IN_RUNS if place.startswith("value") else ERRORS_IN_RUNS)[place](ctx)


# ---- calls from outside ----------------------------------------------------------------------------------------------


async def _start(engine: Engine, case: Case) -> None:
    assert case.other is not None
    await engine.start(case.other, case.thing, id=f"{case.number} given")


async def _start_by_name(engine: Engine, case: Case) -> None:
    await engine.start("nothing at all", case.thing)


async def _signal(engine: Engine, case: Case) -> None:
    await engine.send_signal("waits", "it", case.thing)


async def _signal_within(engine: Engine, case: Case) -> None:
    await engine.send_signal("waits", "it", {"of": case.thing})


async def _start_with_signal(engine: Engine, case: Case) -> None:
    await engine.signal_with_start("nothing at all", signal="it", payload=case.thing, id=f"{case.number} signalled")


async def _inline_input(engine: Engine, case: Case) -> None:
    async with engine.inline(f"{case.number} inline", input=case.thing):
        pass


async def _inline_step(engine: Engine, case: Case) -> None:
    async def give() -> Any:
        return case.thing

    async with engine.inline(f"{case.number} inline") as ctx:
        await ctx.step("give", give, returns=case.annotation)


async def _inline_publish(engine: Engine, case: Case) -> None:
    async with engine.inline(f"{case.number} inline") as ctx:
        await ctx.publish("it", case.thing)


async def _options(engine: Engine, case: Case) -> None:
    thing: Any = case.thing
    error: Exception | None = None
    for number, options in enumerate(({"id": thing}, {"queue": thing}, {"priority": thing}, {"tags": {"it": thing}})):
        try:
            await engine.start("nothing at all", **{"id": f"{case.number} option {number}", **options})
        except NAMED as refused:
            error = refused
    for call in (
        lambda: engine.send_signal("waits", thing),
        lambda: engine.send_signal(thing, "it"),
        lambda: engine.cancel("waits not", reason=thing),
    ):
        try:
            await call()
        except (*NAMED, DurableError) as refused:
            error = refused
    if error is not None:
        raise error


async def _raise_in_inline_step(engine: Engine, case: Case) -> None:
    async def fail() -> NoReturn:
        raise case.thing

    async with engine.inline(f"{case.number} inline") as ctx:
        await ctx.step("fail", fail)


async def _raise_in_inline_block(engine: Engine, case: Case) -> None:
    async with engine.inline(f"{case.number} inline") as ctx:
        await ctx.step("begin", trio.lowlevel.checkpoint)
        raise case.thing


ERRORS_OUTSIDE: dict[str, Callable[[Engine, Case], Awaitable[None]]] = {
    "step of an inline run": _raise_in_inline_step,
    "block of an inline run": _raise_in_inline_block,
}
VALUES_OUTSIDE: dict[str, Callable[[Engine, Case], Awaitable[None]]] = {
    "value: argument of a run": _start,
    "value: argument of a run by name": _start_by_name,
    "value: payload of a signal": _signal,
    "value: within the payload of a signal": _signal_within,
    "value: payload of a signal with start": _start_with_signal,
    "value: input of an inline run": _inline_input,
    "value: step of an inline run": _inline_step,
    "value: publish in an inline run": _inline_publish,
    "value: options of calls": _options,
}


# ---- over a crash ----------------------------------------------------------------------------------------------------


@workflow
async def remembers(ctx: Context, place: str) -> str:
    """Return what the body has seen at that place, before a crash and after it."""
    seen = "nothing"
    try:
        await {**ERRORS_IN_RUNS, **VALUES_IN_RUNS}[place](ctx)
    except Exception as error:
        seen = type.__repr__(type(error))
    await ctx.publish("seen", seen)
    await ctx.wait_signal("go on")
    return seen


def cases_on_file() -> list[Case]:
    """Make the same cases in each process: each hook once, with faults and places in turn."""
    found: list[tuple[Hostile, str]] = []
    for objects, places in ((errors(), ERRORS_IN_RUNS), (values(), VALUES_IN_RUNS)):
        turn = itertools.cycle([place for place in places if place not in _NOT_ON_FILE])
        for _, of_hook in itertools.groupby(objects, key=lambda hostile: (hostile.kind, hostile.place)):
            faults = list(of_hook)
            found.append((faults[len(found) * 5 % len(faults)], next(turn)))
    return [make_case(number, *pair) for number, pair in enumerate(found)]


# The first ends the history, the second starts runs that nobody executes.
_NOT_ON_FILE = frozenset({"value: next generation", "value: options"})


def flows_on_file(cases: list[Case]) -> list[Workflow[Any, Any]]:
    """Return the workflows that those cases need."""
    others = [case.other for case in cases if case.other is not None]
    return [remembers, raises_in_body, nothing_at_all, *others]


def serve_until_killed(path: str) -> None:
    """Run the cases until all wait; then say so, and wait to be killed."""

    async def main() -> None:
        cases = cases_on_file()
        async with open_engine(path, workflows=flows_on_file(cases)) as engine:
            runs = [await engine.start(remembers, case.place, id=f"{case.number} run") for case in cases]
            for run in runs:
                async with run.watch() as changes:
                    async for record in changes:
                        if "seen" in record.values:
                            break
            print("ready", flush=True)
            await trio.sleep_forever()

    trio.run(main)
