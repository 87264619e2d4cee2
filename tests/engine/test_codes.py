"""Which code an engine has of its workflows, and what comes of runs that another code has parked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from trio.testing import MockClock

from durable_trio import Context, Engine, RunStatus, Workflow, workflow
from durable_trio.engine.codes import BUILD_VARIABLE, Codes
from tests.engine.harness import wait_parked, wait_passivated
from tests.kit.crash_points import crashing_store, live_once
from tests.kit.traces import note

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


def flow(name: str) -> Workflow[[], str]:
    """Return code whose step has a name that only its closure tells."""

    @workflow(name="flow")
    async def made(ctx: Context) -> str:
        await ctx.step(name, note, name)
        return str(await ctx.wait_signal("go"))

    return made


async def start(engine: Engine) -> None:
    await engine.start("flow", id="run")
    await wait_passivated(engine)


async def wake(engine: Engine) -> None:
    await engine.send_signal("run", "go", "gone", id="go")
    await wait_parked(engine.get("run"))


async def stays_parked(engine: Engine) -> None:
    await wait_passivated(engine)
    record = await engine.get("run").record()
    assert (record.status, record.problem is not None) == (RunStatus.SUSPENDED, True)


async def ends(engine: Engine) -> None:
    assert await engine.get("run").result() == "gone"


async def served(*stays: tuple[str, str | None, Callable[[Engine], Awaitable[None]]]) -> None:
    """Serve one code after the other: the name of its step, its build, and what is done meanwhile."""
    async with crashing_store() as store:
        for name, build, scenario in stays:
            await live_once(store, [flow(name)], scenario, build=build)


async def test_a_parked_run_is_tried_again_by_code_that_is_another_in_what_it_was_made_of(
    autojump_clock: MockClock,
) -> None:
    await served(("a", None, start), ("b", None, wake), ("b", None, stays_parked), ("a", None, ends))


async def test_with_builds_their_names_alone_tell_codes_apart(autojump_clock: MockClock) -> None:
    await served(("a", "1", start), ("b", "2", wake), ("a", "2", stays_parked), ("a", "3", ends))


def test_the_build_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Codes("given").of(flow("a")) == "given"
    by_fingerprint = Codes().of(flow("a"))
    assert by_fingerprint == Codes().of(flow("a")) != Codes().of(flow("b"))
    monkeypatch.setenv(BUILD_VARIABLE, "deployed")
    assert (Codes().of(flow("a")), Codes("given").of(flow("a"))) == ("deployed", "given")
    monkeypatch.setenv(BUILD_VARIABLE, "")
    assert Codes().of(flow("a")) == by_fingerprint


@pytest.mark.parametrize(("build", "error"), [("", ValueError), (7, TypeError), (" a", ValueError)])
def test_a_build_must_be_a_name(build: Any, error: type[Exception], file_path: str) -> None:
    with pytest.raises(error):
        Engine(file_path, build=build)


async def test_what_cannot_be_looked_at_in_a_closure_is_no_hindrance(autojump_clock: MockClock) -> None:
    class Meta(type):
        def __hash__(cls) -> int:
            raise GeneratorExit

    class Odd(metaclass=Meta):
        pass

    odd = Odd()

    @workflow(name="flow")
    async def made(ctx: Context) -> str:
        return type(odd).__name__

    async with crashing_store() as store:

        async def run(engine: Engine) -> str:
            return str(await (await engine.start("flow")).result())

        assert await live_once(store, [made], run) == "Odd"
