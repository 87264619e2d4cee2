"""What runs in a worker process: import the application, serve as one executor, say that it is ready and alive."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import attrs
import trio

from durable_trio.engine.codes import FamilyCode
from durable_trio.engine.engine import Engine
from durable_trio.engine.workers.family import FAILED, IS_NEWS, WHY, code_of, encode
from durable_trio.engine.workers.parent import (
    CODE_CHANGED,
    COUNT_VARIABLE,
    ENDED_BY_RUN,
    ENGINE_FAILED,
    LOADING_FAILED,
    PROBE,
    STACK_SIGNAL,
)
from durable_trio.errors import WorkerFailed
from durable_trio.serving.app import Servable, find_as_parent, load_engine
from durable_trio.serving.logs import LOG_VARIABLE, LogStyle, failure_line, set_up_logging
from durable_trio.serving.reasons import failure_text, needs_traceback
from durable_trio.unseen import print_traceback, visible
from supervisors import ChildProcess, child_process

# How often this process has begun again because files have changed under its import.
_BEGUN_AGAIN_VARIABLE: Final = "DURABLE_TRIO_WORKER_AGAIN"
# Some files always look changed, as on a server whose clock is ahead: then they are taken as they are.
_BEGUN_AGAIN_MAX: Final = 3
# Times of files are those of the last tick of the kernel's clock.
_TICK_SECONDS: Final = 0.02


@attrs.frozen
class Ready:
    """The ``task_status`` of an engine that serves; one that is told to stop before it is open never calls it."""

    process: ChildProcess

    def started(self, value: object = None) -> None:
        """Tell the parent."""
        self.process.ready()


async def serve(engine: Servable, process: ChildProcess, worker_count: int) -> None:
    """Serve until the parent says so, or dies; or others do.

    The parent has a way of its own: where a service manager sends SIGTERM to all processes, the parent's word must not
    be the second one.
    """
    os_signals = [signal.SIGTERM, signal.SIGINT]
    async with process, trio.open_nursery() as nursery:
        serving = trio.CancelScope()

        async def end_when_told() -> None:
            await process.told_to_end()
            serving.cancel("the parent has told this worker to end")

        nursery.start_soon(end_when_told)
        with serving:
            await engine.serve(workers=0, executors=worker_count, signals=os_signals, task_status=Ready(process))
        nursery.cancel_scope.cancel()


def main() -> int:
    """Serve the engine that the command line names; return the exit code.

    With ``--probe`` the parent is told what code a worker would have, and that is all.
    """
    is_probe = sys.argv[1:2] == [PROBE]
    if len(sys.argv) != 2 + is_probe:
        print(f"usage: python -m durable_trio.engine.workers [{PROBE}] module:engine", file=sys.stderr)
        return 2
    app = sys.argv[-1]
    began_at, environment = time.time(), dict(os.environ)
    sys.excepthook = print_traceback
    find_as_parent()
    style = os.environ.pop(LOG_VARIABLE, None)
    worker_count = int(os.environ.pop(COUNT_VARIABLE, "1"))
    os.environ.pop(_BEGUN_AGAIN_VARIABLE, None)
    try:
        engine = load_engine(app)
    except (WorkerFailed, ValueError) as error:
        if not _is_news(child_process(is_cancelled_by_sigterm=False).ask({FAILED: str(error)})):
            return LOADING_FAILED
        if error.__cause__ is not None and style != LogStyle.JSON:
            sys.excepthook(type(error.__cause__), error.__cause__, error.__cause__.__traceback__)
        _say_why(style, str(error), error.__cause__)
        return LOADING_FAILED
    code = _code_of(engine, app)
    if code is not None:
        _begin_again_if_changed(code.files, began_at, environment)
    process = child_process(is_cancelled_by_sigterm=False)
    refusal = process.ask(None if code is None else encode(code))
    if is_probe:
        process.ready()
        return 0
    if refusal is not None:
        if _is_news(refusal):
            _say_why(style, str(refusal[WHY] if isinstance(refusal, dict) else refusal), None)
        return CODE_CHANGED
    return _serve_to_the_end(engine, process, worker_count, style)


def _is_news(refusal: object) -> bool:
    """Whether people are to be told; a parent of an earlier version does not say."""
    return not isinstance(refusal, dict) or bool(refusal.get(IS_NEWS, True))


def _code_of(engine: Servable, app: str) -> FamilyCode | None:
    """Return the code that this process has read; of what is no ``Engine`` it knows none."""
    if not isinstance(engine, Engine):
        return None
    client = engine._client
    module = sys.modules.get(app.partition(":")[0])
    names = {} if module is None else vars(module)
    return code_of(client.settings.build, client.registry, names, client.store.path)


def _begin_again_if_changed(files: Iterable[str], began_at: float, environment: dict[str, str]) -> None:
    """Begin this process again if files have changed since: what was imported may not be what is in them now."""
    count = int(environment.get(_BEGUN_AGAIN_VARIABLE, "0"))
    if count < _BEGUN_AGAIN_MAX and _last_change(files) >= began_at - _TICK_SECONDS:
        environment[_BEGUN_AGAIN_VARIABLE] = str(count + 1)
        os.execve(sys.executable, [sys.executable, "-m", "durable_trio.engine.workers", *sys.argv[1:]], environment)


def _last_change(files: Iterable[str]) -> float:
    """Return when one of some files was last written or put in its place, which no copy of old times hides."""
    last = 0.0
    for file in files:
        with suppress(OSError):
            last = max(last, os.stat(file).st_ctime)
    return last


def _say_why(style: str | None, text: str, error: BaseException | None) -> None:
    """Write the last line of this process, which is what the parent passes on."""
    # Among lines for programs it is one of them; else the parent says it, in its own way.
    if style in (LogStyle.JSON, LogStyle.FIELDS):
        line = failure_line(LogStyle(style), text, error if style == LogStyle.JSON else None)
    else:
        line = visible(text)
    print(line, file=sys.stderr)


def _serve_to_the_end(engine: Servable, process: ChildProcess, worker_count: int, style: str | None) -> int:
    if style is not None:
        set_up_logging(LogStyle(style))
    for name in ("SIGUSR1", "SIGHUP"):  # they ask the parent for the tree, or to reload; sent to a worker they must
        os_signal = getattr(signal, name, None)  # not be its end
        if os_signal is not None and signal.getsignal(os_signal) is signal.SIG_DFL:
            signal.signal(os_signal, signal.SIG_IGN)
    if hasattr(signal, STACK_SIGNAL):
        faulthandler.register(getattr(signal, STACK_SIGNAL), file=2, all_threads=True)  # whatever the loop does
    try:
        trio.run(serve, engine, process, worker_count)
    except (Exception, BaseExceptionGroup) as error:
        shown = error if needs_traceback(error) else None
        if shown is not None and style != LogStyle.JSON:
            sys.excepthook(type(shown), shown, shown.__traceback__)
        _say_why(style, failure_text(error), shown)
        return ENGINE_FAILED if isinstance(error, Exception) else ENDED_BY_RUN
    return 0


if __name__ == "__main__":
    sys.exit(main())
