"""What runs in a worker process: import the application, serve as one executor, say that it is ready and alive."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

import attrs
import trio

from durable_trio.engine.workers.parent import (
    COUNT_VARIABLE,
    ENDED_BY_RUN,
    ENGINE_FAILED,
    LOADING_FAILED,
    PATH_VARIABLE,
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


async def serve(engine: Servable, worker_count: int) -> None:
    """Serve until the parent says SIGTERM, or dies."""
    os_signals = [signal.SIGTERM, signal.SIGINT]
    async with child_process(is_cancelled_by_sigterm=False) as process:
        await engine.serve(workers=0, executors=worker_count, signals=os_signals, task_status=Ready(process))


def main() -> int:
    """Serve the engine that the command line names; return the exit code."""
    if len(sys.argv) != 2:
        print("usage: python -m durable_trio.engine.workers module:engine", file=sys.stderr)
        return 2
    sys.excepthook = print_traceback
    path = os.environ.pop(PATH_VARIABLE, None)
    style = os.environ.pop(LOG_VARIABLE, None)
    worker_count = int(os.environ.pop(COUNT_VARIABLE, "1"))
    if path is not None:
        sys.path[:] = path.split(os.pathsep)
    try:
        engine = load_engine(sys.argv[1])
    except (WorkerFailed, ValueError) as error:
        if style == LogStyle.JSON:
            print(failure_line(LogStyle.JSON, str(error), error.__cause__), file=sys.stderr)
            return LOADING_FAILED
        if error.__cause__ is not None:
            sys.excepthook(type(error.__cause__), error.__cause__, error.__cause__.__traceback__)
        print(visible(str(error)), file=sys.stderr)
        return LOADING_FAILED
    if style is not None:
        set_up_logging(LogStyle(style))
    if hasattr(signal, "SIGUSR1"):  # asks the parent for the tree; sent to a worker it must not be its end
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, STACK_SIGNAL):
        faulthandler.register(getattr(signal, STACK_SIGNAL), file=2, all_threads=True)  # whatever the loop does
    try:
        trio.run(serve, engine, worker_count)
    except (Exception, BaseExceptionGroup) as error:
        if style == LogStyle.JSON:
            shown = error if needs_traceback(error) else None
            print(failure_line(LogStyle.JSON, failure_text(error), shown), file=sys.stderr)
            return ENGINE_FAILED if isinstance(error, Exception) else ENDED_BY_RUN
        if needs_traceback(error):
            sys.excepthook(type(error), error, error.__traceback__)
        print(visible(failure_text(error)), file=sys.stderr)  # the last line is what the parent passes on
        return ENGINE_FAILED if isinstance(error, Exception) else ENDED_BY_RUN
    return 0


if __name__ == "__main__":
    sys.exit(main())
