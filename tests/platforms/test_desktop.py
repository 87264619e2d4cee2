"""The engine in the loop of a window: of Tk's on a display in memory, and of Qt's without a display."""

from __future__ import annotations

import importlib
import itertools
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from outcome import Outcome

from durable_trio import (
    Context,
    Engine,
    RunFailed,
    RunRecord,
    StoreError,
    current_step,
    open_engine,
    workflow,
)
from durable_trio.platforms.desktop import DesktopEngine
from durable_trio.platforms.hosts.driver import Driver
from tests.engine.harness import Leftovers
from tests.platforms.windows import TOOLKITS, TkWindow, Window

BEGUN: list[str] = []  # run ids of steps that have begun
HELD = threading.Event()


async def add(n: int) -> int:
    await trio.sleep(0.001)
    return n + 1


async def hold(seconds: float) -> str:
    BEGUN.append(current_step().run_id)
    await trio.sleep(seconds)
    return "done"


@workflow
async def count(ctx: Context, upto: int) -> int:
    n = 0
    for _ in range(upto):
        n = await ctx.step("add", add, n)
    return n


@workflow
async def slow(ctx: Context, seconds: float) -> str:
    held = await ctx.step("hold", hold, seconds)
    await ctx.wait_signal("go on")
    return held


def serving(path: Path | str = ":memory:", **options: Any) -> Any:
    return open_engine(path, workflows=[count, slow], **options)


@pytest.fixture
def window(toolkit: str) -> Iterator[Window]:
    """A window of each toolkit, in this process; nothing in it may report an error unseen."""
    BEGUN.clear()
    found = TOOLKITS[toolkit]()
    try:
        yield found
        assert not found.reported
    finally:
        found.end()
    assert not trio.lowlevel.in_trio_run(), "a guest is left in this thread"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def raised(kind: type[BaseException], fn: Callable[[], object]) -> str:
    with pytest.raises(kind) as found:
        fn()
    return str(found.value)


def run_in(window: Window, engine: Any) -> None:
    """Do nothing but be in the loop, with a call that waits."""
    with window.host(engine) as desktop:
        desktop.call_soon(Engine.status)
        window.run()


def history(path: Path, run_id: str) -> list[str]:
    async def read() -> list[str]:
        async with Engine(path) as engine:
            return [f"{step.key} {step.status}" for step in await engine.get(run_id).steps()]

    return trio.run(read)


def test_results_and_changes_come_to_callbacks_in_the_thread_of_the_window(window: Window) -> None:
    seen: list[str] = []
    results: list[int] = []

    def show(record: RunRecord) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert not trio.lowlevel.in_trio_task()
        seen.append(f"{record.id} {record.status}")
        if record.status == "completed":
            engine.close()

    with window.host(serving()) as engine:
        engine.follow(Engine.watch, then=show)
        engine.call_soon(partial(Engine.start, id="run"), count, 5)
        engine.call_soon(Engine.run, count, 3, then=results.append)  # the second run, or the first, ends it
        window.run()
    assert "run completed" in seen or results == [3]


