"""What runs in a process that rehearses: it imports the application, reads the database, and does what its parent asks.

``python -m durable_trio.rehearsal module:engine DESCRIPTOR``: requests come on standard input, and answers go to the
descriptor; standard output and standard error are those of the application.

A thread tells the parent again and again that the process lives, whether the event loop turns, and if it does not,
where it stands: nothing but a thread can, while a body keeps the loop for itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, Final, cast

import trio

from durable_trio.engine.engine import Engine
from durable_trio.engine.records_of import version_or_none
from durable_trio.engine.runs.actor import RunActor
from durable_trio.errors import DurableError, WorkerFailed
from durable_trio.failures.one_line import innermost
from durable_trio.rehearsal.judged import Judged
from durable_trio.rehearsal.keeping import Code
from durable_trio.rehearsal.messages import BEAT_SECONDS, from_line, judged_to, to_line
from durable_trio.rehearsal.rehearse import rehearse_runs
from durable_trio.serving.app import find_as_parent, load_engine
from durable_trio.stores.contract import Store
from durable_trio.stores.kinds import make_reader
from durable_trio.stores.unfinished_questions import ListUnfinished, Unfinished
from durable_trio.stores.writer import Writer

_TURN_SECONDS: Final = 0.05
# What calls a body.
_BODY_FILE: Final = RunActor.run.__code__.co_filename
# Frames of what stands still, the innermost: they tell what it is.
_FRAMES_MAX: Final = 16


class _Line:
    """The way to the parent, for the loop and for the thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Send a message; once nobody reads any more, the process ends."""
        line = to_line(message)
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                os._exit(1)


class _Beat:
    """The thread that tells whether the loop turns."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._loop_thread = threading.get_ident()
        self._turns = 0
        threading.Thread(target=self._run, name="durable-trio-rehearsal", daemon=True).start()

    async def turn(self) -> None:
        """Turn with the loop."""
        while True:
            self._turns += 1
            await trio.sleep(_TURN_SECONDS)

    def _run(self) -> None:
        told = -1
        while True:
            turns = self._turns
            place = self._place() if turns == told else {}
            self._line.send(beat=turns, **place)
            told = turns
            threading.Event().wait(BEAT_SECONDS)

    def _place(self) -> dict[str, str | None]:
        frame = sys._current_frames().get(self._loop_thread)
        frames = list(traceback.extract_stack(frame))
        body = max((number for number, each in enumerate(frames) if each.filename == _BODY_FILE), default=-1)
        frames = frames[body + 1 :]  # what is around it is the same for all
        lines = [(each.filename, each.lineno or 0, each.name) for each in frames]
        return {"place": innermost(lines), "stack": "".join(traceback.format_list(frames[-_FRAMES_MAX:]))}


def _nobody(*_: object) -> None:
    """Nobody is to be told."""


async def _serve(engine: Engine, line: _Line, beat: _Beat) -> None:
    """Do what the parent asks, until it asks no more."""
    requests = _requests()
    client = engine._client
    line.send(ready=True, database=client.store.address)
    store: Store | None = None
    served = client.served
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat.turn)
        async for request in requests:
            try:
                if "open" in request:
                    store = make_reader(request["open"])
                    store.open()
                    line.send(opened=True)
                    continue
                assert store is not None
                writer = Writer(
                    store, failed=_nobody, still_away=_nobody, committed_untold=_nobody
                )  # which never runs: it is only asked
                await _answer(client.given.code(writer, served), request, line)
            except (DurableError, OSError) as error:
                line.send(failed=str(error))
        nursery.cancel_scope.cancel()


async def _answer(code: Code, request: dict[str, Any], line: _Line) -> None:
    if "list" in request:
        line.send(runs=await code.writer.ask_patiently(ListUnfinished(**request["list"])))
        return

    def told(run: int, judged: Judged | None) -> None:
        line.send(told=run, judged=judged_to(judged))

    def begins(found: Unfinished) -> None:
        row = found.row
        version = {"workflow": row.workflow, "version": version_or_none(row.version)}
        line.send(begins=row.run, run_id=row.id, is_executing=row.owner is not None, **version)

    await rehearse_runs(code, request["rehearse"], told, at_once=request["at_once"], begins=begins)
    line.send(done=True)


def _requests() -> trio.MemoryReceiveChannel[dict[str, Any]]:
    """Return the parent's requests. Once it has closed its end, by whatever death, this process ends at once."""
    send, receive = trio.open_memory_channel[dict[str, Any]](8)
    token = trio.lowlevel.current_trio_token()

    def read() -> None:
        for line in sys.stdin.buffer:
            token.run_sync_soon(send.send_nowait, from_line(line))
        os._exit(0)  # also in the middle of a body

    threading.Thread(target=read, name="durable-trio-requests", daemon=True).start()
    return receive


def main(arguments: list[str]) -> int:
    """Rehearse with the engine that the command line names; return the exit code."""
    app, descriptor = arguments
    find_as_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    line = _Line(int(descriptor))
    beat = _Beat(line)
    run: Callable[..., None] = trio.run
    with redirect_stdout(sys.stderr):
        try:
            engine = load_engine(app)
            if not isinstance(engine, Engine):
                raise WorkerFailed(f"{app!r} is of type {type(engine).__qualname__}; it must be an Engine")
        except (WorkerFailed, ValueError) as error:
            line.send(failed=str(error))
            return 1
        logging.getLogger("durable_trio").setLevel(logging.CRITICAL + 1)  # what it would say are verdicts here
        run(_serve, cast(Engine, engine), line, beat)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
