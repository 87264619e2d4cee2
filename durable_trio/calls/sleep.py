"""Durable sleeps: the first due time is kept."""

from __future__ import annotations

from collections.abc import Callable

from durable_trio.calls.body import Body, Branch
from durable_trio.clock import due_after
from durable_trio.records import StepKind
from durable_trio.rows import Key, WaitRow
from durable_trio.turns.call import Call


class SleepCall(Call):
    """Waits until an instant; the first due time is kept."""

    kind = StepKind.SLEEP

    def __init__(self, body: Body, key: Key, due_from: Callable[[int], int]) -> None:
        super().__init__(key)
        self._body = body
        self._due_from = due_from

    def go_live(self, now: int) -> None:
        wait = self.state.agenda.waits.get(self.key)
        if wait is not None:
            self.started_at = wait.started_at
            self.state.agenda.set_timer(self, wait.due_at or now, stamped_at=wait.started_at)
            return
        self.started_at = now
        due_at = self._due_from(now)
        if due_at <= now:
            self.fire(now)
        else:
            self.state.agenda.wait(self, WaitRow(key=self.key, kind="sleep", due_at=due_at, started_at=now))

    def fire(self, now: int) -> None:
        self.record(now=now, started_at=self.started_at)

    def dropped(self) -> None:
        self.state.clear_wait(self.key)


async def sleep(branch: Branch, name: str, due_from: Callable[[int], int]) -> None:
    """Sleep until the instant that ``due_from`` says when it is asked at the beginning."""
    await branch.body.lobby.perform(SleepCall(branch.body, branch.next_key("sleep name", name), due_from))


def constant(instant: int) -> Callable[[int], int]:
    """Return a due time that does not depend on when the sleep begins."""
    return lambda _now: instant


def after(seconds: float) -> Callable[[int], int]:
    """Return a due time some seconds after the sleep has begun."""
    return lambda now: due_after(now, seconds)
