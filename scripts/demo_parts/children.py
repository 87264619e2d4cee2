"""The processes of the demonstration: started, ended by their own pid, never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

_SCRIPTS = str(Path(__file__).resolve().parent.parent)


@asynccontextmanager
async def open_child(module: str, *args: object, **options: Any) -> AsyncIterator[trio.Process]:
    """Run ``python -m demo_parts.<module>`` for the length of a block; at its end it is killed if it still runs.

    It has a session of its own, so that Ctrl-C reaches only this process. Its standard input is a pipe that nobody
    writes to: it ends when this process does, however that ends (see ``end_with_parent``).
    """
    path = os.pathsep.join(filter(None, [_SCRIPTS, os.environ.get("PYTHONPATH")]))
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", f"demo_parts.{module}", *map(str, args)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):  # SIGKILL cannot be ignored: this is short
            if process.returncode is None:
                process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


async def read_line(stream: trio.abc.ReceiveStream) -> str:
    """Return the first line of a stream, or what there is of it when the stream ends."""
    data = b""
    while not data.endswith(b"\n"):
        more = await stream.receive_some()
        if not more:
            break
        data += more
    return data.decode()


def end_with_parent() -> None:
    """In a child: end at once when the parent has ended, which closes the other end of standard input."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
