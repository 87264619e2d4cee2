"""What the tests of the turns share: an outlet and a resident run that take notes, a call, a body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

import trio
import trio.testing

from durable_trio import Clock, Detached, RunStatus, StepKind
from durable_trio.rows import HistoryRow, Key, MailboxEntry, WaitRow
from durable_trio.stores.contract import Advance, Fence
from durable_trio.stores.questions import Loaded, MailboxLook
from durable_trio.turns.call import Call
from durable_trio.turns.port import Port
from durable_trio.turns.quiet import BODY, watching
from durable_trio.turns.turns import Turns

FENCE = Fence(1, 1, 1)


def key(name: str, n: int = 0, branch: str = "") -> Key:
    return Key(branch, name, n)


def look(entries: Sequence[MailboxEntry], *, after: int = 0) -> MailboxLook:
    """Return a look at the mailbox that has found these."""
    return MailboxLook(after, tuple(entries))


def row(seq: int, name: str, kind: StepKind = StepKind.STEP, *, at: int = 0, **fields: Any) -> HistoryRow:
    return HistoryRow(seq=seq, key=key(name), kind=kind, started_at=at, finished_at=at, **fields)


def entry(number: int, kind: str, name: str, *, at: int = 0, payload: str | None = "null") -> MailboxEntry:
    return MailboxEntry(id=number, run=1, kind=kind, name=name, payload=payload, created_at=at)


class ManualOutlet:
    """Takes operations and commits them when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Callable[[Any], None]]] = []
        self.committed: list[Any] = []

    def submit(self, operation: Any, callback: Callable[[Any], None]) -> None:
        self.waiting.append((operation, callback))

    def submit_transaction(
        self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float, callback: Callable[[Any], None]
    ) -> None:
        self.waiting.append((fn(None), callback))

    def commit(self, outcome: Any = True) -> Any:
        """Commit the oldest operation, or give it another outcome; return it."""
        operation, callback = self.waiting.pop(0)
        self.committed.append(operation)
        callback(outcome)
        return operation

    @property
    def rows(self) -> list[str]:
        """The keys of the rows that wait for their commit."""
        return [str(row.key) for operation, _ in self.waiting for row in getattr(operation, "rows", ())]


class NotingResident:
    """Notes what the turns ask of it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.on_control: Callable[[HistoryRow], None] = lambda _row: None

    def control(self, row: HistoryRow) -> None:
        self.told.append(("control", row.kind))
        self.on_control(row)

    def is_left_undecided(self) -> None:
        self.told.append("left undecided")

    def went_live(self) -> None:
        self.told.append("live")

    def idle(self, due_at: int | None, waits_for: tuple[str, ...], waits: tuple[WaitRow, ...], *, now: int) -> None:
        self.told.append(("idle", due_at, waits_for, tuple(str(wait.key) for wait in waits)))

    def moved(self) -> None:
        pass

    def foreign(self, places: Sequence[str]) -> None:
        self.told.append(("foreign", len(places)))

    def stuck(self, row: HistoryRow, *, hopeless: bool) -> None:
        self.told.append(("stuck", str(row.key), hopeless))

    def alarm(self, due_at: int, now: int) -> None:
        self.told.append(("alarm", due_at))

    def look_into_mailbox(self) -> None:
        self.told.append("look")

    def quiesced(self) -> None:
        self.told.append("quiesced")

    def write_refused(self, error: BaseException) -> None:
        self.told.append(("refused", type(error)))

    def failed(self, error: BaseException) -> None:
        self.told.append(("failed", repr(error)))

    def task_abandoned(self, place: str, is_own: bool) -> None:
        self.told.append(("abandoned", place))


class NamedCall(Call):
    """A durable call that does what the test tells it."""

    kind = StepKind.STEP

    def __init__(self, name: str, *, waits_for: str | None = None, due_at: int | None = None) -> None:
        super().__init__(key(name))
        self.waits_for = waits_for
        self._due_at = due_at
        self.log: list[str] = []
        if waits_for is not None:
            self.kind = StepKind.SIGNAL

    def go_live(self, now: int) -> None:
        self.log.append("live")
        if self._due_at is not None:
            self.state.agenda.set_timer(self, self._due_at)

    def fire(self, now: int) -> None:
        self.log.append("fired")
        self.finish()

    def dropped(self) -> None:
        self.log.append("dropped")

    def finish(self) -> None:
        """Its function has returned: have that recorded."""
        self.record(now=0, started_at=0)


class Rig:
    """Turns with an outlet and a resident run in the test's hands."""

    def __init__(
        self, *, history: Sequence[HistoryRow] = (), unread: Sequence[MailboxEntry] = (), ttl_at: int | None = None
    ) -> None:
        self.now = 0
        self.outlet = ManualOutlet()
        self.resident = NotingResident()
        self.port = Port(self.outlet, FENCE, RunStatus.RUNNING)
        self.log: list[str] = []
        clock = Clock(wall=lambda: self.now * 1000, monotonic=lambda: 0)
        self.turns = Turns(
            Loaded(tuple(history), (), tuple(unread), {}),
            port=self.port,
            resident=self.resident,
            clock=clock,
            ttl_at=None if ttl_at is None else clock.due(ttl_at),
            started_at=0,
        )

    async def perform(self, call: NamedCall) -> HistoryRow:
        """Await a call and note what comes of it."""
        try:
            found: HistoryRow = await self.turns.lobby.perform(call)
        except BaseException as error:
            self.log.append(f"{call.key.name}: {type(error).__name__}")
            raise
        self.log.append(call.key.name)
        return found

    @asynccontextmanager
    async def body(self, fn: Callable[[], Awaitable[object]]) -> AsyncIterator[trio.CancelScope]:
        """Run ``fn`` as the body of a run until the block ends; gives its cancel scope."""
        scope = trio.CancelScope()

        async def main() -> None:
            try:
                with scope:
                    await fn()
            except Detached:
                pass
            except BaseExceptionGroup as group:
                if group.split(Detached)[1] is not None:
                    raise

        with watching():
            async with trio.open_nursery() as nursery:
                context = copy_context()
                context.run(BODY.set, self.turns.state)
                context.run(partial(nursery.start_soon, main))
                await trio.testing.wait_all_tasks_blocked()
                yield scope
                self.port.cut()
                scope.cancel()
                self.turns.lobby.throw_detached()
