"""The reports service: this process's supervision tree in the store, for other processes to show; crashes in the log.

A report is written when the tree has changed, a little later, so that many changes are one; and when it is another set
of steps that keeps runs from ending which are to end. While nothing changes nothing is written. Nobody depends on it:
if the store has no room, the next change is reported. Where the store has no place to note which steps are executing,
these are reported as well (``open_steps``).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final, NoReturn

import attrs
import trio

from durable_trio.clock import Clock, to_datetime
from durable_trio.codec import Codec
from durable_trio.engine.services.open_steps import ReportedSteps
from durable_trio.engine.workers.requests import is_request
from durable_trio.errors import CodecError, StoreError
from durable_trio.limits import STORED_BYTES_MAX
from durable_trio.logger import Logger
from durable_trio.processes import ProcessIdentity
from durable_trio.records import ProcessReport, StepInHand, WorkerFamily
from durable_trio.rows import ReportRow, RunRow
from durable_trio.serving.reasons import needs_traceback
from durable_trio.stores.contract import PutReport
from durable_trio.stores.questions import ListReports, OpenSteps
from durable_trio.stores.writer import Writer
from supervisors import ChildExited, ChildStatus, Event, ExitKind, NodeKind, Restart, Supervisor, TreeNode

_LOGGER = Logger("durable_trio.processes")
# Changes within this time are one report: a restart is some three of them.
_GATHER_SECONDS: Final = 0.2
# How often it is looked for what runs wait for that are to end, and for steps that take their time. Of most there is
# nothing, or not for so long. With what is gathered, and how long a step is left alone, it makes a second.
_LOOK_SECONDS: Final = 0.6
_WHERE: Final = "the report of a process"


@functools.cache
def _codec() -> Codec:
    """Return the codec of reports, in which is nothing of a user's: compiled once in a process, not by each engine."""
    codec = Codec(payload_bytes_max=STORED_BYTES_MAX)
    codec.compile(ProcessReport)
    return codec


