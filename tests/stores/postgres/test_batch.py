"""One batch: how many round trips it takes, and that none of its operations makes the others fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from durable_trio.errors import MailboxFull, RunConflict, StoreError
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import Key, WaitRow
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    Finish,
    Operation,
    Release,
    RenewLease,
    RequestCancel,
    SendSignal,
    SignalWithStart,
    Started,
)
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListUnread, LoadRun
from durable_trio.testing.store_contract.kit import (
    add,
    codes_of,
    fence_of,
    one,
    owned,
    register,
    row_of,
    signal,
    start,
    start_operation,
    step,
    suspend,
)
from tests.stores.postgres.kit import Rows


def go(run_id: str = "run", **options: Any) -> SendSignal:
    return SendSignal(run_id=run_id, **({"name": "go", "payload": "1", "signal_id": None, "now": 60} | options))


def apply(store: PostgresStore, batch: Sequence[Operation]) -> list[Any]:
    outcomes = store.apply(batch)
    assert outcomes is not None
    return outcomes


class RoundTrips:
    """How many a batch takes."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def of(self, *batch: Operation) -> int:
        before = self._count()
        apply(self._store, batch)
        return self._count() - before

    def _count(self) -> int:
        with self._store._writer.used() as wire:
            return wire.exchange_count


@pytest.fixture
def round_trips(store: PostgresStore) -> RoundTrips:
    """Those of the store."""
    return RoundTrips(store)


def test_each_operation_of_the_hot_path_takes_two_round_trips(store: PostgresStore, round_trips: RoundTrips) -> None:
    _, fence = owned(store)
    assert round_trips.of(Advance(fence=fence, rows=(step(1),), now=20)) == 2
    assert round_trips.of(start_operation("new", owner=fence.owner)) == 2
    assert round_trips.of(start_operation("new")) == 2
    assert round_trips.of(go()) == 2
    assert round_trips.of(RequestCancel(run_id="run", reason="null", now=60)) == 2
    assert round_trips.of(SignalWithStart(start=start_operation("other"), signal=go("other"))) == 2
    assert round_trips.of(RenewLease(executor=fence.owner)) == 2
    assert round_trips.of(Release(fence=fence, status=RunStatus.RUNNING, wake_at=1)) == 2
    assert round_trips.of(Finish(fence=fence, status=RunStatus.COMPLETED, now=70)) == 2


def test_a_batch_takes_two_round_trips_whatever_its_number(store: PostgresStore, round_trips: RoundTrips) -> None:
    executor = register(store)
    rows = [start(store, f"run-{number}", owner=executor) for number in range(50)]
    batch: list[Operation] = [RenewLease(executor=executor)]
    for number, row in enumerate(rows):
        fence = fence_of(row)
        child = start_operation(f"child-{number}")
        batch += [
            Advance(fence=fence, rows=(step(1),), waits=(_wait(),), now=20),
            Advance(fence=fence, rows=(step(2, n=1, kind=StepKind.CHILD),), children=(child,), now=20),
            go(row.id, unread_max=5, signal_id="id"),
            start_operation(f"new-{number}", owner=executor),
            Finish(fence=fence, status=RunStatus.COMPLETED, result="1", now=70),
        ]
    assert round_trips.of(*batch) == 2
    assert all(row_of(store, row.id).status is RunStatus.COMPLETED for row in rows)


def test_what_is_done_by_itself_takes_its_own_round_trips_between_the_others(
    store: PostgresStore, round_trips: RoundTrips
) -> None:
    _, fence = owned(store)
    claim = ClaimDue(owner=fence.owner, codes=codes_of("work"), now=10, limit=1)
    alone = round_trips.of(claim)
    step_before = Advance(fence=fence, rows=(step(1),), now=20)
    step_after = Advance(fence=fence, rows=(step(2, n=1),), now=20)
    assert round_trips.of(step_before, claim, step_after) <= alone + 3


