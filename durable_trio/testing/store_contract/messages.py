"""The contract of the mailbox: signals, requests to cancel, the ends of children, and what they wake."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from durable_trio.errors import MailboxFull, OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import MailboxEntry
from durable_trio.stores.contract import (
    Advance,
    ParkDamaged,
    Release,
    RequestCancel,
    ResumeRun,
    SendSignal,
    Sent,
    SignalWithStart,
    Started,
    Store,
)
from durable_trio.stores.news_questions import FindCursor, ListSent
from durable_trio.stores.questions import ListUnread, LoadRun, LookAtMailbox, NamedSignals
from durable_trio.testing.store_contract.kit import (
    STRANGE,
    ContractKit,
    add,
    claim,
    finish,
    in_status,
    one,
    owned,
    park,
    register,
    row_of,
    sent_since,
    signal,
    stale,
    start,
    start_operation,
    step,
    suspend,
)


def cancel(store: Store, run_id: str = "run", reason: str = "null", now: int = 80) -> Any:
    """Ask a run to cancel."""
    return one(store, RequestCancel(run_id=run_id, reason=reason, now=now))


def signal_with_start(store: Store, signal_id: str | None = None, **options: Any) -> Any:
    """Start a run, or not if it is there, and send it a signal."""
    send = SendSignal(run_id="run", name="go", payload="1", signal_id=signal_id, now=85)
    return one(store, SignalWithStart(start=start_operation(**options), signal=send))


class MessageContract(ContractKit):
    """Nothing that was accepted is lost, and it comes in order, once."""

    def test_a_signal_waits_unread_and_names_the_owner(self, store: Store) -> None:
        row, fence = owned(store)
        cursor = store.ask(FindCursor())
        sent = signal(store, payload='{"a": null}', now=61)
        expected = MailboxEntry(
            id=sent.entry.id, run=row.run, kind="signal", name="go", payload='{"a": null}', created_at=61
        )
        assert attrs.evolve(sent, follows=None) == Sent(entry=expected, created=True, owner=fence.owner)
        assert store.ask(ListUnread(row.run)) == (expected,)
        assert [item.entry for item in sent_since(store, cursor)] == [expected]
        assert sent_since(store, store.ask(FindCursor())) == ()
        start(store, "pending")
        assert signal(store, "pending").owner is None

    def test_a_new_entry_tells_the_owner_between_what_it_has_come_or_nothing(self, store: Store) -> None:
        """``None`` is always right: then the owner reads the mailbox."""
        row, fence = owned(store)
        other, _ = owned(store, "other")
        first, _, second = signal(store), signal(store, "other"), signal(store, signal_id="id")
        assert first.follows in (None, (fence.token, 0))
        assert second.follows in (None, (fence.token, first.entry.id))
        assert signal(store, signal_id="id").follows is None  # it was there before
        one(store, Advance(fence=fence, rows=(step(1),), taken=((second.entry.id, 1),), now=70))
        third = signal(store)
        assert third.follows in (None, (fence.token, first.entry.id))
        one(store, Advance(fence=fence, rows=(step(2, n=1),), taken=((first.entry.id, 2), (third.entry.id, 2)), now=71))
        asked = cancel(store)
        assert asked.follows in (None, (fence.token, 0))
        assert signal(store).follows in (None, (fence.token, asked.entry.id))
        assert cancel(store).follows is None
        assert len(store.ask(ListUnread(other.run))) == 1
        start(store, "pending")
        assert signal(store, "pending").follows is None
        assert row.token == fence.token

    def test_signals_come_in_order_of_arrival_also_at_the_same_instant(self, store: Store) -> None:
        row, _ = owned(store)
        for number in range(20):
            signal(store, name=f"name-{number % 3}", payload=str(number), now=60 - number % 2)
        assert [entry.payload for entry in store.ask(ListUnread(row.run))] == [str(number) for number in range(20)]

    @pytest.mark.parametrize("payload", ["null", "false", "0", '""', "[]"])
    def test_empty_payloads_are_payloads(self, store: Store, payload: str) -> None:
        row, _ = owned(store)
        signal(store, payload=payload)
        assert [entry.payload for entry in store.ask(ListUnread(row.run))] == [payload]

    def test_the_same_signal_id_to_one_run_is_one_signal(self, store: Store) -> None:
        row, fence = owned(store)
        other, _ = owned(store, "other")
        first = signal(store, signal_id="id")
        again = signal(store, signal_id="id", now=99)
        assert (again.created, again.entry) == (False, first.entry)
        assert isinstance(signal(store, signal_id="id", payload="2"), RunConflict)
        assert isinstance(signal(store, signal_id="id", name="stop"), RunConflict)
        assert signal(store, "other", signal_id="id").created
        assert len(store.ask(ListUnread(row.run))) == len(store.ask(ListUnread(other.run))) == 1
        one(store, Advance(fence=fence, rows=(step(1),), taken=((first.entry.id, 1),), now=70))
        assert not signal(store, signal_id="id").created
        assert store.ask(ListUnread(row.run)) == ()
        finish(store, fence)
        assert signal(store, signal_id="id").entry == first.entry
        assert isinstance(signal(store, signal_id="new"), RunFinished)

    def test_signals_to_nobody_or_to_finished_runs_are_refused(self, store: Store) -> None:
        assert isinstance(signal(store, "nobody"), RunNotFound)
        row, fence = owned(store)
        finish(store, fence)
        refused = signal(store)
        assert isinstance(refused, RunFinished)
        assert refused.run_id == "run"
        assert store.ask(ListUnread(row.run)) == ()

    def test_a_signal_wakes_a_sleeping_run_that_waits_for_its_name(self, store: Store) -> None:
        _, fence = owned(store)
        suspend(store, fence, wake_at=500, waits_for=("go", 'stop"\n\\ü🌍'))
        signal(store, name="other", now=60)
        assert row_of(store).wake_at == 500
        signal(store, name='stop"\n\\ü🌍', now=61)
        assert row_of(store).wake_at == 61
        assert [row.id for row in claim(store, register(store), now=61)] == ["run"]

    def test_a_signal_does_not_wake_what_is_set_aside_or_touch_a_run_that_is_owned_or_pending(
        self, store: Store
    ) -> None:
        _, fence = owned(store, "damaged")
        one(store, ParkDamaged(fence=fence, problem="{}"))
        signal(store, "damaged")
        assert row_of(store, "damaged").wake_at is None
        _owned_row, fence = owned(store, "owned")
        one(store, Advance(fence=fence, status=RunStatus.SUSPENDED, wake_at=500, waits_for=("go",), now=20))
        signal(store, "owned")
        assert row_of(store, "owned").wake_at == 500
        start(store, "pending", due_at=900)
        signal(store, "pending")
        assert row_of(store, "pending").wake_at == 900

    def test_unread_signals_have_a_limit_and_other_messages_have_none(self, store: Store) -> None:
        """One that was sent before is known again; and there is room as soon as one is taken."""
        row, fence = owned(store)
        _, child_fence = owned(store, "child", parent=row.run)
        sent = [signal(store, signal_id=f"id-{number}", unread_max=3) for number in range(3)]
        refused = signal(store, unread_max=3)
        assert isinstance(refused, MailboxFull)
        assert refused.run_id == "run"
        assert len(store.ask(ListUnread(row.run))) == 3
        assert signal(store, signal_id="id-1", unread_max=3).created is False
        assert one(store, RequestCancel(run_id="run", reason="null", now=70)).created
        finish(store, child_fence)
        assert [entry.kind for entry in store.ask(ListUnread(row.run))] == ["signal"] * 3 + ["cancel", "child"]
        one(store, Advance(fence=fence, rows=(step(1, "s"),), taken=((sent[0].entry.id, 1),), now=70))
        assert signal(store, unread_max=3).created
        assert isinstance(signal(store, unread_max=3), MailboxFull)
        assert signal(store, unread_max=None).created

    def test_a_full_mailbox_takes_the_signal_that_the_run_waits_for(self, store: Store) -> None:
        """Only that one makes room, so it is taken once, and by its name."""
        row, fence = owned(store)
        for _ in range(3):
            signal(store, name="other", unread_max=3)
        suspend(store, fence, waits_for=("go", "stop"))
        assert isinstance(signal(store, name="another", unread_max=3), MailboxFull)
        assert signal(store, name="go", unread_max=3).created
        assert row_of(store).wake_at is not None
        assert isinstance(signal(store, name="go", unread_max=3), MailboxFull)
        assert signal(store, name="stop", unread_max=3).created
        assert isinstance(signal(store, name="other", unread_max=3), MailboxFull)
        assert len(store.ask(ListUnread(row.run))) == 5

    def test_signals_that_a_resumed_run_has_back_count_again(self, store: Store) -> None:
        _, fence = owned(store)
        entry = signal(store).entry
        failure = step(1, "s", status=StepStatus.FAILED)
        one(store, Advance(fence=fence, rows=(failure,), taken=((entry.id, 1),), now=70))
        finish(store, fence, RunStatus.FAILED)
        one(store, ResumeRun(run_id="run", now=80))
        assert isinstance(signal(store, unread_max=1), MailboxFull)

    def test_a_look_at_the_mailbox_gives_what_has_come_and_signals_by_name(self, store: Store) -> None:
        row, _ = owned(store)
        entries = [signal(store, name=name).entry for name in "abaab"]
        look = store.ask(
            LookAtMailbox(row.run, after=entries[1].id, names={"a": 0, "b": entries[1].id, "c": 0}, limit=2)
        )
        assert (look.after, look.entries, look.is_all) == (entries[1].id, tuple(entries[2:4]), False)
        assert look.named["a"] == NamedSignals(0, (entries[0], entries[2]), False)
        assert look.named["b"] == NamedSignals(entries[1].id, (entries[4],), True)
        assert look.named["c"] == NamedSignals(0, (), True)
        rest = store.ask(LookAtMailbox(row.run, after=entries[3].id, names={}, limit=2))
        assert (rest.entries, rest.is_all) == ((entries[4],), True)

    def test_of_a_mailbox_with_very_many_signals_a_part_is_loaded_and_all_controls(self, store: Store) -> None:
        row, _ = owned(store)
        _, child_fence = owned(store, "child", parent=row.run)
        noise = SendSignal(run_id="run", name="noise", payload="1", signal_id=None, now=60)
        store.apply([noise] * 700)
        cancel = one(store, RequestCancel(run_id="run", reason="null", now=70)).entry
        store.apply([noise] * 10)
        finish(store, child_fence)
        loaded = store.ask(LoadRun(row.run))
        signals = [entry for entry in loaded.unread if entry.kind == "signal"]
        assert [entry.kind for entry in loaded.unread if entry.kind != "signal"] == ["cancel", "child"]
        if loaded.left_out is None:
            assert len(signals) == 710
        else:
            assert loaded.left_out is not None
            assert loaded.left_out[0] == signals[-1].id < cancel.id <= loaded.left_out[1]

    def test_a_release_is_refused_while_something_that_the_run_waits_for_is_unread(self, store: Store) -> None:
        _row, fence = owned(store)
        entry = signal(store).entry
        before = row_of(store)
        assert suspend(store, fence, waits_for=("stop", "go")) is False
        assert row_of(store) == before
        one(store, Advance(fence=fence, rows=(step(1),), taken=((entry.id, 1),), now=70))
        assert suspend(store, fence, waits_for=("stop", "go")) is True

    def test_a_release_is_not_refused_for_what_the_run_does_not_wait_for(self, store: Store) -> None:
        _, fence = owned(store)
        signal(store)
        assert suspend(store, fence, waits_for=("stop",)) is True

    def test_a_release_is_refused_for_any_cancel_or_end_of_a_child(self, store: Store) -> None:
        _, fence = owned(store)
        cancel(store)
        assert suspend(store, fence) is False
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        finish(store, child_fence)
        assert suspend(store, parent_fence) is False

    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.COMPENSATING])
    def test_other_releases_are_never_refused(self, store: Store, status: RunStatus) -> None:
        _, fence = in_status(store, status)
        signal(store)
        cancel(store)
        assert one(store, Release(fence=fence, status=status, wake_at=70, waits_for=("go",))) is True

    def test_a_cancel_request_is_one_unread_entry_however_often_it_is_asked(self, store: Store) -> None:
        row, fence = owned(store)
        sent = cancel(store, reason='"why"', now=81)
        assert (sent.created, sent.owner) == (True, fence.owner)
        assert (sent.entry.kind, sent.entry.payload, sent.entry.created_at) == ("cancel", '"why"', 81)
        again = cancel(store, reason='"other"', now=99)
        assert (again.created, again.entry) == (False, sent.entry)
        assert store.ask(ListUnread(row.run)) == (sent.entry,)
        assert row_of(store) == row

    def test_a_cancel_request_that_was_read_is_the_same_entry_still_and_wakes_nobody(self, store: Store) -> None:
        row, fence = owned(store)
        sent = cancel(store)
        read = step(1, kind=StepKind.CANCEL)
        one(store, Advance(fence=fence, rows=(read,), taken=((sent.entry.id, 1),), now=82))
        assert suspend(store, fence, wake_at=500) is True
        again = cancel(store, now=99)
        assert (again.created, again.entry) == (False, sent.entry)
        assert store.ask(ListUnread(row.run)) == ()
        assert row_of(store).wake_at == 500

    def test_a_pending_run_is_cancelled_at_once(self, store: Store) -> None:
        row = start(store)
        sent = cancel(store, now=81)
        assert (sent.created, sent.owner) == (True, None)
        after = row_of(store)
        assert (after.status, after.finished_at, after.wake_at) == (RunStatus.CANCELLED, 81, None)
        assert after.changed > row.changed
        assert cancel(store) is None
        assert claim(store, register(store)) == ()

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
    def test_cancelling_a_finished_run_changes_nothing(self, store: Store, status: RunStatus) -> None:
        row, fence = owned(store)
        finish(store, fence, status)
        before = row_of(store)
        assert cancel(store) is None
        assert (row_of(store), store.ask(ListUnread(row.run))) == (before, ())

    def test_cancelling_a_compensating_run_changes_nothing(self, store: Store) -> None:
        row, fence = owned(store)
        one(store, Advance(fence=fence, status=RunStatus.COMPENSATING, now=20))
        assert cancel(store) is None
        assert store.ask(ListUnread(row.run)) == ()

    def test_cancelling_nobody_is_not_found(self, store: Store) -> None:
        assert isinstance(cancel(store, "nobody"), RunNotFound)

    def test_a_cancel_wakes_a_sleeping_run(self, store: Store) -> None:
        _, fence = owned(store)
        suspend(store, fence, wake_at=500)
        cancel(store, now=81)
        row = row_of(store)
        assert (row.status, row.wake_at) == (RunStatus.SUSPENDED, 81)

    def test_a_cancel_wakes_a_parked_run_and_clears_its_problem(self, store: Store) -> None:
        _, fence = owned(store)
        add(store, fence, step(1))
        park(store, fence)
        changed = row_of(store).changed
        cancel(store, now=81)
        row = row_of(store)
        assert (row.problem, row.wake_at) == (None, 81)
        assert row.changed > changed

    def test_a_cancel_ends_a_parked_run_that_has_done_nothing(self, store: Store) -> None:
        _, fence = owned(store)
        park(store, fence)
        one(store, RequestCancel(run_id="run", reason="null", error='{"e": 1}', now=81))
        row = row_of(store)
        assert (row.status, row.problem, row.wake_at, row.finished_at) == (RunStatus.CANCELLED, None, None, 81)
        assert row.error == '{"e": 1}'

    def test_the_error_of_a_cancel_request_is_that_of_a_run_that_ends_at_once(self, store: Store) -> None:
        start(store)
        one(store, RequestCancel(run_id="run", reason="null", error='{"e": 1}', now=80))
        assert row_of(store).error == '{"e": 1}'
        owned(store, "owned")
        one(store, RequestCancel(run_id="owned", reason="null", error='{"e": 1}', now=80))
        assert row_of(store, "owned").error is None

    def test_a_signal_with_start_starts_a_run_that_is_not_there(self, store: Store) -> None:
        started = signal_with_start(store, owner=register(store))
        assert started == Started(row=row_of(store), created=True, claimed=False)
        assert started.row.status is RunStatus.PENDING
        assert [entry.name for entry in store.ask(ListUnread(started.row.run))] == ["go"]

    def test_a_signal_with_start_signals_a_run_that_is_there(self, store: Store) -> None:
        row, fence = owned(store)
        suspend(store, fence, wake_at=500, waits_for=("go",))
        started = signal_with_start(store)
        assert started == Started(row=row_of(store), created=False, claimed=False)
        assert started.row.wake_at == 85
        assert len(store.ask(ListUnread(row.run))) == 1

    def test_a_signal_with_start_does_both_or_neither(self, store: Store) -> None:
        row, fence = owned(store)
        assert isinstance(signal_with_start(store, args_digest=b"another"), RunConflict)
        assert store.ask(ListUnread(row.run)) == ()
        signal(store, payload="2", signal_id="id")
        assert isinstance(signal_with_start(store, signal_id="id"), RunConflict)
        finish(store, fence)
        assert isinstance(signal_with_start(store), RunFinished)
        assert len(store.ask(ListUnread(row.run))) == 1

    def test_the_end_of_a_child_is_told_to_its_parent_and_wakes_it(self, store: Store) -> None:
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        suspend(store, parent_fence, wake_at=500)
        finish(store, child_fence, RunStatus.FAILED, now=55)
        (entry,) = store.ask(ListUnread(parent.run))
        assert (entry.kind, entry.name, entry.payload, entry.created_at) == ("child", "child", '"failed"', 55)
        assert row_of(store, "parent").wake_at == 55

    def test_the_end_of_a_child_does_not_wake_a_parent_that_is_set_aside(self, store: Store) -> None:
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        one(store, ParkDamaged(fence=parent_fence, problem="{}"))
        finish(store, child_fence)
        assert row_of(store, "parent").wake_at is None
        assert len(store.ask(ListUnread(parent.run))) == 1

    def test_a_child_cancelled_while_pending_is_told_to_its_parent(self, store: Store) -> None:
        parent, _ = owned(store, "parent")
        start(store, "child", parent=parent.run)
        cancel(store, "child")
        assert [(entry.name, entry.payload) for entry in store.ask(ListUnread(parent.run))] == [
            ("child", '"cancelled"')
        ]

    def test_a_parent_that_has_ended_is_told_nothing(self, store: Store) -> None:
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        finish(store, parent_fence)
        assert finish(store, child_fence) is True
        assert store.ask(ListUnread(parent.run)) == ()

    def test_what_was_sent_is_listed_in_order_read_or_not_with_what_it_follows(self, store: Store) -> None:
        """``None`` is always right as what it follows: then the owner reads the mailbox."""
        _, fence = owned(store)
        start(store, "other")
        cursor = store.ask(FindCursor())
        entries = [signal(store, run_id).entry for run_id in ("run", "other", "run", "run", "run")]
        one(store, Advance(fence=fence, rows=(step(1, kind=StepKind.SIGNAL),), taken=((entries[2].id, 1),), now=70))
        found = sent_since(store, cursor)
        assert [sent.entry for sent in found] == entries
        assert [sent.created for sent in found] == [True, True, False, True, True]
        assert [sent.owner for sent in found] == [fence.owner, None, fence.owner, fence.owner, fence.owner]
        before = [(fence.token, 0), None, None, (fence.token, entries[0].id), (fence.token, entries[3].id)]
        assert all(sent.follows in (None, each) for sent, each in zip(found, before, strict=True))
        first = store.ask(ListSent(cursor, limit=2))
        assert ([sent.entry for sent in first.sent], first.is_last) == (entries[:2], False)
        rest = store.ask(ListSent(first.cursor, limit=99))
        assert ([sent.entry for sent in rest.sent], rest.is_last) == (entries[2:], True)
        assert sent_since(store, rest.cursor) == sent_since(store, store.ask(FindCursor())) == ()

    def test_strange_names_and_ids_of_signals_are_only_strings(self, store: Store) -> None:
        row, fence = owned(store)
        for text in STRANGE:
            assert signal(store, name=text, payload=text, signal_id=text).created
            assert not signal(store, name=text, payload=text, signal_id=text).created
            assert isinstance(signal(store, f"no {text}"), RunNotFound)
        assert [entry.name for entry in store.ask(ListUnread(row.run))] == list(STRANGE)
        assert suspend(store, fence, waits_for=("nothing",)) is True

    def test_a_run_does_not_end_otherwise_while_a_cancel_is_unread(self, store: Store) -> None:
        row, fence = owned(store)
        assert one(store, Advance(fence=fence, unless_cancelled=True, now=60)) is True
        entry = cancel(store).entry
        compensating = Advance(fence=fence, status=RunStatus.COMPENSATING, unless_cancelled=True, now=90)
        assert one(store, compensating) is False
        assert finish(store, fence, unless_cancelled=True) is False
        assert row_of(store).status is RunStatus.RUNNING
        assert isinstance(finish(store, stale(fence), unless_cancelled=True), OwnershipLost)
        one(store, Advance(fence=fence, rows=(step(1, kind=StepKind.CANCEL),), taken=((entry.id, 1),), now=95))
        assert store.ask(ListUnread(row.run)) == ()
        assert finish(store, fence, RunStatus.CANCELLED, unless_cancelled=True) is True
