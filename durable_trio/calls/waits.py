"""Durable waits: sleep and signals."""

from __future__ import annotations

from collections.abc import Callable

from durable_trio.calls.body import Environment, check_json
from durable_trio.clock import due_after
from durable_trio.errors import CodecError, SignalTimeout
from durable_trio.records import Key, MailboxEntry, StepKind, StepStatus, WaitRow
from durable_trio.rules.damage import damaged
from durable_trio.turns.call import Call


class SleepCall(Call):
    """Waits until an instant; the first due time is kept."""

    kind = StepKind.SLEEP

    def __init__(self, env: Environment, key: Key, due_from: Callable[[int], int]) -> None:
        super().__init__(key)
        self._env = env
        self._due_from = due_from

    def go_live(self) -> None:
        wait = self.turns.agenda.waits.get(self.key)
        now = self._env.clock.stamp()
        if wait is not None:
            self.started_at = wait.started_at
            self.turns.set_timer(self, wait.due_at or now, None, stamped_at=wait.started_at)
            return
        self.started_at = now
        due_at = self._due_from(now)
        if due_at <= now:
            self.fire(now)
        else:
            self.turns.set_timer(self, due_at, WaitRow(key=self.key, kind="sleep", due_at=due_at, started_at=now))

    def fire(self, now: int) -> None:
        self.record(now=now, started_at=self.started_at, cleared=self.turns.stored_wait(self.key))

    def dropped(self) -> None:
        self.turns.clear_wait(self.key)


class SignalCall(Call):
    """Waits for the next signal of a name, for a while or for ever."""

    kind = StepKind.SIGNAL

    def __init__(self, env: Environment, key: Key, name: str, timeout: float | None) -> None:
        super().__init__(key)
        self.waits_for = name
        self._env = env
        self._timeout = timeout
        self._name = name

    def go_live(self) -> None:
        wait = self.turns.agenda.waits.get(self.key)
        now = self._env.clock.stamp()
        self.started_at = now if wait is None else wait.started_at
        if wait is not None:
            if wait.due_at is not None:
                self.turns.set_timer(self, wait.due_at, None, stamped_at=wait.started_at)
        elif self._timeout is None:
            self.turns.agenda.remember(WaitRow(key=self.key, kind="signal", started_at=now))
        else:
            due_at = due_after(now, self._timeout)
            self.turns.set_timer(self, due_at, WaitRow(key=self.key, kind="signal", due_at=due_at, started_at=now))

    def fire(self, now: int) -> None:
        error = SignalTimeout(
            f"no signal {self._name!r} came in time for {self._env.where('signal', self.key)}",
            step=str(self.key),
            run_id=self._env.run_id,
        )
        text, self.outcome = self._env.failures.encode(error, where=self._env.where("signal", self.key))
        # A signal that another process has sent in time may not have been noticed yet: it wins.
        self.record(
            now=now,
            started_at=self.started_at,
            status=StepStatus.TIMED_OUT,
            error=text,
            cleared=self.turns.stored_wait(self.key),
            unless_unread=(self._name, self.due_at or now),
        )

    def can_take(self, entry: MailboxEntry) -> bool:
        try:
            check_json(entry.payload or "")
        except CodecError as error:
            where = f"in table mailbox, the row with id {entry.id}, payload"
            self._env.host.park(damaged(self._env.run_id, f"{where}: {error}"))
            return False
        return True

    def dropped(self) -> None:
        self.turns.clear_wait(self.key)


def constant(instant: int) -> Callable[[int], int]:
    """Return a due time that does not depend on when the sleep begins."""
    return lambda _now: instant


def after(seconds: float) -> Callable[[int], int]:
    """Return a due time some seconds after the sleep has begun."""
    return lambda now: due_after(now, seconds)