def test_several_changes_of_a_run_are_one_change_of_its_row(store: PostgresStore, rows: Rows) -> None:
    row, fence = owned(store)
    outcomes = apply(
        store,
        [
            Advance(fence=fence, status=RunStatus.COMPENSATING, error='{"a": 1}', now=20),
            Advance(fence=fence, published=(("k", "1"),), now=20),
            Advance(fence=fence, published=(("k", "2"),), now=20),
            Finish(fence=fence, status=RunStatus.FAILED, error='{"b": 1}', now=30),
        ],
    )
    assert outcomes == [True] * 4
    after = row_of(store)
    assert (after.status, after.error, after.finished_at, after.owner) == (RunStatus.FAILED, '{"b": 1}', 30, None)
    assert after.changed > row.changed
    assert rows.all("SELECT key, value FROM published") == [("k", "2")]


def test_what_is_refused_leaves_the_others_as_they_are(store: PostgresStore) -> None:
    """Also if only the server can tell, as of a row that is in the history already."""
    row, fence = owned(store)
    add(store, fence, step(1))
    again = Advance(fence=fence, rows=(step(2, n=1), step(1)), published=(("k", "1"),), now=20)
    after = Advance(fence=fence, rows=(step(3, n=2),), now=20)
    outcomes = apply(store, [start_operation("new"), again, after, go(), RenewLease(executor=fence.owner)])
    assert isinstance(outcomes[0], Started)
    assert isinstance(outcomes[1], RunConflict)
    assert "'step#0'" in str(outcomes[1])
    assert outcomes[2] is True
    assert outcomes[3].created
    assert outcomes[4] is True
    loaded = store.ask(LoadRun(row.run))
    assert [each.seq for each in loaded.history] == [1, 3]
    assert row_of(store, "new").status is RunStatus.PENDING


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_what_the_server_does_not_store_is_left_out(store: PostgresStore, text: str) -> None:
    row, fence = owned(store)
    batch: list[Operation] = [
        Advance(fence=fence, rows=(step(1, text),), now=20),
        go(name=text),
        start_operation(text),
        start_operation("tagged", tags='{"a": "\\u0000"}'),
        SendSignal(run_id=text, name="go", payload="1", signal_id=None, now=20),
        Advance(fence=fence, rows=(step(2),), now=20),
    ]
    outcomes = apply(store, batch)
    for refused in (0, 1, 2, 4):
        assert isinstance(outcomes[refused], StoreError)
        assert "left out" in str(outcomes[refused])
    assert isinstance(outcomes[3], Started)
    assert outcomes[5] is True
    assert [each.seq for each in store.ask(LoadRun(row.run)).history] == [2]
    assert store.ask(ListUnread(row.run)) == ()


def test_a_nul_within_a_payload_is_no_nul_of_its_text(store: PostgresStore) -> None:
    row, fence = owned(store)
    payload = '{"a": "\\u0000", "b": "\\\\u0000", "c": "\\ud800"}'
    add(store, fence, step(1, result=payload))
    signal(store, payload=payload)
    loaded = store.ask(LoadRun(row.run))
    assert loaded.history[0].result == payload
    assert loaded.unread[0].payload == payload


def test_a_start_that_is_refused_leaves_the_id_to_the_next(store: PostgresStore) -> None:
    """A run is inserted for the first of them before it is known that it is refused."""
    _, fence = owned(store)
    add(store, fence, step(1))
    refused = Advance(fence=fence, rows=(step(1),), children=(start_operation("new", args="[1]"),), now=20)
    assert isinstance(apply(store, [refused])[0], RunConflict)
    outcomes = apply(store, [refused, start_operation("new", args="[2]")])
    assert isinstance(outcomes[0], RunConflict)
    assert (outcomes[1].created, outcomes[1].row.args, outcomes[1].row.parent) == (True, "[2]", None)
    assert row_of(store, "new") == outcomes[1].row


