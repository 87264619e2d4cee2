"""How others ask the parent of worker processes for a reload: by a row among the reports of processes.

Whoever asks puts it there in place of a report of its own, addressed to one process, which no later one is taken for.
The parent looks once a second, takes the row away, and says in its own report what has become of it. So asking needs
no permission to send signals, works whether the server has a terminal or not, and is not lost if either side is busy.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import Final

import attrs
import trio

from durable_trio.clock import Clock
from durable_trio.processes import ProcessIdentity
from durable_trio.records import ProcessReport
from durable_trio.rows import ReportRow
from durable_trio.stores.contract import PutReport
from durable_trio.stores.questions import ListReports
from durable_trio.stores.writer import Writer

__all__ = ["ReloadRequest", "Requests", "address_of", "has_died", "is_request", "put", "read", "take_back"]

_FORM: Final = "reload"


@attrs.frozen(kw_only=True)
class ReloadRequest:
    """Somebody wants the workers of a family replaced. ``process``: of which parent; ``None`` by a signal.

    ``baseline``: the path of an earlier rehearsal, so that only what is worse than there counts.
    """

    id: str
    process: str | None = None
    rehearses: bool = False
    baseline: str | None = None


@attrs.define
class Requests:
    """What a parent was asked for and has not begun yet."""

    waiting: deque[ReloadRequest] = attrs.field(factory=deque)
    has_come: trio.Event = attrs.field(factory=trio.Event)

    def add(self, request: ReloadRequest) -> None:
        """Take a request. One by a signal says nothing that another one has not said."""
        if request.process is None and any(other.process is None for other in self.waiting):
            return
        self.waiting.append(request)
        self.has_come.set()


def is_request(row: ReportRow) -> bool:
    """Whether a row is no report, but a request."""
    return row.report.startswith(f'{{"{_FORM}"')


def read(rows: Iterable[ReportRow], process: str) -> dict[str, ReloadRequest]:
    """Return the requests among some rows that are for a process, by who asks."""
    found = {}
    for row in rows:
        if is_request(row):
            try:
                request = ReloadRequest(**json.loads(row.report)[_FORM])
            except (ValueError, TypeError):  # of another version, say
                continue
            if request.process == process:
                found[row.process] = request
    return found


async def address_of(report: ProcessReport, writer: Writer) -> str | None:
    """Return by which name the process that says so of itself is addressed; ``None`` if it does no more."""
    for row in await writer.ask(ListReports()):
        if row.is_alive and not is_request(row):
            identity = ProcessIdentity.parse(row.process)
            if (identity.pid, identity.host) == (report.pid, report.host):
                return row.process
    return None


async def has_died(process: str, writer: Writer) -> bool:
    """Return whether the process that is addressed so has left its report behind, as one does that is killed."""
    return any(row.process == process and row.is_alive is False for row in await writer.ask(ListReports()))


async def put(request: ReloadRequest, writer: Writer, clock: Clock) -> None:
    """Ask. *Durability:* once it returns, the request is stored until it is taken up, or its process has died."""
    # Without what is not given: a parent of an earlier version takes up what it knows.
    text = json.dumps({_FORM: attrs.asdict(request, filter=lambda _, value: value is not None)})
    await writer.write(PutReport(process=str(ProcessIdentity.own()), report=text, now=clock.stamp()))


async def take_back(writer: Writer, clock: Clock, process: str | None = None) -> None:
    """Remove the request of a process, this one's if none is given; nothing if it is there no more."""
    await writer.write(PutReport(process=process or str(ProcessIdentity.own()), report=None, now=clock.stamp()))
