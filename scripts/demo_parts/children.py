"""The processes of the demonstration: started, ended by their own pid, never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

_SCRIPTS = str(Path(__file__).resolve().parent.parent)
_LEAVING_SECONDS_MAX: Final = 10.0


def open_child(
    module: str, *args: object, prefix: Sequence[str] = (), **options: Any
) -> AbstractAsyncContextManager[trio.Process]:
    """Run ``python -m demo_parts.<module>`` for the length of a block (see ``open_process``).

    Args:
        prefix: what the command begins with: a program that executes the rest of it, elsewhere.
    """
    return open_process([*prefix, sys.executable, "-m", f"demo_parts.{module}", *map(str, args)], **options)


@asynccontextmanager
async def open_process(
    command: Sequence[str], *, has_to_leave: bool = False, **options: Any
) -> AsyncIterator[trio.Process]:
    """Run a program for the length of a block; at its end it is killed if it still runs.

    It has a session of its own, so that Ctrl-C reaches only this process. Its standard input is a pipe: it ends when
    that does, and so when this process does, however that ends (see ``end_with_parent``).

    Args:
        has_to_leave: it has something to take away: it is killed only if it does not end soon with its input.
    """
    path = os.pathsep.join(filter(None, [_SCRIPTS, os.environ.get("PYTHONPATH")]))
    process = await trio.lowlevel.open_process(
        list(command), stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONPATH": path}, **options
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):  # SIGKILL cannot be ignored: this is short
            if process.stdin is not None:
                await process.stdin.aclose()
            if has_to_leave:
                with trio.move_on_after(_LEAVING_SECONDS_MAX):
                    await process.wait()
            if process.returncode is None:
                process.kill()
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


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
