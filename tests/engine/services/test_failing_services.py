"""What runs see when the executor stops for another reason than a drain: they are detached, never cancelled."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, workflow
from durable_trio.stores.questions import ListExecutors, Question
from supervisors import RestartIntensityExceeded
from tests.engine.harness import PATIENCE_SECONDS, serving

seen: list[str] = []
begun = trio.Event()
release = trio.Event()


async def nothing() -> None:
    pass


async def hold() -> None:
    begun.set()
    await release.wait()


async def interrupt() -> None:
    raise KeyboardInterrupt


@workflow
async def tidy(ctx: Context) -> str:
    try:
        await ctx.step("hold", hold)
    except trio.Cancelled:
        seen.append("detaching" if ctx.detaching else "cancelled")
        with ctx.move_on_after(5, shield=True):
            await ctx.step("clean up", nothing)
            seen.append("cleaned up")
        raise
    return "done"


@workflow
async def fatal(ctx: Context) -> None:
    await ctx.step("interrupt", interrupt)


async def test_a_runs_child_that_is_stopped_alone_detaches_its_runs_before_they_are_cancelled(file_path: str) -> None:
    global begun, release
    begun, release = trio.Event(), trio.Event()
    seen.clear()
    async with serving(file_path, tidy) as engine:
        await engine.start(tidy, id="tidy")
        await begun.wait()
        assert engine._serving.root is not None
        with trio.fail_after(PATIENCE_SECONDS):
            await engine._root.terminate_child("runs")
        assert seen == ["detaching"]
        release.set()


@pytest.mark.parametrize("reason", ["a service fails", "a step is interrupted"])
async def test_no_run_takes_the_end_of_the_executor_for_a_cancel(
    file_path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    global begun, release
    begun, release = trio.Event(), trio.Event()
    seen.clear()
    engine = Engine(file_path, workflows=[tidy, fatal])
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012  # the executor falls somewhere in the block
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.serve)
            await engine.start(tidy, id="tidy")
            await begun.wait()
            if reason == "a service fails":
                monkeypatch.setattr(engine._client.store, "foreign_changes", lambda: 1 / 0)
            else:
                await engine.start(fatal, id="fatal")
            with trio.fail_after(PATIENCE_SECONDS):
                await trio.sleep_forever()
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if reason == "a service fails":
        assert isinstance(error, RestartIntensityExceeded)
        assert (error.path, error.child) == (("engine", "services"), "feed")
        assert isinstance(error.__cause__, ZeroDivisionError)
    else:
        assert isinstance(error, KeyboardInterrupt)
    assert seen == ["detaching"]
    release.set()
    async with serving(file_path, tidy) as again:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await again.get("tidy").result() == "done"
        assert [step.key for step in await again.get("tidy").steps()] == ["hold#0"]


async def what_ends(
    engine: Engine, verb: str, question: type[Question[Any]] | None = None
) -> ExceptionGroup[Exception]:
    """Serve until a verb of the store has failed again and again; return what ``serve`` itself has raised."""
    raised: list[ExceptionGroup[Exception]] = []

    async def serve(*, task_status: trio.TaskStatus[Engine]) -> None:
        try:
            await engine.serve(task_status=task_status)
        except ExceptionGroup as group:
            raised.append(group)

    original = getattr(engine._client.store, verb)

    def fail(*args: object) -> Any:
        if question is None or isinstance(args[0], question):
            raise OSError("disk on fire")
        return original(*args)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            setattr(engine._client.store, verb, fail)
    (group,) = raised
    return group


async def test_the_text_of_what_serve_raises_names_the_child_at_once(file_path: str) -> None:
    group = await what_ends(Engine(file_path, workflows=[tidy]), "foreign_changes")
    assert str(group) == "the engine has failed: engine/services/feed crashed too often (1 sub-exception)"
    (exceeded,) = group.exceptions
    assert isinstance(exceeded, RestartIntensityExceeded)
    assert isinstance(exceeded.__cause__, OSError)


async def test_the_text_also_names_a_child_that_does_not_even_start_again(file_path: str) -> None:
    group = await what_ends(Engine(file_path, workflows=[tidy]), "ask", ListExecutors)
    assert group.message == (
        "the engine has failed: engine/services crashed too often "
        "(child 'engine/services/recovery' crashed before it was ready)"
    )


@workflow
async def leaving(ctx: Context) -> None:
    await ctx.step("exit", exit_program)


async def exit_program() -> None:
    raise SystemExit(3)


@workflow
async def short(ctx: Context) -> None:
    await ctx.step("nothing", nothing)


@pytest.mark.unmeasured
@pytest.mark.parametrize("attempt", range(3))
async def test_no_run_is_begun_once_the_code_of_another_has_ended_the_executor(file_path: str, attempt: int) -> None:
    """One that came at that very instant was never begun, never given back, and waited for without end."""

    async def start_many(engine: Engine, name: str) -> None:
        for number in range(1000):
            await engine.start(short, id=f"{name}-{number}")

    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            engine: Engine = await nursery.start(Engine(file_path, workflows=[leaving, short]).serve)
            for name in "abcdefgh":
                nursery.start_soon(start_many, engine, f"{name}{attempt}")
            await trio.sleep(0.02)
            await engine.start(leaving, id="leaving")
            await trio.sleep_forever()
    assert caught.group_contains(SystemExit)
    assert not caught.group_contains(RuntimeError)
