"""What comes to a run from outside: signals, ends of children, and the two controls, cancel and time to live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from durable_trio.clock import Due
from durable_trio.records import HistoryRow, Key, MailboxEntry, StepKind
from durable_trio.replay.calls import Call

if TYPE_CHECKING:
    from durable_trio.replay.turns import Turns


class Mail:
    """The unread mailbox of a resident run, and its time to live.

    A control is recorded as soon as it is known, and delivered as a row like any other. A signal is recorded
    when a call waits for it and nothing else can happen first (the turns see to that). The end of a child is only
    noted: a call that waits for the child reads how it ended.
    """

    def __init__(self, turns: Turns, unread: Sequence[MailboxEntry], ttl_at: Due | None) -> None:
        self.unread = list(unread)
        self._consumed: set[int] = set()  # ids of entries that a look may still show as unread
        self.ttl_at = ttl_at
        self._turns = turns
        self._on_the_way = 0
        self._is_begun = False
        self._waiting: Callable[[Any], None] | None = None
        self._control_counts: dict[StepKind, int] = {}

    def take(self, entries: Sequence[MailboxEntry]) -> None:
        """The mailbox was read again."""
        # The look may be older than what was consumed since it was begun; what one does not show, no later one does.
        self._consumed.intersection_update(entry.id for entry in entries)
        self.unread = [entry for entry in entries if entry.id not in self._consumed]
        if self._turns.is_live or self._is_begun:
            self._take_controls()

    def is_settled(self) -> bool:
        """Return whether the controls that were waiting before the run went live are recorded and delivered."""
        if not self._is_begun:
            self._is_begun = True
            self._take_controls()
            self.take_ttl(self._turns.clock.now())
        return self._on_the_way == 0

    @property
    def is_on_the_way(self) -> bool:
        """Whether a control is being recorded."""
        return self._on_the_way > 0

    def when_recorded(self, callback: Callable[[Any], None]) -> None:
        """Call back once no control is being recorded."""
        self._waiting = callback

    def has_signal(self, name: str, at: int) -> bool:
        """Return whether a signal of that name was sent until ``at`` and is still unread."""
        return any(entry.kind == "signal" and entry.name == name and entry.created_at <= at for entry in self.unread)

    def matching_signal(self) -> tuple[Call, MailboxEntry] | None:
        """Return a signal with a call that may have it: the oldest first, and none that came after the call was due.

        One that claims to be of the future was stamped before the wall clock was set back, and counts as in time.
        """
        now = self._turns.clock.stamp() if self.unread else 0
        for entry in self.unread:
            if entry.kind != "signal":
                continue
            for call in self._turns.calls.values():
                if (
                    call.waits_for == entry.name
                    and call.is_live
                    and not call.is_sealed
                    and call.raise_cancel is None
                    and (call.due_at is None or entry.created_at <= call.due_at or entry.created_at > now)
                ):
                    return call, entry
        return None

    def record_signal(self, call: Call, entry: MailboxEntry) -> None:
        """Let the call consume the signal."""
        self._consume(entry)
        turns = self._turns
        call.record(
            now=turns.clock.stamp(),
            started_at=call.started_at,
            result=entry.payload,
            taken=(entry.id,),
            cleared=turns.stored_wait(call.key),
        )

    def take_ttl(self, now: int) -> None:
        """Record that the time to live is over, once."""
        if self.ttl_at is not None and now >= self._turns.clock.comes_at(self.ttl_at):
            self.ttl_at = None
            if not self._turns.is_expired:
                self._record_control(StepKind.TTL, None, self._turns.clock.stamp())

    def _take_controls(self) -> None:
        turns = self._turns
        now = turns.clock.stamp()
        for entry in list(self.unread):
            if entry.kind == "cancel":
                self._consume(entry)
                self._record_control(StepKind.CANCEL, entry, now)
            elif entry.kind == "child":
                self._consume(entry)
                # No longer suspended: should the process die before the end is recorded, nothing else would wake it.
                turns.port.advance(turns.check, taken=((entry.id, 0),), status=turns.port.next_status, now=now)
                for call in list(turns.calls.values()):
                    if call.waits_for_child == entry.name and call.is_live:
                        call.child_ended()

    def _record_control(self, kind: StepKind, entry: MailboxEntry | None, now: int) -> None:
        turns = self._turns
        n = self._control_counts.get(kind, 0)
        self._control_counts[kind] = n + 1
        row = HistoryRow(
            seq=turns.next_seq(),
            key=Key("", f"({kind})", n),
            kind=kind,
            result=entry.payload if entry is not None else None,
            started_at=entry.created_at if entry is not None else now,
            finished_at=now,
        )
        taken = ((entry.id, row.seq),) if entry is not None else ()
        self._on_the_way += 1
        turns.port.advance(partial(self._recorded, row), rows=(row,), taken=taken, now=now)

    def _consume(self, entry: MailboxEntry) -> None:
        self.unread.remove(entry)
        self._consumed.add(entry.id)

    def note_control(self, row: HistoryRow) -> None:
        """A control of the history was delivered: the next of its kind has another key."""
        self._control_counts[row.kind] = row.key.n + 1

    def _recorded(self, row: HistoryRow, result: Any) -> None:
        self._on_the_way -= 1
        self._turns.committed(result, row, None)
        if not self._on_the_way and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting(None)
