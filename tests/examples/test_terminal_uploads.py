"""Uploads in a terminal: killed in the middle they go on, and the table shows them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pty
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from durable_trio import sqlite3
from tests.engine.harness import PATIENCE_SECONDS
from tests.examples.kit import EXAMPLES
from tests.kit.forks import Forked

pytest.importorskip("textual")

PARTS = 8


class Terminal:
    """The program in a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self._keys, inner = pty.openpty()
        self.process: Forked[bytes] = Forked(
            [sys.executable, str(EXAMPLES / "other_loops" / "terminal_uploads.py"), str(folder)],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
            start_new_session=True,
        )
        os.close(inner)
        self.screen = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the other end is closed
            while read := os.read(self._keys, 65536):
                self.screen += read

    def press(self, key: str) -> None:
        os.write(self._keys, key.encode())

    def end(self) -> int:
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        os.close(self._keys)
        return status


def sent(folder: Path) -> Counter[str]:
    path = folder / "parts.txt"
    return Counter(path.read_text().splitlines() if path.exists() else [])


def recorded(folder: Path) -> int:
    if not (folder / "app.db").exists():
        return 0
    with closing(sqlite3.connect(folder / "app.db")) as connection, suppress(sqlite3.OperationalError):
        return int(connection.execute("SELECT count(*) FROM history WHERE name = 'send'").fetchone()[0])
    return 0


def test_an_upload_goes_on_where_the_program_was_killed(tmp_path: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    first = Terminal(tmp_path)
    while b"New" not in first.screen or not (tmp_path / "app.db").exists():
        assert time.monotonic() < until, first.screen
        time.sleep(0.01)
    while recorded(tmp_path) < 2:
        if not sent(tmp_path):
            first.press("n")  # it may have come too early
        assert time.monotonic() < until, first.screen
        time.sleep(0.05)
    first.process.send_signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    done = recorded(tmp_path)
    assert done < PARTS

    second = Terminal(tmp_path)
    while b"completed" not in second.screen:
        assert time.monotonic() < until, second.screen
        time.sleep(0.01)
    second.press("q")
    assert second.end() == 0
    counts = {line.partition(": ")[2]: count for line, count in sent(tmp_path).items() if line.startswith("upload 1:")}
    assert list(counts) == [str(part) for part in range(1, PARTS + 1)]
    assert all(count == 1 for part, count in counts.items() if part != str(done + 1))  # that one was under way


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module, with its files in a folder of the test's."""
    monkeypatch.setattr(sys, "argv", ["terminal_uploads.py", str(tmp_path)])
    spec = importlib.util.spec_from_file_location("terminal_uploads", EXAMPLES / "other_loops" / "terminal_uploads.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_follows_what_is_started_and_cancelled(program: ModuleType) -> None:
    async def main() -> None:
        app: Any = program.Uploads()
        async with asyncio.timeout(PATIENCE_SECONDS), app.run_test() as pilot:
            await pilot.press("n")
            while app.table.row_count < 1:  # the table is fed by a watch
                await pilot.pause()
            await pilot.press("c")
            while app.table.get_row_at(0)[2] != "cancelled":
                await pilot.pause()
            assert app.table.get_row_at(0)[0] == "upload 1"

    asyncio.run(main())
