"""What happens in the tree of a server, as log records: a message for people, fields for programs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

import attrs

from durable_trio.engine.workers.parent import ENDS_IN_ORDER, WORKERS
from durable_trio.serving.reasons import last_words
from supervisors import (
    ChildExited,
    ChildStarted,
    ChildUnstopped,
    ExitKind,
    ProcessNotReady,
    ProcessUnresponsive,
    RestartScheduled,
    TreeNode,
)

__all__ = ["Line", "TreeLog"]

# A shorter wait for a restart is not worth a line.
_DELAY_SECONDS: Final = 1.0


@attrs.frozen
class Line:
    """One thing that has happened."""

    event: str
    message: str
    fields: dict[str, Any] = attrs.Factory(dict)
    level: int = logging.INFO


class TreeLog:
    """Turns the events of a supervision tree into lines; remembers which worker had which process."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self.restart_count = 0

    def present(self, workers: Iterator[TreeNode]) -> Iterator[Line]:
        """Yield a line for each worker that runs already, and before that how it has ended, if it has."""
        for node in workers:
            if node.last_error is not None:
                reason = node.last_error.partition("\n")[0]
                message = f"{node.name} has ended while others were being started: {reason}"
                yield Line("worker_exited", message, {"worker": node.name, "reason": reason}, logging.WARNING)
            if node.pid is not None:
                yield self._started(node.name, node.pid, node.restart_count)

    def lines(self, event: object) -> Iterator[Line]:
        """Yield what there is to say of an event; of most nothing."""
        if isinstance(event, ChildUnstopped):
            yield Line("unstopped", str(event.error), {"child": _path(event.path)}, logging.CRITICAL)
        elif isinstance(event, ChildStarted | ChildExited | RestartScheduled):
            is_worker = event.path[-2:-1] == (WORKERS,)
            yield from self._of_worker(event) if is_worker else self._of_service(event)

    def _of_worker(self, event: ChildStarted | ChildExited | RestartScheduled) -> Iterator[Line]:
        name = event.path[-1]
        if isinstance(event, ChildStarted) and event.pid is not None:
            if self._pids.get(name) != event.pid:  # else it was said before
                yield self._started(name, event.pid, event.restart_count)
        elif isinstance(event, ChildExited):
            if event.ready_seconds is not None:  # else the engine's own log says it
                yield self._exited(name, event)
        elif isinstance(event, RestartScheduled) and event.delay_seconds >= _DELAY_SECONDS:
            seconds = round(event.delay_seconds, 1)
            fields = {"worker": name, "delay_seconds": seconds}
            yield Line("worker_restart_delayed", f"{name} is started again in {seconds:g} s", fields)

    def _started(self, name: str, pid: int, restart_count: int) -> Line:
        self._pids[name] = pid
        fields = {"worker": name, "pid": pid, "restarts": restart_count}
        if not restart_count:
            return Line("worker_started", f"{name} is ready (process {pid})", fields)
        self.restart_count += 1
        return Line("worker_restarted", f"{name} was restarted (process {pid})", fields, logging.WARNING)

    def _exited(self, name: str, event: ChildExited) -> Line:
        pid = self._pids.pop(name, None)
        exit = event.exit
        fields: dict[str, Any] = {"worker": name, "pid": pid}
        is_killed = exit.process is not None and exit.process.is_killed_by_supervisor
        if exit.kind is ExitKind.STOPPED and is_killed:  # whoever has killed it has said so, with its stack
            fields["reason"] = "killed, for it did not end"
            return Line("worker_exited", f"{name} did not end, and was killed (process {pid})", fields)
        if exit.kind is ExitKind.STOPPED:
            return Line("worker_exited", f"{name} has stopped (process {pid})", {**fields, "reason": "stopped"})
        reason = _reason(event)
        message = f"{name} has ended (process {pid}): {reason}"
        # Of one that was killed, whoever sets its runs free has warned: a death is not told twice.
        has_left = exit.process is None or exit.process.code in ENDS_IN_ORDER
        level = logging.WARNING if has_left else logging.INFO
        return Line("worker_exited", message, {**fields, "reason": reason}, level)

    def _of_service(self, event: ChildStarted | ChildExited | RestartScheduled) -> Iterator[Line]:
        path = _path(event.path)
        if isinstance(event, ChildStarted) and event.restart_count:  # that it has crashed is in the engine's own log
            fields = {"child": path, "restarts": event.restart_count}
            yield Line("child_restarted", f"{path} was restarted", fields, logging.WARNING)


def _path(path: tuple[str, ...]) -> str:
    return "/".join(path)


def _reason(event: ChildExited) -> str:
    """Return why a child has ended: of a process the signal or code, and the last thing that it said."""
    process, error = event.exit.process, event.exit.error
    if process is None:
        return str(event.exit)
    if isinstance(error, ProcessUnresponsive | ProcessNotReady):
        return str(error).partition("\n")[0]
    said = last_words(process.stderr_tail)
    return f"{process}, {said}" if said and process.code else str(process)
