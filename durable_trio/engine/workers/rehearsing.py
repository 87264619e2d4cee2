"""Has the code of the files rehearsed before it comes into service: by the command that people use, as a process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import trio

from durable_trio.engine.workers.parent import Workers
from durable_trio.engine.workers.reloads import ReloadFailed
from durable_trio.rehearsal.records import Verdict
from durable_trio.rehearsal.words import verdict_text
from durable_trio.serving.reasons import error_line, last_words

__all__ = ["rehearse"]

_END_SECONDS: Final = 2.0


async def rehearse(workers: Workers, database: str) -> None:
    """Return if all unfinished runs of a database go on with the code of the files.

    *Cancellation:* kills the process.

    Raises:
        ReloadFailed: some do not, or it could not be found out.
    """
    command = [sys.executable, "-m", "durable_trio", "rehearse", workers.app, "--db", database, "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = partial(
        trio.run_process, command, env=environment, capture_stdout=True, capture_stderr=True, check=False, stdin=b""
    )
    try:
        done = await run(deliver_cancel=_end)
    except OSError as error:
        raise ReloadFailed(f"it could not be rehearsed: {error_line(error)}") from error
    if done.returncode == 0:
        return
    try:
        document: Mapping[str, Any] = json.loads(done.stdout)
        counts: Mapping[str, int] = document["counts"]
    except (ValueError, KeyError, TypeError):
        said = last_words(done.stderr.decode(errors="replace")).removeprefix("durable-trio: ")
        raise ReloadFailed(f"it could not be rehearsed: {said or f'exit code {done.returncode}'}") from None
    bad = {Verdict(name): count for name, count in counts.items() if count and name != Verdict.GOES_ON}
    found = ", ".join(f"{count:,} {verdict_text(verdict, count)}" for verdict, count in bad.items())
    raise ReloadFailed(
        f"{sum(bad.values()):,} of {sum(counts.values()):,} unfinished runs do not go on with the new code ({found}); "
        f"'durable-trio rehearse {workers.app}' tells which and why"
    )


async def _end(process: trio.Process) -> None:
    """End it as Ctrl-C does, so that what it has started ends with it."""
    process.send_signal(signal.SIGINT)
    await trio.sleep(_END_SECONDS)
    process.kill()
