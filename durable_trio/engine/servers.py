"""Who serves a store, and why a run that is due is taken by none of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Final

import attrs

from durable_trio.clock import MICROSECONDS
from durable_trio.engine.versions import living_executors, served_by
from durable_trio.engine.wiring import Services
from durable_trio.records import ProcessReport
from durable_trio.rows import NO_VERSION, ExecutorRow, ServedCode
from durable_trio.stores.questions import CountBacklog

__all__ = ["NOBODY_SERVES", "Servers", "look_at_servers"]

NOBODY_SERVES: Final = "nobody serves this database"
# A run that is due is taken within so long, if nothing is wrong.
_MOMENT: Final = 2 * MICROSECONDS
# What is less on a disk than one more write may take.
_DISK_BYTES_MIN: Final = 64 * 1024


@attrs.frozen(kw_only=True)
class Servers:
    """Who serves a store, as far as rows and locks tell: the executors that are alive, and what they say.

    ``busy_counts``: how many runs that do not only wait each of them has. ``path``: that of a store in a file.
    """

    executors: tuple[ExecutorRow, ...]
    reports: Mapping[int, ProcessReport]  # by executor
    served: Mapping[int, tuple[ServedCode, ...]]  # by executor
    busy_counts: Mapping[int, int] = attrs.field(factory=dict)
    path: str | None = None

    @property
    def ids(self) -> Collection[int]:
        """The executors that are alive."""
        return {executor.id for executor in self.executors}

    def why_not(self, workflow: str, version: int, *, due_since: int = _MOMENT, is_suspect: bool = False) -> str:
        """Return why a run that is due is not taken.

        Args:
            version: that of the run, or ``NO_VERSION``.
            due_since: microseconds.
            is_suspect: whether its process has died again and again.
        """
        if not self.executors:
            return NOBODY_SERVES
        if self.path is not None and not _has_room(self.path):
            return "there is no room on the disk of the database, so nothing can be stored"
        may_know = [
            (executor, self.reports.get(executor.id))  # without a report it has only begun, or could not write it
            for executor in self.executors
            if self._serves(executor.id, workflow, version)
        ]
        if not may_know:
            return self._unserved(workflow, version)
        awake = [(executor, report) for executor, report in may_know if not executor.is_silent]
        which = "the executors that know its workflow" if may_know[1:] else f"executor {may_know[0][0].id}"
        s, have = ("", "have") if may_know[1:] else ("s", "has")
        process = "" if may_know[1:] else f" (process {may_know[0][0].pid})"
        if not awake:
            return f"{which}{process} give{s} no sign of life; stopped, or hanging"
        taking = [(executor, report) for executor, report in awake if report is None or not report.is_draining]
        if not taking:
            return f"{which}{process} drain{s}, and take{s} no more runs"
        if all(self._is_full(executor, report) for executor, report in taking):
            return f"{which} {have} no place free: raise concurrency, or let more processes serve"
        if due_since < _MOMENT:
            return "an executor takes it in a moment"
        if is_suspect:
            return "its process has died again and again; such runs go on one at a time"
        return f"{which}{process} {have} not taken it yet; look at the log there"

    def _serves(self, executor: int, workflow: str, version: int) -> bool:
        codes = [code for code in self.served.get(executor, ()) if code.workflow == workflow]
        return any(version in (code.version, NO_VERSION) for code in codes)

    def _unserved(self, workflow: str, version: int) -> str:
        codes = [code for codes in self.served.values() for code in codes if code.workflow == workflow]
        if not codes:
            return f"no executor knows the workflow {workflow!r}; add it to workflows=[…] of the engine that serves"
        others = sorted({code.version for code in codes})
        return (
            f"no executor has version {version} of {workflow!r}, only {', '.join(map(str, others))}: serve code that "
            f"has it, or resume the run with another one (--version {others[-1]})"
        )

    def _is_full(self, executor: ExecutorRow, report: ProcessReport | None) -> bool:
        places = None if report is None else report.concurrency
        return places is not None and self.busy_counts.get(executor.id, 0) >= places


async def look_at_servers(services: Services, now: int) -> Servers:
    """Return who serves a store."""
    store, executor = services.writer.store, services.executor
    executors = await living_executors(services)
    reports = {report.executor: report for report in await services.reports.read() if report.executor is not None}
    if executor is not None and executor.id is not None and (own := services.reports.own()) is not None:
        reports[executor.id] = own  # also where reports are not stored
    backlog = await services.writer.ask(CountBacklog((), now=now, due_max=1))
    return Servers(
        executors=executors,
        reports=reports,
        served=await served_by(services, executors),
        busy_counts=backlog.owned_counts,
        path=store.path or None,
    )


def _has_room(path: str) -> bool:
    try:
        found = os.statvfs(os.path.dirname(path))
    except (OSError, AttributeError):  # it cannot be told
        return True
    return found.f_bavail * found.f_frsize >= _DISK_BYTES_MIN
