"""Uploads in a window, of Tk and of Qt: killed in the middle they go on, and the window shows what becomes of them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from operator import methodcaller
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from durable_trio import Engine, sqlite3
from durable_trio.errors import StoreError
from tests.engine.harness import PATIENCE_SECONDS
from tests.examples.kit import EXAMPLES
from tests.kit.forks import Forked
from tests.platforms.windows import TOOLKITS, environment_of, must_be_there

PARTS = 8


@pytest.fixture(params=TOOLKITS)
def toolkit(request: pytest.FixtureRequest) -> str:
    """The name of each toolkit that is there."""
    found: str = request.param
    must_be_there(found)
    return found


def program(toolkit: str) -> Path:
    return EXAMPLES / "other_loops" / f"{toolkit}_uploads.py"


def begin(toolkit: str, folder: Path) -> Forked[Any]:
    argv = [sys.executable, "-W", "error", str(program(toolkit)), str(folder)]
    return Forked(argv, env=os.environ | environment_of(toolkit), stderr=subprocess.PIPE, text=True)


def recorded(folder: Path) -> int:
    if not (folder / "app.db").exists():
        return 0
    with closing(sqlite3.connect(folder / "app.db")) as connection, suppress(sqlite3.OperationalError):
        return int(connection.execute("SELECT count(*) FROM history WHERE name = 'send'").fetchone()[0])
    return 0


def wait_until(condition: Callable[[], bool], process: Forked[Any]) -> None:
    """Return once it holds; fail if the program ends before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)


def test_an_upload_goes_on_where_the_program_was_killed(toolkit: str, tmp_path: Path) -> None:
    async def start() -> None:
        async with Engine(tmp_path / "app.db") as engine:
            await engine.start("upload", PARTS, id="upload 1")

    async def is_completed() -> bool:
        with suppress(StoreError):
            async with Engine(tmp_path / "app.db") as engine:
                return (await engine.get("upload 1").record()).status == "completed"
        return False

    trio.run(start)  # nobody presses a button of it
    with begin(toolkit, tmp_path) as first:
        wait_until(lambda: recorded(tmp_path) >= 2, first)
        first.kill()
    done = recorded(tmp_path)
    assert done < PARTS
    with begin(toolkit, tmp_path) as second:
        wait_until(lambda: recorded(tmp_path) == PARTS and trio.run(is_completed), second)
        second.send_signal(signal.SIGINT)
        assert "Traceback" not in second.communicate(timeout=PATIENCE_SECONDS)[1].partition("KeyboardInterrupt")[2]
    sent = Counter((tmp_path / "parts.txt").read_text().split("\n")[:-1])
    assert list(sent) == [f"upload 1: {part}" for part in range(1, PARTS + 1)]
    assert all(count == 1 for line, count in sent.items() if line != f"upload 1: {done + 1}")  # it was under way


@pytest.fixture
def module(toolkit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module, with its files in a folder of the test's."""
    for name, value in environment_of(toolkit).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["uploads.py", str(tmp_path)])
    spec = importlib.util.spec_from_file_location("uploads", program(toolkit))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_window_follows_what_its_buttons_start_and_cancel(
    toolkit: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from durable_trio import Engine

    if toolkit == "tk":
        monkeypatch.setattr(module.messagebox, "askyesno", lambda *_: True)
        window = module.Uploads()
        after, run, show = window.after, window.mainloop, window.show
        press, close = methodcaller("invoke"), window.leave

        def row() -> list[str]:
            items = window.table.get_children()
            return [str(text) for text in window.table.item(items[0], "values")] if items else []

        def choose() -> None:
            window.table.selection_set(window.table.get_children()[0])

    else:
        from PySide6.QtCore import QTimer
        from PySide6.QtWidgets import QApplication, QMessageBox

        monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
        app: Any = QApplication.instance() or QApplication(["tests"])
        window = module.Uploads(app)
        window.show()
        after, run, show = QTimer.singleShot, app.exec, window.show_upload
        press, close = methodcaller("click"), window.close

        def row() -> list[str]:
            return [window.table.item(0, column).text() for column in range(3)] if window.table.rowCount() else []

        def choose() -> None:
            window.table.selectRow(0)

    seen: list[str] = []
    deadline = time.monotonic() + PATIENCE_SECONDS

    def look() -> None:
        if row() and row()[2] not in seen[-1:]:
            seen.append(row()[2])
            assert row()[0] == "upload 1"
            if row()[2] == "running":
                choose()
                press(window.stop)
        close() if "cancelled" in seen or time.monotonic() > deadline else after(2, look)

    with window.engine as engine:
        engine.follow(Engine.watch, then=show)
        press(window.new)
        look()
        run()
    assert seen[-1] == "cancelled"
