"""Waits for signals: for a while or for ever."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs

from durable_trio.calls.body import Body, Branch, check_json
from durable_trio.clock import INSTANT_MAX, microseconds_of
from durable_trio.errors import CodecError, SignalTimeout
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import Key, MailboxEntry, WaitRow
from durable_trio.rules.damage import damaged
from durable_trio.turns.call import Call


@attrs.define(eq=False, repr=False)
class SignalCall(Call):
    """Waits for the next signal of a name, for a while or for ever (``timeout``: microseconds)."""

    kind = StepKind.SIGNAL

    key: Key
    waits_for: str
    _body: Body
    _timeout: int | None

    def go_live(self, now: int) -> None:
        wait = self.state.agenda.waits.get(self.key)
        self.started_at = now if wait is None else wait.started_at
        if wait is None:
            due_at = None if self._timeout is None else min(INSTANT_MAX, now + self._timeout)
            self.state.agenda.wait(self, WaitRow(key=self.key, kind="signal", due_at=due_at, started_at=now))
        elif wait.due_at is not None:
            self.state.agenda.set_timer(self, wait.due_at, stamped_at=wait.started_at)

    def fire(self, now: int) -> None:
        error = SignalTimeout(
            f"no signal {self.waits_for!r} came in time for {self._body.where('signal', self.key)}",
            step=str(self.key),
            run_id=self._body.run_id,
        )
        text, self.outcome = self._body.failures.encode(error, where=self._body.where("signal", self.key))
        # A signal that another process has sent in time may not have been noticed yet: it wins.
        self.record(
            now=now,
            started_at=self.started_at,
            status=StepStatus.TIMED_OUT,
            error=text,
            unless_unread=(self.waits_for, self.due_at or now),
        )

    def can_take(self, entry: MailboxEntry) -> bool:
        try:
            check_json(entry.payload or "")
        except CodecError as error:
            where = f"in table mailbox, the row with id {entry.id}, payload"
            self._body.resident.refuse(damaged(self._body.run_id, f"{where}: {error}"))
            return False
        return True

    def dropped(self) -> None:
        self.state.clear_wait(self.key)


async def wait_signal(branch: Branch, name: str, type: Any, timeout: float | timedelta | None) -> Any:
    """Return the payload of the next signal of a name; see ``Context.wait_signal``."""
    body = branch.body
    microseconds = None if timeout is None else microseconds_of(timeout, what="timeout")
    key = branch.next_key("signal name", name)
    if type is Any:
        type = body.workflow.signals.get(key.name, type)
    call = SignalCall(key, key.name, body, microseconds)
    row = await body.lobby.perform(call)
    if row.error is not None:
        return body.deliver(call, row, type)
    # The payload is the sender's, not the code's: one of another type is the body's to handle, now and at replay.
    try:
        return body.codec.decode(row.result or "null", type, where="")
    except CodecError:  # its place is named only now, for that costs as much as all the rest
        body.check_stored(row.result or "null", f"history, the row with key {str(row.key)!r}, result")
    return body.codec.decode(row.result or "null", type, where=body.where("signal", call.key))
