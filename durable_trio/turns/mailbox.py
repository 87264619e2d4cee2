"""What comes to a run from outside: signals, ends of children, and the two controls, cancel and time to live."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from durable_trio.limits import SIGNALS_IN_MEMORY_MAX
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key, MailboxEntry
from durable_trio.rules.expiry import Expiry, expiry
from durable_trio.stores.questions import Loaded, MailboxLook
from durable_trio.turns.call import Call
from durable_trio.turns.mode import Mode
from durable_trio.turns.stage import OPEN, Stage
from durable_trio.turns.state import RunState


@attrs.define(eq=False)
class UnreadSignals:
    """The unread signals of a resident run by name, the oldest first, as far as they are worth memory.

    Of each name the oldest ones are here. Where the store has more of a name than is here, that is known, and they are
    asked for by their name once a call waits for them. So a mailbox full of what nobody waits for is neither read at
    each claim nor walked through at each step.
    """

    #: Nothing is unread, here or in the store.
    is_empty: bool = True
    #: Those that are here, the oldest first.
    by_name: dict[str, deque[MailboxEntry]] = attrs.Factory(dict)
    _count: int = 0  # of those that are here
    # After which id the store has more of a name, or may have; None if it has not.
    _more_after: dict[str, int | None] = attrs.Factory(dict)
    _more_of_others_after: int | None = None
    _last_ids: dict[str, int] = attrs.Factory(dict)

    def load(self, entries: Iterable[MailboxEntry], *, more_after: int | None) -> None:
        """Take what was loaded with the run, before anything else.

        Args:
            entries: in order of arrival.
            more_after: the id after which some were left out, of any name; ``None`` if that is all.
        """
        for entry in entries:
            self.add(entry)
        self._more_of_others_after = more_after
        self._note_emptiness()

    def _note_emptiness(self) -> None:
        self.is_empty = not self._count and not self._more_after and self._more_of_others_after is None

    def more_after(self, name: str) -> int | None:
        """Return after which id the store may have more of a name than is here; ``None`` if it has not."""
        return self._more_after.get(name, self._more_of_others_after)

    def add(self, entry: MailboxEntry) -> None:
        """Take one that has arrived, later than all before; it is left to the store where that has older ones."""
        name = entry.name
        is_behind_others = self._more_after.get(name, self._more_of_others_after) is not None
        if is_behind_others or entry.id <= self._last_ids.get(name, 0):
            return
        if self._count >= SIGNALS_IN_MEMORY_MAX:
            self._more_after[entry.name] = entry.id - 1
        else:
            self._append(entry)
        self.is_empty = False

    def found(self, name: str, entries: Sequence[MailboxEntry], *, is_all: bool) -> None:
        """Take what the store has of a name beyond what is here."""
        for entry in entries:
            if entry.id > self._last_ids.get(name, 0):
                self._append(entry)
        if is_all:
            self._more_after[name] = None
        elif entries:
            self._more_after[name] = max(entries[-1].id, self.more_after(name) or 0)
        self._note_emptiness()

    def remove(self, entry: MailboxEntry) -> None:
        """Forget one that is being consumed."""
        self.by_name[entry.name].remove(entry)  # nearly always the first
        self._count -= 1
        if not self._count:
            self._note_emptiness()

    def _append(self, entry: MailboxEntry) -> None:
        self.by_name.setdefault(entry.name, deque()).append(entry)
        self._last_ids[entry.name] = entry.id
        self._count += 1


@attrs.define(eq=False)
class Mailbox:
    """The unread mailbox of a resident run, and its time to live.

    A control is recorded as soon as it is known, and delivered as a row like any other. A signal is recorded
    when a call waits for it and nothing else can happen first (the turns see to that). The end of a child is only
    noted: a call that waits for the child reads how it ended.

    Args:
        calls: all that wait, by their keys.
    """

    _state: RunState
    _calls: Mapping[Key, Call]
    signals: UnreadSignals = attrs.Factory(UnreadSignals)
    _controls: list[MailboxEntry] = attrs.Factory(list)
    position: int = 0  # up to which id all that has arrived is here, or known to be in the store
    _lacking: dict[str, int] = attrs.Factory(dict)  # signals that a call waits for: after which id to ask for them
    _on_the_way: int = 0
    _is_begun: bool = False
    _waiting: Callable[[Any], None] | None = None
    _control_counts: dict[StepKind, int] = attrs.Factory(dict)

    def load(self, loaded: Loaded) -> None:
        """Take what was loaded with the run, before anything else."""
        unread, left_out = loaded.unread, loaded.left_out
        signals: list[MailboxEntry] = []
        for entry in unread:
            (signals if entry.kind == "signal" else self._controls).append(entry)
        self.signals.load(signals, more_after=None if left_out is None else left_out[0])
        self.position = left_out[1] if left_out is not None else unread[-1].id if unread else 0

    def question(self) -> tuple[int, Mapping[str, int]]:
        """Return what is to be read of the mailbox: after which id, and which signals by name after which."""
        return self.position, dict(self._lacking)

    def joined(self, looks: Sequence[MailboxLook]) -> MailboxLook | None:
        """Return what was handed over, in whatever order, as one look; ``None`` if the mailbox must be read instead.

        That need not be if nothing can have come between: each look begins where the ones before end, or earlier. What
        is handed over twice, or was read meanwhile, is known by its id.
        """
        position = self.position
        entries = []
        for look in sorted(looks, key=lambda look: look.after):
            if look.after > position:
                return None
            for entry in look.entries:
                if entry.id > position:
                    entries.append(entry)
                    position = entry.id
        return MailboxLook(self.position, tuple(entries))

    def take(self, look: MailboxLook) -> None:
        """The mailbox was read again. What was taken before is not there a second time: ids only rise."""
        is_newest = look.after >= self.position  # else another look has come before this one
        for entry in look.entries:
            if entry.id > self.position:
                self.position = entry.id
                if entry.kind == "signal":
                    self.signals.add(entry)
                else:
                    self._controls.append(entry)
        for name, found in look.named.items():
            self._lacking.pop(name, None)
            self.signals.found(name, found.entries, is_all=found.is_all and look.is_all and is_newest)
        if self._controls and (self._state.mode is not Mode.REPLAYING or self._is_begun):
            self._take_controls()

    def is_settled(self) -> bool:
        """Return whether the controls that were waiting before the run went live are recorded and delivered."""
        if not self._is_begun:
            self._is_begun = True
            if self._controls:
                self._take_controls()
            if self._state.ttl_at is not None:
                self.take_ttl(self._state.clock.now())
        return self._on_the_way == 0

    @property
    def is_on_the_way(self) -> bool:
        """Whether a control is being recorded."""
        return self._on_the_way > 0

    def when_recorded(self, callback: Callable[[Any], None]) -> None:
        """Call back once no control is being recorded."""
        self._waiting = callback

    def has_signal(self, name: str, at: int) -> bool:
        """Return whether a signal of that name was sent until ``at`` and is still unread; or may have been."""
        now = self._state.clock.stamp()  # a stamp of the future counts as in time, as below
        if any(not at < entry.created_at <= now for entry in self.signals.by_name.get(name, ())):
            return True
        return self.signals.more_after(name) is not None

    def matching_signal(self) -> tuple[Call, MailboxEntry] | None:
        """Return a signal with a call that may have it: the oldest first, and none that came after the call was due.

        One that claims to be of the future was stamped before the wall clock was set back, and counts as in time.
        """
        if self.signals.is_empty:
            return None
        calls: dict[str, list[Call]] = {}
        for call in self._calls.values():
            if call.waits_for is not None and call.stage is Stage.BEGUN and call.raise_cancel is None:
                calls.setdefault(call.waits_for, []).append(call)
        matches = []
        for name, waiting in calls.items():
            match = self._first_match(name, waiting)
            if match is not None:
                matches.append(match)
            elif (after := self.signals.more_after(name)) is not None and name not in self._lacking:
                self._lacking[name] = after
                self._state.resident.look_into_mailbox()
        if self._lacking.keys() & calls.keys():
            return None  # one that is older may be among those that are being asked for
        if len(matches) > 1:
            return min(matches, key=lambda match: match[1].id)
        return matches[0] if matches else None

    def _first_match(self, name: str, calls: Sequence[Call]) -> tuple[Call, MailboxEntry] | None:
        now: int | None = None  # nearly always nobody wants to know
        for entry in self.signals.by_name.get(name, ()):
            for call in calls:
                if call.due_at is None or entry.created_at <= call.due_at:
                    return call, entry
                now = self._state.clock.stamp() if now is None else now
                if entry.created_at > now:
                    return call, entry
        return None

    def record_signal(self, call: Call, entry: MailboxEntry) -> None:
        """Let the call consume the signal."""
        if not (entry.is_new or call.can_take(entry)):
            return
        self.signals.remove(entry)
        state = self._state
        call.record(
            now=state.clock.stamp(),
            started_at=call.started_at,
            result=entry.payload,
            taken=(entry.id,),
        )

    def take_ttl(self, now: int) -> None:
        """Record that the time to live is over, once."""
        if self._state.ttl_at is not None and now >= self._state.clock.comes_at(self._state.ttl_at):
            self._state.ttl_at = None
            if self._state.expired is None:
                self._record_control(StepKind.TTL, None, self._state.clock.stamp(), result=self._where().to_text())

    def _where(self) -> Expiry:
        """Return where the body is now."""
        waits, delivered = self._state.agenda.waits, self._state.delivered
        calls = []
        for call in self._calls.values():
            if call.stage in OPEN and call.raise_cancel is None:
                since = call.started_at if call.stage is Stage.BEGUN else None
                if (stored := waits.get(call.key)) is not None:  # it has begun, perhaps in an earlier stay
                    since = stored.started_at
                name = call.waits_for or call.waits_for_child or call.key.name
                calls.append((call.kind, str(call.key), name, since))
        return expiry(calls, str(delivered[-1].key) if delivered else None)

    def _take_controls(self) -> None:
        state = self._state
        now = state.clock.stamp()
        controls, self._controls = self._controls, []
        for entry in controls:
            if entry.kind == "cancel":
                self._record_control(StepKind.CANCEL, entry, now)
            else:
                # No longer suspended: should the process die before the end is recorded, nothing else would wake it.
                state.port.advance(state.check, taken=((entry.id, 0),), status=state.port.next_status)
                for call in list(self._calls.values()):
                    if call.waits_for_child == entry.name and call.stage is Stage.BEGUN:
                        call.child_ended()

    def _record_control(
        self, kind: StepKind, entry: MailboxEntry | None, now: int, *, result: str | None = None
    ) -> None:
        state = self._state
        n = self._control_counts.get(kind, 0)
        self._control_counts[kind] = n + 1
        row = HistoryRow(
            seq=state.next_seq(),
            key=Key("", f"({kind})", n),
            kind=kind,
            result=entry.payload if entry is not None else result,
            started_at=entry.created_at if entry is not None else now,
            finished_at=now,
        )
        taken = ((entry.id, row.seq),) if entry is not None else ()
        self._on_the_way += 1
        state.port.advance(partial(self._recorded, row), rows=(row,), taken=taken)

    def note_control(self, row: HistoryRow) -> None:
        """A control of the history was delivered: the next of its kind has another key."""
        self._control_counts[row.kind] = row.key.n + 1

    def _recorded(self, row: HistoryRow, result: Any) -> None:
        self._on_the_way -= 1
        self._state.committed(result, row, None)
        if not self._on_the_way and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting(None)
