"""What runs in a worker process: import the application, serve as one executor, say that it is ready and alive."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

import attrs
import trio

from durable_trio.engine.engine import Engine
from durable_trio.engine.workers.family import code_of, encode
from durable_trio.engine.workers.parent import (
    CODE_CHANGED,
    COUNT_VARIABLE,
    ENDED_BY_RUN,
    ENGINE_FAILED,
    LOADING_FAILED,
    PATH_VARIABLE,
    PROBE,
    STACK_SIGNAL,
)
from durable_trio.errors import WorkerFailed
from durable_trio.serving.app import Servable, load_engine
from durable_trio.serving.logs import LOG_VARIABLE, LogStyle, failure_line, set_up_logging
from durable_trio.serving.reasons import failure_text, needs_traceback
from durable_trio.unseen import print_traceback, visible
from supervisors import ChildProcess, child_process


@attrs.frozen
class Ready:
    """The ``task_status`` of an engine that serves; one that is told to stop before it is open never calls it."""

    process: ChildProcess

    def started(self, value: object = None) -> None:
        """Tell the parent."""
        self.process.ready()


async def serve(engine: Servable, process: ChildProcess, worker_count: int) -> None:
    """Serve until the parent says SIGTERM, or dies."""
    os_signals = [signal.SIGTERM, signal.SIGINT]
    async with process:
        await engine.serve(workers=0, executors=worker_count, signals=os_signals, task_status=Ready(process))


def main() -> int:
    """Serve the engine that the command line names; return the exit code.

    With ``--probe`` the parent is told what code a worker would have, and that is all.
    """
    is_probe = sys.argv[1:2] == [PROBE]
    if len(sys.argv) != 2 + is_probe:
        print(f"usage: python -m durable_trio.engine.workers [{PROBE}] module:engine", file=sys.stderr)
        return 2
    app = sys.argv[-1]
    sys.excepthook = print_traceback
    path = os.environ.pop(PATH_VARIABLE, None)
    style = os.environ.pop(LOG_VARIABLE, None)
    worker_count = int(os.environ.pop(COUNT_VARIABLE, "1"))
    if path is not None:
        sys.path[:] = path.split(os.pathsep)
    try:
        engine = load_engine(app)
    except (WorkerFailed, ValueError) as error:
        if error.__cause__ is not None and style != LogStyle.JSON:
            sys.excepthook(type(error.__cause__), error.__cause__, error.__cause__.__traceback__)
        _say_why(style, str(error), error.__cause__)
        return LOADING_FAILED
    process = child_process(is_cancelled_by_sigterm=False)
    refusal = process.ask(_code_of(engine, app))
    if is_probe:
        process.ready()
        return 0
    if refusal is not None:
        _say_why(style, str(refusal), None)
        return CODE_CHANGED
    return _serve_to_the_end(engine, process, worker_count, style)


def _code_of(engine: Servable, app: str) -> object:
    """Return the code that this process has read, as the parent is told it; of what is no ``Engine`` it knows none."""
    if not isinstance(engine, Engine):
        return None
    client = engine._client
    module = sys.modules.get(app.partition(":")[0])
    store = str(getattr(client.store, "path", ""))
    return encode(code_of(client.settings.build, client.registry, {} if module is None else vars(module), store))


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
