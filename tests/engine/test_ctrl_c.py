"""Ctrl-C at the worst places: it stops the program, breaks nothing of trio's, and the run goes on in the next one."""

from __future__ import annotations

import contextlib
import functools
import queue
import signal
import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunFailed, RunStatus, open_engine, workflow
from durable_trio.calls.step import FunctionCall
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.rules import residency
from durable_trio.stores import threads
from durable_trio.stores import writer as writer_module
from durable_trio.stores.contract import ClaimRun, ForkRun, ResumeRun, SendSignal, SignalWithStart, StartRun
from durable_trio.stores.writer import Writer
from durable_trio.turns.mailbox import Mailbox
from tests.engine.harness import PATIENCE_SECONDS, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")


async def double(number: int) -> int:
    return 2 * number


@workflow
async def quadruple(ctx: Context, number: int) -> int:
    return await ctx.step("second", double, await ctx.step("first", double, number))


class CtrlC:
    """Comes right after the nth call of a function, in the middle of whoever calls it."""

    def __init__(self, nth: int) -> None:
        self._nth = nth
        self._is_armed = False
        self.came = False

    def arm(self) -> None:
        self._is_armed = True

    def after(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            if self._is_armed and not self.came:
                self._nth -= 1
                if not self._nth:
                    self.came = True
                    signal.raise_signal(signal.SIGINT)
            return result

        return call


def interrupt_and_go_on(file_path: str, ctrl_c: CtrlC) -> None:
    async def program() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_engine(file_path, workflows=[quadruple]) as engine:
                ctrl_c.arm()
                await engine.run(quadruple, 3, id="run")
                await trio.sleep_forever()

    async def next_program() -> int:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_engine(file_path, workflows=[quadruple]) as engine:
                return await engine.run(quadruple, 3, id="run")

    was_raised = False
    try:
        trio.run(program)
    except* KeyboardInterrupt:  # by itself from the main task, in groups from others; and nothing else
        was_raised = True
    assert was_raised
    assert ctrl_c.came
    assert trio.run(next_program) == 12


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_when_the_writer_thread_has_just_got_a_batch(nth: int, file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl_c = CtrlC(nth)

    class Jobs(queue.SimpleQueue[Any]):
        put = ctrl_c.after(queue.SimpleQueue.put)

    monkeypatch.setattr(threads, "queue", types.SimpleNamespace(SimpleQueue=Jobs))
    monkeypatch.setattr(writer_module, "INLINE_COMMIT_MS_MAX", -1)  # never on the event loop
    interrupt_and_go_on(file_path, ctrl_c)


@pytest.mark.parametrize("nth", [1, 2])
def test_when_an_operation_has_just_been_queued(nth: int, file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl_c = CtrlC(nth)
    monkeypatch.setattr(Writer, "submit", ctrl_c.after(Writer.submit))
    interrupt_and_go_on(file_path, ctrl_c)


@pytest.mark.parametrize("nth", [1, 2])
def test_when_a_function_has_just_come_out(nth: int, file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl_c = CtrlC(nth)
    monkeypatch.setattr(FunctionCall, "ended", ctrl_c.after(FunctionCall.ended))
    interrupt_and_go_on(file_path, ctrl_c)


class MishapError(Exception):
    pass


@workflow
async def fails(ctx: Context) -> None:
    await ctx.step("first", double, 1)
    raise MishapError


@workflow
async def listens(ctx: Context) -> int:
    return await ctx.wait_signal("go", int)


@pytest.mark.parametrize(("owner", "name"), [(Writer, "write"), (Mailbox, "take")])
def test_when_a_run_is_told_of_a_signal(
    owner: type, name: str, file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender gets it. The run has taken the signal, and has no part in that."""
    ctrl_c, faults = CtrlC(1), list[BaseException]()
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)  # it stays in memory

    async def program() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_engine(file_path, workflows=[listens]) as engine:
                run = await engine.start(listens, id="run")
                await wait_status(run, RunStatus.SUSPENDED)
                patch(owner, name)
                ctrl_c.arm()
                try:
                    await run.signal("go", 7)
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        assert await run.result() == 7

    def patch(owner: type, name: str) -> None:
        monkeypatch.setattr(ResidentRun, "failed", lambda _, error: faults.append(error))
        whole = getattr(owner, name)
        if owner is not Writer:
            monkeypatch.setattr(owner, name, ctrl_c.after(whole))
            return
        come = ctrl_c.after(lambda: None)

        async def write(self: Writer, operation: Any) -> Any:
            outcome = await whole(self, operation)
            if isinstance(operation, SendSignal):
                come()
            return outcome

        monkeypatch.setattr(owner, name, write)

    with pytest.raises(KeyboardInterrupt):
        trio.run(program)
    assert ctrl_c.came
    assert faults == []


async def start_and_wait(engine: Engine) -> None:
    await engine.start(listens, id="run")
    await trio.sleep_forever()


async def signal_with_start_and_wait(engine: Engine) -> None:
    await engine.signal_with_start(listens, signal="go", payload=7, id="run")
    await trio.sleep_forever()


async def enter_and_wait(engine: Engine) -> None:
    async with engine.inline("script"):
        await trio.sleep_forever()


async def resume_and_wait(engine: Engine) -> None:
    await engine.resume("failed")
    await trio.sleep_forever()


async def fork_and_wait(engine: Engine) -> None:
    await engine.fork("failed", before="first#0", id="failed again")
    await trio.sleep_forever()


async def fails_again(engine: Engine) -> bool:
    return await has_failed(engine, "failed")


async def fork_fails(engine: Engine) -> bool:
    return await has_failed(engine, "failed again")


async def has_failed(engine: Engine, run_id: str) -> bool:
    with pytest.raises(RunFailed):
        await engine.get(run_id).result()
    return True


async def ends(engine: Engine) -> bool:
    await engine.get("run").signal("go", 7)
    return bool(await engine.get("run").result() == 7)


async def can_be_entered(engine: Engine) -> bool:
    async with engine.inline("script") as ctx:
        return await ctx.step("first", double, 2) == 4


@pytest.mark.parametrize(
    ("begin", "operations", "go_on"),
    [
        (start_and_wait, StartRun, ends),
        (signal_with_start_and_wait, SignalWithStart, ends),
        (enter_and_wait, StartRun, can_be_entered),
        (enter_and_wait, ClaimRun, can_be_entered),
        (resume_and_wait, ResumeRun, fails_again),
        (fork_and_wait, ForkRun, fork_fails),
    ],
)
def test_when_a_run_has_just_been_stored_or_claimed(
    begin: Callable[[Engine], Awaitable[None]],
    operations: type,
    go_on: Callable[[Engine], Awaitable[bool]],
    file_path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has started it gets it, and may go on; so does the run, which nobody else would take meanwhile."""
    ctrl_c = CtrlC(1)
    come = ctrl_c.after(lambda: None)
    whole = Writer.write

    async def write(self: Writer, operation: Any) -> Any:
        outcome = await whole(self, operation)
        if isinstance(operation, operations):
            come()
        return outcome

    async def program() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_engine(file_path, workflows=[listens, fails]) as engine:
                with contextlib.suppress(MishapError):
                    async with engine.inline("script"):
                        raise MishapError
                with pytest.raises(RunFailed):
                    await engine.run(fails, id="failed")
                monkeypatch.setattr(Writer, "write", write)
                ctrl_c.arm()
                with pytest.raises(KeyboardInterrupt):
                    await begin(engine)
                assert await go_on(engine)

    trio.run(program)
    assert ctrl_c.came


@pytest.mark.parametrize("nth", [1, 2])
def test_when_a_durable_call_is_about_to_wait(nth: int, file_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ctrl_c = CtrlC(nth)
    monkeypatch.setattr(FunctionCall, "go_live", ctrl_c.after(FunctionCall.go_live))
    interrupt_and_go_on(file_path, ctrl_c)
