"""Windows whose programs come to an end by no wish of theirs: killed, or by Ctrl-C, once and again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engine.harness import PATIENCE_SECONDS
from tests.kit.forks import Forked, wait_for
from tests.platforms.windows import environment_of

# A window in a process of its own. Its loop waits in C code nearly all the time, as those of programs do.
PROGRAM = """
import sys, trio
from functools import partial
from durable_trio import Context, Engine, open_engine, workflow
toolkit, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])

async def hold(n):
    print("begun", n, flush=True)
    with trio.CancelScope(shield=seconds < 0):
        await trio.sleep(abs(seconds) if n == 1 else 0)
    return n

@workflow
async def work(ctx: Context) -> list[int]:
    return [await ctx.step("hold", hold, n) for n in range(3)]

if toolkit == "tk":
    import tkinter
    from durable_trio.platforms.tk import host
    app = tkinter.Tk()
    run = app.mainloop
else:
    from PySide6.QtWidgets import QApplication, QLabel
    from durable_trio.platforms.qt import host
    app = QApplication([])
    label = QLabel("a window")
    label.show()
    run = app.exec

def done(result):
    print("result", result, flush=True)
    engine.close()

async def start(engine):
    return await (await engine.start(work, id="run")).result()

try:
    with host(app, open_engine(path, workflows=[work], grace_seconds=3600)) as engine:
        engine.call_soon(start, then=done)
        run()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def begin(toolkit: str, path: Path, seconds: float) -> Forked[Any]:
    return Forked(
        [sys.executable, "-c", PROGRAM, toolkit, str(path), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment_of(toolkit),
    )


def recorded(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM history").fetchone()[0])
    finally:
        connection.close()


def test_ctrl_c_drains_and_the_second_one_waits_for_no_step_and_kill_loses_nothing(
    toolkit: str, tmp_path: Path
) -> None:
    path = tmp_path / "app.db"
    with begin(toolkit, path, 3600) as process:
        wait_for(process, "begun 1")
        process.kill()
    assert recorded(path) == 1
    with begin(toolkit, path, 3600) as process:
        wait_for(process, "begun 1")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)  # it waits for the step
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert out == "interrupted\n"
        assert "Traceback" not in err
    assert recorded(path) == 1
    with begin(toolkit, path, 0.2) as process:
        wait_for(process, "begun 1")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert out == "interrupted\n"  # the step has finished, and no other begun
        assert "Traceback" not in err
    assert recorded(path) == 2
    with begin(toolkit, path, 0) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert out == "begun 2\nresult [0, 1, 2]\n"
        assert "Traceback" not in err


def test_the_third_ctrl_c_ends_the_process_whatever_a_step_does(toolkit: str, tmp_path: Path) -> None:
    with begin(toolkit, tmp_path / "app.db", -3600) as process:
        wait_for(process, "begun 1")
        for _ in range(3):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0)
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)  # it may take two that come at once for one
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert process.returncode == -signal.SIGINT