class Reports:
    """Writes this process's report, and reads everybody's.

    Args:
        executor: returns which executor this process is, if it is one.
        lingering: returns the steps in hand that runs wait for which are to end.
        open_steps: returns which steps this process is executing.
        is_draining: returns whether this process takes no more runs.
        concurrency: how many runs it can have in hand, if it executes them.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        workflows: tuple[str, ...],
        *,
        executor: Callable[[], int | None],
        lingering: Callable[[], tuple[StepInHand, ...]],
        open_steps: Callable[[], OpenSteps],
        is_draining: Callable[[], bool],
        concurrency: int | None,
    ) -> None:
        self._open_steps = ReportedSteps(writer, clock, executor, open_steps)
        self._executor = executor
        self._concurrency = concurrency
        self._find_draining = is_draining
        self._is_draining = False
        self._find_lingering = lingering
        self._writer = writer
        self._clock = clock
        self._workflows = workflows
        self._identity = ProcessIdentity.own()
        self._started_at = clock.stamp()
        self._lingering: tuple[StepInHand, ...] = ()
        self._family: WorkerFamily | None = None
        self._wait = trio.CancelScope()
        self._root: Supervisor | None = None
        self._opened = trio.Event()
        self._skipped: set[str] = set()
        self._is_told = False  # that it cannot be written

    async def root(self) -> Supervisor:
        """Return this process's tree, once it is open; a service cannot have it before."""
        await self._opened.wait()
        assert self._root is not None
        return self._root

    def opened(self, root: Supervisor) -> None:
        """This is the tree that is to be reported."""
        self._root = root
        self._opened.set()

    def nudge(self) -> None:
        """There is something else to say: do not wait for the next look."""
        self._wait.cancel()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(
        self,
        find_family: Callable[[], WorkerFamily | None] = lambda: None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Serve until cancelled; then remove this process's report.

        Args:
            find_family: returns what is to be said of worker processes.
        """
        task_status.started()
        root = await self.root()
        is_seen = self._writer.store.is_shared  # else there is nobody who could see it
        with root.events() as events:
            try:
                if is_seen:
                    await self._remove_dead()
                    await self._put(root, find_family())
                while True:
                    event = None
                    with trio.move_on_after(_LOOK_SECONDS if is_seen else math.inf) as self._wait:
                        event = await events.receive()
                    if event is not None:
                        _log(event)
                        await trio.sleep(_GATHER_SECONDS)
                        while (another := events.take_nowait()) is not None:
                            _log(another)
                    if is_seen and (event is not None or self._is_news(find_family())):
                        await self._put(root, find_family())
                    if is_seen:
                        await self._open_steps.put()
            except trio.EndOfChannel:
                await trio.sleep_forever()  # the tree has ended, and this task is about to be cancelled
            finally:
                if is_seen:
                    with trio.CancelScope(shield=True):
                        await self._remove_own()
        raise AssertionError("unreachable")

    def _is_news(self, family: WorkerFamily | None) -> bool:
        found = self._find_lingering(), self._find_draining(), family
        return found != (self._lingering, self._is_draining, self._family)

    async def _remove_own(self) -> None:
        # Where it cannot be, the next process that serves the store finds that this one is dead.
        with contextlib.suppress(StoreError, trio.ClosedResourceError):
            await self._writer.write(PutReport(process=str(self._identity), report=None, now=self._clock.stamp()))

    async def read(self) -> tuple[ProcessReport, ...]:
        """Return the reports of all processes that run, the longest running first."""
        found = []
        for row in await self._writer.ask(ListReports()):
            if is_request(row) or row.is_alive is False:
                continue
            try:
                found.append(self._decoded(row))
            except (ValueError, CodecError) as error:
                self._skip(row, error)
        return tuple(sorted(found, key=lambda report: report.started_at))

    def _decoded(self, row: ReportRow) -> ProcessReport:
        if row.is_alive is None:
            raise ValueError("no process has that name")
        report: ProcessReport = _codec().decode(row.report, ProcessReport, where=_WHERE)
        if report.started_at.utcoffset() is None or report.updated_at.utcoffset() is None:
            raise ValueError("a time without time zone")
        return report

    def _skip(self, row: ReportRow, error: Exception) -> None:
        """Nothing depends on a report: one that cannot be read is left out, and said to be so once."""
        if row.process not in self._skipped:
            self._skipped.add(row.process)
            _LOGGER.info("the report of process %.60r cannot be read and is left out: %.200s", row.process, error)

    def own(self) -> ProcessReport | None:
        """Return what this process would say of itself as an executor now, once its tree is open."""
        return None if self._root is None else self._report(self._root, self._clock.stamp(), None)

    def _report(self, root: Supervisor, now: int, family: WorkerFamily | None) -> ProcessReport:
        return ProcessReport(
            pid=self._identity.pid,
            host=self._identity.host,
            parent_pid=os.getppid(),
            executor=self._executor(),
            workflows=self._workflows,
            started_at=to_datetime(self._started_at),
            updated_at=to_datetime(now),
            tree=root.tree(),
            lingering=self._find_lingering(),
            concurrency=self._concurrency,
            is_draining=self._find_draining(),
            family=family,
        )

    async def _put(self, root: Supervisor, family: WorkerFamily | None) -> None:
        now = self._clock.stamp()
        report = self._report(root, now, family)
        self._lingering, self._is_draining, self._family = report.lingering, report.is_draining, report.family
        text = _codec().encode(report, ProcessReport, where=_WHERE).text
        try:
            await self._writer.write(PutReport(process=str(self._identity), report=text, now=now))
            self._is_told = False
        except StoreError as error:
            if not self._is_told:  # once for an outage, in which workers come and go
                _LOGGER.warning("this process's tree could not be reported: %s", error)
            self._is_told = True

    async def _remove_dead(self) -> None:
        try:
            for row in await self._writer.ask(ListReports()):
                if row.is_alive is False:
                    await self._writer.write(PutReport(process=row.process, report=None, now=self._clock.stamp()))
        except StoreError as error:
            _LOGGER.warning("reports of processes that have ended could not be removed: %s", error)


def _log(event: Event) -> None:
    """Say that a task of the tree has crashed; the death of a worker is said by its parent and by who reaps it."""
    if isinstance(event, ChildExited) and event.exit.kind is ExitKind.CRASHED and event.exit.process is None:
        path, line = "/".join(event.path), str(event.exit).splitlines()[0]
        fields = {"event": "child_crashed", "child": path, "reason": line.removeprefix("crashed: ")}
        error = event.exit.error
        shown = error if error is not None and needs_traceback(error) else None
        _LOGGER.error("%s %s", path, line, exc_info=shown, extra={**fields, "fields": fields})


def with_runs(root: TreeNode, rows: Iterable[RunRow]) -> TreeNode:
    """Return an engine's tree with resident runs below the child that has them; to supervisors it is one task."""

    def node(row: RunRow) -> TreeNode:
        restart = Restart.TEMPORARY
        return TreeNode(
            name=f"{row.workflow} {row.id}", kind=NodeKind.TASK, status=ChildStatus.RUNNING, restart=restart
        )

    children = [
        attrs.evolve(child, kind=NodeKind.DYNAMIC, children=tuple(map(node, rows))) if child.name == "runs" else child
        for child in root.children
    ]
    return attrs.evolve(root, children=tuple(children))


def merged(reports: Iterable[ProcessReport], *, now: int) -> tuple[TreeNode, ...]:
    """Return the trees of all servers, each with those of its worker processes in their places.

    Args:
        now: microseconds; the time for which ``up_seconds`` is given.
    """
    by_pid = {report.pid: report for report in reports}
    placed: set[int] = set()

    def at_present(node: TreeNode, seconds: float) -> TreeNode:
        children: Sequence[TreeNode] = node.children
        worker = by_pid.get(node.pid) if node.pid is not None else None
        if node.kind is NodeKind.PROCESS and worker is not None and worker.pid not in placed:
            placed.add(worker.pid)
            return attrs.evolve(grown(node, seconds), children=present(worker).children)
        return attrs.evolve(grown(node, seconds), children=tuple(at_present(child, seconds) for child in children))

    def grown(node: TreeNode, seconds: float) -> TreeNode:
        return node if node.up_seconds is None else attrs.evolve(node, up_seconds=node.up_seconds + seconds)

    def present(report: ProcessReport) -> TreeNode:
        seconds = (to_datetime(now) - report.updated_at) / timedelta(seconds=1)
        return at_present(report.tree, max(0.0, seconds))

    roots = []
    for report in sorted(by_pid.values(), key=_has_workers, reverse=True):  # parents place their workers first
        if report.pid not in placed:
            placed.add(report.pid)
            roots.append(attrs.evolve(present(report), pid=report.pid))
    return tuple(roots)


def _has_workers(report: ProcessReport) -> bool:
    return any(child.kind is NodeKind.DYNAMIC for child in report.tree.children)
