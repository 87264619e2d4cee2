"""Has the code of the files rehearsed before it comes into service: by the command that people use, as a process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
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


async def rehearse(workers: Workers, path: str, baseline: str | None = None) -> None:
    """Return if all unfinished runs of a database go on with the code of the files, or as many as did before.

    Args:
        path: of its file; empty: it is where the workers' engine says, and only that tells, for others see commands.
        baseline: the path of what an earlier rehearsal has found: only what is worse than there counts.

    *Cancellation:* kills the process.

    Raises:
        ReloadFailed: some do not, or it could not be found out.
    """
    command = [sys.executable, "-m", "durable_trio", "rehearse", workers.app, "--json"]
    if path:
        command += ["--db", path]
    if baseline is not None:
        command += ["--baseline", baseline]
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
        worse = _worse(document["groups"])
        count = int(document["count"])
    except (ValueError, KeyError, TypeError):
        said = last_words(done.stderr.decode(errors="replace")).removeprefix("durable-trio: ")
        raise ReloadFailed(f"it could not be rehearsed: {said or f'exit code {done.returncode}'}") from None
    found = ", ".join(f"{number:,} {verdict_text(verdict, number)}" for verdict, number in worse.items())
    more = "" if baseline is None else f", more than in {baseline!r}"
    raise ReloadFailed(
        f"{sum(worse.values()):,} of {count:,} unfinished runs do not go on with the new code ({found}){more}; "
        f"'durable-trio rehearse {workers.app}' tells which and why"
    )


def _worse(groups: Iterable[Mapping[str, Any]]) -> dict[Verdict, int]:
    """Return how many more runs do not go on than before, by verdict."""
    found: dict[Verdict, int] = {}
    for group in groups:
        verdict = Verdict(group["verdict"])
        count = group["count"] - (group["count_before"] or 0)
        if verdict is not Verdict.GOES_ON and count > 0:
            found[verdict] = found.get(verdict, 0) + count
    return found


async def _end(process: trio.Process) -> None:
    """End it as Ctrl-C does, so that what it has started ends with it."""
    process.send_signal(signal.SIGINT)
    await trio.sleep(_END_SECONDS)
    process.kill()
