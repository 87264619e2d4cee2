"""Families of worker processes, as their parents report them: which can be reloaded, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from durable_trio.cli.faults import Failed
from durable_trio.cli.text import plural, visible
from durable_trio.cli.tree_view import worker_nodes
from durable_trio.records import ProcessReport, Reload
from durable_trio.views.documents import Finding
from supervisors import ChildStatus

__all__ = ["findings_of", "held_back", "reloadable"]

_ABOUT: Final = "families"


def held_back(report: ProcessReport) -> dict[str, str]:
    """Return the workers of a process that are not back, and why."""
    if report.family is None:
        return {}
    serving = {node.name for node in worker_nodes(report.tree) if node.status is ChildStatus.RUNNING}
    return {name: why for name, why in report.family.held_back.items() if name not in serving}


def findings_of(processes: Iterable[ProcessReport]) -> Iterator[Finding]:
    """Yield what is wrong with families, for ``check``."""
    for report in processes:
        if report.family is None:
            continue
        missing = held_back(report)
        for why in dict.fromkeys(missing.values()):
            count = sum(each == why for each in missing.values())
            total = sum(1 for _ in worker_nodes(report.tree))
            text = f"{count} of {plural(total, 'worker')} of process {report.pid} cannot come back: {why}"
            yield Finding(level="wrong", about=_ABOUT, text=visible(text))
        ended = [reload for reload in report.family.reloads if reload.has_ended]
        if ended and ended[-1].state == "failed":
            yield _of_failed(report, ended[-1])


def _of_failed(report: ProcessReport, reload: Reload) -> Finding:
    text = visible(f"the last reload of process {report.pid} has failed: {reload.reason}")
    return Finding(level="wrong" if reload.replaced else "note", about=_ABOUT, text=text)


def reloadable(processes: Iterable[ProcessReport], pid: int | None) -> ProcessReport:
    """Return the server that is meant, of all that serve a database.

    Args:
        pid: of the process, if there may be several.

    Raises:
        Failed: there is none that can be reloaded, or it is not clear which.
    """
    by_pid = {report.pid: report for report in processes}
    servers = [report for report in by_pid.values() if report.parent_pid not in by_pid]  # others are its workers
    if pid is not None:
        servers = [report for report in servers if report.pid == pid]
    if not servers:
        raise Failed("nobody serves this database" if pid is None else f"process {pid} does not serve this database")
    found = [report for report in servers if report.family is not None and report.family.can_reload]
    if len(found) > 1:
        pids = ", ".join(str(report.pid) for report in found)
        raise Failed(f"{len(found)} servers with workers serve this database: name one by --process ({pids})")
    if found:
        return found[0]
    pids = ", ".join(str(report.pid) for report in servers)
    them, theirs = ("it", "its") if len(servers) == 1 else ("them", "their")
    word = "process" if len(servers) == 1 else "processes"
    raise Failed(
        f"{word} {pids} cannot reload: restart {them}, which drains (SIGTERM) and loses nothing. "
        f"What 'durable-trio serve APP --workers N' serves can replace {theirs} workers"
    )