def test_a_client_has_what_others_execute(window: Window, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    pages: list[Any] = []

    async def execute() -> None:
        async with serving(path) as engine:
            await (await engine.start(count, 2, id="run")).result()

    trio.run(execute)
    with window.host(Engine(path)) as engine:
        engine.call_soon(Engine.list_runs, then=lambda page: (pages.append(page), engine.close()))  # type: ignore[func-returns-value]
        window.run()
    assert [record.id for record in pages[0].runs] == ["run"]


def test_closing_the_window_in_a_step_lets_it_finish(toolkit: str, window: Window, tmp_path: Path) -> None:
    """Tk's stays until then. Qt's is gone, for nobody has asked it to wait."""
    path = tmp_path / "app.db"
    was_there: list[bool] = []

    def close_once_begun() -> None:
        if not BEGUN:
            window.after(1, close_once_begun)
            return
        window.close()
        was_there.append(window.is_there())

    with window.host(serving(path)) as engine:
        engine.call_soon(partial(Engine.start, id="run"), slow, 0.1)
        close_once_begun()
        window.run()
    assert history(path, "run") == ["hold#0 completed"]
    assert was_there == [toolkit == "tk"]
    assert not window.is_there()


@pytest.mark.parametrize("toolkit", ["tk"], indirect=True)  # nobody takes those of Qt's windows
def test_a_handler_of_the_program_for_closing_is_left_to_it(window: Window) -> None:
    closings: list[str] = []
    assert isinstance(window, TkWindow)

    def on_destroy() -> None:
        closings.append("of the program")
        engine.close()

    before: Any = window.root.protocol("WM_DELETE_WINDOW")
    with window.host(serving()):
        assert window.root.protocol("WM_DELETE_WINDOW") != before
        window.after(1, window.root.quit)
        window.run()
    assert window.root.protocol("WM_DELETE_WINDOW") == before
    window.root.protocol("WM_DELETE_WINDOW", on_destroy)
    with window.host(serving()) as engine:
        window.after(1, window.close)
        window.run()
    assert closings == ["of the program"]


def test_closing_twice_waits_for_no_step(window: Window, tmp_path: Path) -> None:
    """Without that this one would wait for an hour."""
    path = tmp_path / "app.db"

    def close_once_begun() -> None:
        if not BEGUN:
            window.after(1, close_once_begun)
            return
        engine.close()
        window.after(20, engine.close)

    with window.host(serving(path, grace_seconds=3600)) as engine:
        engine.call_soon(partial(Engine.start, id="run"), slow, 3600)
        close_once_begun()
        window.run()
    assert history(path, "run") == []


def test_what_was_asked_for_just_before_the_end_is_done(window: Window, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with window.host(serving(path)) as engine:
        opened: list[object] = []
        engine.call_soon(Engine.status, then=opened.append)

        def ask_and_close() -> None:
            if not opened:
                window.after(1, ask_and_close)
                return
            for n in range(10):
                engine.call_soon(partial(Engine.start, id=f"run {n}"), slow, 0.0)
            engine.close()

        ask_and_close()
        window.run()

    async def count_runs() -> int:
        async with Engine(path) as client:
            return len((await client.list_runs()).runs)

    assert trio.run(count_runs) == 10


def test_a_program_that_ends_the_loop_by_itself_drains_at_the_end_of_the_block(window: Window, tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    def leave_once_begun() -> None:
        window.leave() if BEGUN else window.after(1, leave_once_begun)

    with window.host(serving(path)) as engine:
        engine.call_soon(partial(Engine.start, id="run"), slow, 0.05)
        leave_once_begun()
        window.run()
    assert history(path, "run") == ["hold#0 completed"]


def test_an_exception_of_the_block_comes_out_once_the_engine_has_drained(window: Window, tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    def leave_once_begun() -> None:
        window.leave() if BEGUN else window.after(1, leave_once_begun)

    def program() -> None:
        with window.host(serving(path)) as engine:
            engine.call_soon(partial(Engine.start, id="run"), slow, 0.05)
            leave_once_begun()
            window.run()
            raise ZeroDivisionError

    raised(ZeroDivisionError, program)
    assert history(path, "run") == ["hold#0 completed"]


def test_runs_go_on_while_a_modal_dialog_is_open(window: Window) -> None:
    said: list[str] = []

    def begin() -> None:
        engine.call_soon(Engine.run, count, 20, then=done)
        said.append("opened")
        window.open_dialog()
        said.append("closed")
        engine.close()

    def done(result: int) -> None:
        said.append(f"result {result}")
        window.close_dialog()

    with window.host(serving()) as engine:
        window.after(0, begin)
        window.run()
    assert said == ["opened", "result 20", "closed"]


def test_a_dialog_that_a_callback_opens_holds_up_its_own_changes_only(window: Window) -> None:
    said: list[str] = []

    def opened(_: object) -> None:
        engine.call_soon(Engine.run, count, 5, then=done)
        window.open_dialog()
        said.append("closed")
        engine.close()

    def done(result: int) -> None:
        said.append(f"result {result}")
        window.close_dialog()

    with window.host(serving()) as engine:
        engine.call_soon(Engine.status, then=opened)
        window.run()
    assert said == ["result 5", "closed"]


def test_timers_of_the_window_come_while_runs_come_in_a_burst(window: Window) -> None:
    """Of the processor's time of this thread, whatever else the machine does, a timer waits for a small part only."""
    at: list[float] = []
    left = [40]
    is_over: list[bool] = []

    def tick() -> None:
        at.append(time.thread_time())
        if not is_over:
            window.after(1, tick)

    def done(_: int) -> None:
        left[0] -= 1
        if not left[0]:
            is_over.append(True)
            engine.close()

    with window.host(serving()) as engine:
        for _ in range(left[0]):
            engine.call_soon(Engine.run, count, 5, then=done)
        tick()
        window.run()
    longest = max(after - before for before, after in itertools.pairwise(at))
    assert len(at) > 10
    assert longest < max(0.1, (at[-1] - at[0]) / 3)


def test_what_a_call_raises_goes_to_its_callback_or_is_reported(window: Window) -> None:
    failures: list[BaseException] = []

    async def wrong(engine: Engine) -> None:
        raise LookupError("of a call")

    def bad(_: object) -> None:
        raise ZeroDivisionError("of a callback")

    with window.host(serving()) as engine:
        engine.call_soon(wrong, failed=failures.append)
        engine.call_soon(wrong)
        engine.call_soon(Engine.status, then=bad)

        def close_when_told() -> None:
            engine.close() if len(failures) + len(window.reported) == 3 else window.after(1, close_when_told)

        close_when_told()
        window.run()
    assert [str(error) for error in failures] == ["of a call"]
    assert sorted(str(error) for error in window.reported) == ["of a call", "of a callback"]
    window.reported.clear()


def test_nothing_comes_of_what_was_cancelled(window: Window) -> None:
    told: list[object] = []
    with window.host(serving()) as engine:

        def watching(record: RunRecord) -> None:
            told.append(record.status)
            followed.cancel()
            waiting.cancel()
            engine.call_soon(Engine.send_signal, record.id, "go on")
            engine.call_soon(Engine.run, count, 3, then=lambda _: engine.close())

        followed = engine.follow(Engine.watch, then=watching)
        waiting = engine.call_soon(Engine.run, slow, 0.0, then=told.append, failed=told.append)
        window.run()
        assert len(told) == 1
    followed.cancel()


def test_an_engine_that_cannot_be_opened_ends_the_loop_and_says_why(window: Window, tmp_path: Path) -> None:
    (tmp_path / "app.db").write_bytes(b"no database" * 1000)
    assert "app.db" in raised(StoreError, lambda: run_in(window, serving(tmp_path / "app.db")))
    assert "grace_second" in raised(TypeError, lambda: run_in(window, serving(grace_second=1)))


def test_an_engine_that_fails_for_good_ends_the_loop_and_comes_out_of_the_block(window: Window) -> None:
    async def fail(engine: Engine) -> None:
        engine._client.services_in_use().give_up(RuntimeError("no more"))
        await trio.sleep_forever()

    def program() -> None:
        with window.host(serving()) as engine:
            engine.call_soon(fail)
            window.run()

    assert "the engine has failed" in raised(ExceptionGroup, program)
    assert window.is_there()  # so that the program can say so


# ---- what is written wrongly -----------------------------------------------------------------------------------------


def test_each_wrong_use_says_what_to_write(window: Window) -> None:
    engine = window.host(serving())
    call = partial(engine.call_soon, Engine.status)
    assert window.line in raised(RuntimeError, call)
    said: dict[str, str] = {}

    def in_thread() -> None:
        said["thread"] = raised(RuntimeError, call)
        said["cancel"] = raised(RuntimeError, waiting.cancel)

    async def in_trio(native: Engine) -> None:
        said["trio"] = raised(RuntimeError, call)
        window.after(0, lambda: said.update(dialog=raised(RuntimeError, call)))
        window.after(1, window.close_dialog)
        window.open_dialog()

    @workflow
    async def body(ctx: Context) -> None:
        said["body"] = raised(RuntimeError, call)

    def again() -> None:
        with window.host(serving()):
            raise AssertionError

    def opened(_: object) -> None:
        other = threading.Thread(target=in_thread)
        other.start()
        other.join()
        said["second"] = raised(RuntimeError, again)
        engine.close()

    with engine:
        waiting = engine.call_soon(Engine.run, slow, 0.0)
        engine.call_soon(in_trio, then=opened)
        window.run()
    assert "lambda: call.cancel())" in said["cancel"]
    assert "another one: write root.after(0" in said["thread"] or "write QTimer.singleShot(0, app" in said["thread"]
    assert "current_step().engine" in said["trio"]
    assert "have `then=` open it" in said["dialog"]
    assert "async with open_engine(…)" in said["second"]
    assert window.line in raised(trio.ClosedResourceError, call)
    assert window.line in raised(RuntimeError, engine.__enter__)


def test_nothing_is_left_behind(toolkit: str, tmp_path: Path) -> None:
    window = TOOLKITS[toolkit]()
    with window.host(serving(tmp_path / "first.db")):  # what a toolkit opens for good, and keeps
        window.after(1, window.pause)
        window.run()
    before = Leftovers.now()
    with window.host(serving(tmp_path / "app.db")) as engine:
        engine.call_soon(Engine.run, count, 2, then=lambda _: engine.close())
        window.run()
    window.end()
    before.assert_nothing_new()


def test_a_body_that_calls_the_window_is_told_of_its_context(window: Window) -> None:
    failures: list[BaseException] = []
    engines: list[DesktopEngine] = []

    @workflow
    async def calls(ctx: Context) -> None:
        engines[0].call_soon(Engine.status)

    def failed(error: BaseException) -> None:
        failures.append(error)
        engine.close()

    with window.host(open_engine(":memory:", workflows=[calls])) as engine:
        engines.append(engine)
        engine.call_soon(Engine.run, calls, failed=failed)
        window.run()
    assert isinstance(failures[0], RunFailed)
    assert "use ctx in a body" in str(failures[0])


def test_a_block_in_which_no_loop_has_run_says_so(window: Window) -> None:
    with pytest.raises(RuntimeError, match="as its last line, inside `with host"), window.host(serving()) as engine:
        engine.call_soon(Engine.status)


def test_without_pyside_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PySide6.QtCore", None)
    monkeypatch.delitem(sys.modules, "durable_trio.platforms.qt", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'durable-trio\[qt\]'"):
        importlib.import_module("durable_trio.platforms.qt")


# ---- the loops as hosts ----------------------------------------------------------------------------------------------


def test_trios_own_ticks_do_the_work_where_no_descriptor_can_be_watched(window: Window) -> None:
    """As on Windows: then a thread waits, and calls from there."""
    host: Any = window.host(serving())._toolkit.make_host()
    if hasattr(host, "_tk"):
        host._tk = types.SimpleNamespace(call=host._tk.call)  # as there
    ended: list[Outcome[Any]] = []

    async def main() -> str:
        await trio.sleep(0.01)
        return await trio.to_thread.run_sync(lambda: "from a thread")

    def end(outcome: Outcome[Any]) -> None:
        ended.append(outcome)
        window.leave()

    driver = Driver(host, is_stock=not hasattr(host, "_tk"))
    driver.start(main, end)
    window.run()
    assert not driver.is_own
    assert ended[0].unwrap() == "from a thread"