def test_a_run_is_not_there_before_its_start_and_is_after_it(store: PostgresStore) -> None:
    outcomes = apply(store, [go("new"), start_operation("new"), go("new"), start_operation("new")])
    assert [type(each).__name__ for each in outcomes] == ["RunNotFound", "Started", "Sent", "Started"]
    assert [outcomes[1].created, outcomes[3].created] == [True, False]
    assert row_of(store, "new") == outcomes[1].row


def test_runs_are_numbered_in_the_order_of_their_starts(store: PostgresStore) -> None:
    outcomes = apply(store, [start_operation(run_id) for run_id in "dbca"])
    assert sorted(outcomes, key=lambda each: each.row.run) == outcomes


def test_entries_that_are_taken_and_sent_in_one_batch_are_counted_in_their_order(store: PostgresStore) -> None:
    _, fence = owned(store)
    entries = [signal(store).entry.id for _ in range(3)]
    taking = Advance(fence=fence, rows=(step(1),), taken=((entries[2], 1),), now=20)
    outcomes = apply(store, [go(unread_max=3), taking, go(unread_max=3), go(unread_max=3)])
    assert isinstance(outcomes[0], MailboxFull)
    assert outcomes[2].follows == (fence.token, entries[1])
    assert isinstance(outcomes[3], MailboxFull)


def test_a_signal_of_a_name_is_looked_for_behind_those_that_are_taken(store: PostgresStore) -> None:
    _, fence = owned(store)
    entries = [signal(store, now=30 + number).entry.id for number in range(3)]

    def timed_out(seq: int) -> Advance:
        return Advance(fence=fence, rows=(step(seq, n=seq),), unless_unread=("go", 40), now=50)

    def taking(entry: int, seq: int) -> Advance:
        return Advance(fence=fence, rows=(step(seq, n=seq),), taken=((entry, seq),), now=50)

    batch = [timed_out(1), taking(entries[0], 2), timed_out(3), taking(entries[1], 4), timed_out(5)]
    assert apply(store, [*batch, taking(entries[2], 6), timed_out(7)]) == [False, True, False, True, False, True, True]


def test_a_mailbox_is_looked_at_where_a_release_depends_on_it_and_nowhere_else(
    store: PostgresStore, rows: Rows
) -> None:
    """However much is unread that a run does not wait for."""
    _, fence = owned(store)
    apply(store, [go(name="noise")] * 500)
    assert suspend(store, fence, waits_for=("go",)) is True
    assert rows.one("SELECT count(*) FROM mailbox WHERE seq IS NULL") == 500


def test_waits_that_are_set_and_cleared_in_one_batch_are_as_they_were_last(store: PostgresStore) -> None:
    row, fence = owned(store)
    key = _wait().key
    setting, clearing = Advance(fence=fence, waits=(_wait(),), now=20), Advance(fence=fence, cleared=(key,), now=20)
    later = Advance(fence=fence, waits=(_wait(due_at=99),), now=20)
    apply(store, [setting, clearing])
    assert store.ask(LoadRun(row.run)).waits == ()
    apply(store, [clearing, setting, later])
    assert store.ask(LoadRun(row.run)).waits == (_wait(due_at=99),)
    apply(store, [setting, clearing])
    assert store.ask(LoadRun(row.run)).waits == ()


def test_a_run_that_was_not_wanted_leaves_nothing(store: PostgresStore, rows: Rows) -> None:
    start(store)
    full = SignalWithStart(start=start_operation("new", tags='{"a": "b"}'), signal=go("new", unread_max=0))
    assert isinstance(one(store, full), MailboxFull)
    assert rows.all("SELECT id FROM runs") == [("run",)]
    assert rows.all("SELECT * FROM tags") == []


def _wait(**options: Any) -> WaitRow:
    return WaitRow(key=Key("", "s", 0), kind="sleep", **({"due_at": 50, "started_at": 20} | options))
