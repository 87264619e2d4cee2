"""``serve --until-idle``: what it says at its end, and who is asked to start it again."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from durable_trio.cli.output import write_json, write_lines
from durable_trio.cli.text import plural
from durable_trio.cli.times import until_text
from durable_trio.engine.engine import Engine
from durable_trio.platforms import (
    CronWakeUp,
    LaunchdWakeUp,
    NoWakeUp,
    Program,
    Served,
    SystemdWakeUp,
    WakeUp,
    WhyEnded,
    serve_until_idle,
)
from durable_trio.views.documents import LongStepDocument, ServedDocument
from durable_trio.views.values import iso

__all__ = ["WAKE_UPS", "serve_and_go"]

#: What starts the program again, by the name of its option.
WAKE_UPS: Final[dict[str, Callable[[Program], WakeUp]]] = {
    "systemd": lambda program: SystemdWakeUp(program=program),
    "launchd": lambda program: LaunchdWakeUp(program=program),
    "cron": lambda program: CronWakeUp(program=program),
    "none": lambda program: NoWakeUp(),
}
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_REASONS: Final = {
    WhyEnded.IDLE: "idle",
    WhyEnded.TIME: "the time is up",
    WhyEnded.ANOTHER: "another process serves",
    WhyEnded.STOPPED: "stopped",
}


async def serve_and_go(
    engine: Engine,
    app: str,
    workers: int | None,
    max_seconds: float | None,
    alone: bool,
    wake_up: str,
    as_json: bool,
) -> None:
    """Serve until nothing is left to do; then have the platform start this command again when the next run is due."""

    def overdue(served: Served) -> NoReturn:
        try:
            _tell(served, as_json=as_json)
            sys.stdout.flush()
        finally:
            os._exit(0)  # something does not let itself be ended; to its runs this is a crash

    served = await serve_until_idle(
        engine,
        max_seconds=max_seconds,
        alone=alone,
        workers=workers,
        app=app,
        signals=_STOP_SIGNALS,
        overdue=overdue,
    )
    _tell(served, as_json=as_json)
    if served.next_due is not None:
        await WAKE_UPS[wake_up](_this_command(app)).schedule(served.next_due)


def _this_command(app: str) -> Program:
    """Return what this process was started as; in the same folder it is the same program."""
    folder = os.getcwd()
    digest = hashlib.sha256(f"{folder}\0{app}".encode()).hexdigest()[:12]
    return Program(
        argv=[sys.executable, "-m", "durable_trio", *sys.argv[1:]],
        name=f"durable-trio-{digest}",
        folder=folder,
        environment={key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ},
    )


def _tell(served: Served, *, as_json: bool) -> None:
    """Say on standard output why it has ended, and when the next run is due."""
    if as_json:
        document = ServedDocument(
            reason=served.reason.value,
            next_due=None if served.next_due is None else iso(served.next_due),
            steps=served.steps,
            unfinished=served.unfinished,
            too_long=tuple(
                LongStepDocument(run_id=step.run_id, step=step.key, attempt=step.attempt) for step in served.too_long
            ),
        )
        write_json(document)
        return
    parts = [_REASONS[served.reason]]
    if served.steps:
        parts.append(f"{plural(served.steps, 'outcome')} recorded")
    if served.unfinished:
        parts.append(f"{plural(served.unfinished, 'run')} left that {'is' if served.unfinished == 1 else 'are'} due")
    elif served.next_due is not None:
        due = served.next_due
        parts.append(f"next run due {due.astimezone():%Y-%m-%d %H:%M:%S} ({until_text(due, datetime.now(UTC))})")
    write_lines(["; ".join(parts)])
