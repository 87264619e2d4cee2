"""The contract of history, waits and what goes with them in one commit."""

from __future__ import annotations

import pytest

from durable_trio.errors import OwnershipLost, RunConflict
from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key, WaitRow
from durable_trio.stores.contract import Advance, ContinueAsNew, ResumeRun, Store
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.questions import ListHistory, ListUnread, LoadRun, LoadRuns, ReadValues
from durable_trio.testing.store_contract.kit import (
    STRANGE,
    ContractKit,
    add,
    changed_since,
    claim,
    fence_of,
    finish,
    one,
    owned,
    register,
    row_of,
    signal,
    stale,
    start_operation,
    step,
)

_STORED = (StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.TIMED_OUT)


def wait(name: str = "nap", n: int = 0, **options: object) -> WaitRow:
    """Return a wait row."""
    defaults: dict[str, object] = {"key": Key("", name, n), "kind": "sleep", "due_at": 99, "started_at": 9}
    return WaitRow(**(defaults | options))  # type: ignore[arg-type]


class HistoryContract(ContractKit):
    """History rows are written once; waits come and go with them."""

    def test_history_comes_back_as_it_was_written(self, store: Store) -> None:
        row, fence = owned(store)
        rows = (
            step(1, key=Key("a#0/b#1", "charge", 3), attempt=4, compensates=True, result='{"ä": [1, null]}'),
            step(2, status=StepStatus.FAILED, result=None, error='{"type": "X"}'),
            step(5, n=1, status=StepStatus.TIMED_OUT, result="null", kind=StepKind.SIGNAL),
            step(6, n=2, attempt=2, earlier='[{"attempt": 1}]'),
        )
        add(store, fence, *rows)
        assert store.ask(ListHistory(row.run)) == rows
        assert store.ask(LoadRun(row.run)).history == rows

    @pytest.mark.parametrize("kind", [kind for kind in StepKind if kind is not StepKind.UNREADABLE])
    def test_every_kind_and_status_comes_back(self, store: Store, kind: StepKind) -> None:
        row, fence = owned(store)
        rows = tuple(step(seq, f"s{seq}", kind=kind, status=status) for seq, status in enumerate(_STORED))
        add(store, fence, *rows)
        assert store.ask(ListHistory(row.run)) == rows

    def test_history_comes_in_order_of_seq(self, store: Store) -> None:
        row, fence = owned(store)
        for seq in (3, 1, 2, 10, 4):
            add(store, fence, step(seq, "s", seq))
        assert [entry.seq for entry in store.ask(ListHistory(row.run))] == [1, 2, 3, 4, 10]

    def test_runs_do_not_see_each_other(self, store: Store) -> None:
        one_run, one_fence = owned(store, "one")
        other_run, other_fence = owned(store, "other")
        add(store, one_fence, step(1, "a"))
        add(store, other_fence, step(1, "a"), step(2, "b"))
        one(store, Advance(fence=one_fence, waits=(wait(),), now=20))
        signal(store, "one")
        assert [entry.key.name for entry in store.ask(ListHistory(one_run.run))] == ["a"]
        other = store.ask(LoadRun(other_run.run))
        assert [entry.key.name for entry in other.history] == ["a", "b"]
        assert (other.waits, other.unread, other.values) == ((), (), {})

    def test_a_key_that_is_there_is_a_conflict_and_its_outcome_stays(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1, "a", result="1"))
        outcome = one(store, Advance(fence=fence, rows=(step(2, "a", result="2"),), published=(("k", "1"),), now=20))
        assert isinstance(outcome, RunConflict)
        outcome = one(store, Advance(fence=fence, rows=(step(2, "b"), step(3, "a", result="3")), now=20))
        assert isinstance(outcome, RunConflict)
        assert store.ask(ListHistory(row.run)) == (step(1, "a", result="1"),)
        assert store.ask(ReadValues([row.run])) == {row.run: {}}

    def test_where_a_value_was_published_is_given_back_until_that_history_is_gone(self, store: Store) -> None:
        row, fence = owned(store)
        one(store, Advance(fence=fence, published=(("a", "1"), ("b", "1")), position=(0, 1), now=20))
        add(store, fence, step(1), step(2, "failed", status=StepStatus.FAILED))
        one(store, Advance(fence=fence, published=(("b", "2"),), position=(2, 3), now=20))
        assert store.ask(LoadRun(row.run)).positions == {"a": (0, 1), "b": (2, 3)}
        finish(store, fence, RunStatus.FAILED)
        one(store, ResumeRun(run_id="run", now=80))
        positions = store.ask(LoadRun(row.run)).positions
        assert positions["a"] == (0, 1)
        assert positions["b"] < (0, 0)  # its row was removed
        (again,) = claim(store, register(store), now=90)
        assert one(store, ContinueAsNew(fence=fence_of(again), args="[]", now=95)) is True
        loaded = store.ask(LoadRun(row.run))
        assert loaded.values == {"a": "1", "b": "2"}
        assert all(position < (0, 0) for position in loaded.positions.values())

    def test_keys_differ_by_branch_name_and_count(self, store: Store) -> None:
        row, fence = owned(store)
        keys = [Key("", "a", 0), Key("", "a", 1), Key("x#0", "a", 0), Key("", "A", 0), Key("", "a ", 0)]
        add(store, fence, *(step(seq, key=key) for seq, key in enumerate(keys)))
        assert [entry.key for entry in store.ask(ListHistory(row.run))] == keys

    def test_rows_alone_do_not_tell_watchers(self, store: Store) -> None:
        row, fence = owned(store)
        cursor = store.ask(FindCursor())
        add(store, fence, step(1))
        assert row_of(store) == row
        assert changed_since(store, cursor) == set()

    def test_waits_are_replaced_by_key_and_cleared(self, store: Store) -> None:
        row, fence = owned(store)
        nap = wait(key=Key("b#0", "nap", 2))
        retry = wait("charge", kind="retry", attempt=2, error='{"e": 1}', due_at=None, earlier="[1]")
        one(store, Advance(fence=fence, waits=(nap, retry), now=20))
        assert set(store.ask(LoadRun(row.run)).waits) == {nap, retry}
        later = wait("charge", kind="retry", attempt=3, due_at=7)
        one(store, Advance(fence=fence, waits=(later,), now=20))
        assert set(store.ask(LoadRun(row.run)).waits) == {nap, later}
        one(store, Advance(fence=fence, rows=(step(1),), cleared=(nap.key, Key("", "missing", 0)), now=20))
        assert store.ask(LoadRun(row.run)).waits == (later,)
        finish(store, fence)
        assert store.ask(LoadRun(row.run)).waits == ()

    def test_an_entry_is_taken_with_the_row_that_consumed_it(self, store: Store) -> None:
        row, fence = owned(store)
        first, second = signal(store, payload="1").entry, signal(store, payload="2").entry
        taken = Advance(fence=fence, rows=(step(1, kind=StepKind.SIGNAL),), taken=((first.id, 1),), now=20)
        assert one(store, taken) is True
        assert store.ask(ListUnread(row.run)) == (second,)
        again = Advance(fence=fence, rows=(step(2, "x"),), taken=((first.id, 2),), now=20)
        assert isinstance(one(store, again), RunConflict)
        assert len(store.ask(ListHistory(row.run))) == 1
        assert store.ask(LoadRun(row.run)).unread == (second,)

    def test_an_entry_of_another_run_is_not_taken(self, store: Store) -> None:
        _, fence = owned(store, "one")
        other, _ = owned(store, "other")
        entry = signal(store, "other").entry
        outcome = one(store, Advance(fence=fence, rows=(step(1),), taken=((entry.id, 1),), now=20))
        assert isinstance(outcome, RunConflict)
        assert store.ask(ListUnread(other.run)) == (entry,)

    def test_a_run_that_continues_as_new_has_no_history_but_its_mail_and_values(self, store: Store) -> None:
        row, fence = owned(store, args="[1]", ttl_at=900)
        read, unread = signal(store, payload="1", signal_id="read").entry, signal(store, payload="2").entry
        forgotten = signal(store, payload="3").entry
        taken = ((read.id, 1), (forgotten.id, 1))
        one(store, Advance(fence=fence, rows=(step(1),), taken=taken, waits=(wait(),), now=20))
        one(store, Advance(fence=fence, published=(("k", "1"),), now=20))
        changed = row_of(store).changed
        assert one(store, ContinueAsNew(fence=fence, args="[2]", now=70)) is True
        after = row_of(store)
        assert (after.status, after.owner, after.wake_at, after.generation) == (RunStatus.PENDING, None, 70, 1)
        assert (after.args, after.seed, after.recoveries, after.ttl_at) == ("[2]", row.seed, 0, 900)
        assert after.changed > changed
        loaded = store.ask(LoadRun(row.run))
        assert (loaded.history, loaded.waits, loaded.unread, loaded.values) == ((), (), (unread,), {"k": "1"})
        assert not signal(store, payload="1", signal_id="read").created
        assert isinstance(one(store, Advance(fence=fence, rows=(step(1),), now=71)), OwnershipLost)
        (again,) = claim(store, register(store), now=72)
        assert (again.token, again.started_at) == (2, 72)
        add(store, fence_of(again), step(1))
        assert one(store, start_operation()).created is False
        assert isinstance(one(store, start_operation(args_digest=b"two")), RunConflict)

    def test_what_an_earlier_generation_has_consumed_stays_consumed(self, store: Store) -> None:
        row, fence = owned(store)
        entry = signal(store, signal_id="id").entry
        one(store, Advance(fence=fence, rows=(step(9),), taken=((entry.id, 9),), now=20))
        one(store, ContinueAsNew(fence=fence, args="[]", now=70))
        (again,) = claim(store, register(store))
        add(store, fence_of(again), step(1, status=StepStatus.FAILED))
        finish(store, fence_of(again), RunStatus.FAILED)
        one(store, ResumeRun(run_id="run", now=80))
        assert store.ask(ListHistory(row.run)) == ()
        assert store.ask(ListUnread(row.run)) == ()

    def test_a_stale_token_does_not_continue_as_new(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1))
        operation = ContinueAsNew(fence=stale(fence), args="[2]", now=70)
        assert isinstance(one(store, operation), OwnershipLost)
        assert row_of(store) == row
        assert len(store.ask(ListHistory(row.run))) == 1

    def test_unless_unread_writes_nothing_if_such_a_signal_came_in_time(self, store: Store) -> None:
        row, fence = owned(store)
        signal(store, name="go", now=60)
        timeout = step(1, kind=StepKind.SIGNAL, status=StepStatus.TIMED_OUT)

        def expire(name: str, at: int) -> object:
            return one(store, Advance(fence=fence, rows=(timeout,), unless_unread=(name, at), now=70))

        assert expire("go", 60) is False
        assert store.ask(ListHistory(row.run)) == ()
        assert expire("go", 59) is True
        assert store.ask(ListHistory(row.run)) == (timeout,)
        outcome = one(store, Advance(fence=fence, rows=(step(2, "x"),), unless_unread=("other", 99), now=70))
        assert outcome is True
        signal(store, name="of the future", now=900)
        outcome = one(store, Advance(fence=fence, rows=(step(3, "y"),), unless_unread=("of the future", 99), now=70))
        assert outcome is False

    def test_strange_names_are_only_names(self, store: Store) -> None:
        row, fence = owned(store)
        rows = tuple(
            step(seq, key=Key(text, text, seq), result=f'"{seq}"', error=text) for seq, text in enumerate(STRANGE)
        )
        add(store, fence, *rows)
        one(store, Advance(fence=fence, waits=tuple(wait(key=entry.key) for entry in rows), now=20))
        loaded = store.ask(LoadRun(row.run))
        assert loaded.history == rows
        assert {entry.key for entry in loaded.waits} == {entry.key for entry in rows}

    def test_large_payloads_and_numbers_come_back(self, store: Store) -> None:
        row, fence = owned(store)
        large: HistoryRow = step(2**53 + 1, result='"' + "ä" * 2_000_000 + '"', finished_at=2**57 + 1)
        add(store, fence, large)
        assert store.ask(ListHistory(row.run)) == (large,)

    def test_what_a_store_cannot_hold_fails_only_its_own_operation(self, store: Store) -> None:
        row, fence = owned(store)
        batch = [
            Advance(fence=fence, rows=(step(1, "a"),), now=20),
            Advance(fence=fence, rows=(step(2, "b"), step(3, "c", result='"\ud800"')), now=20),
            Advance(fence=fence, rows=(step(2**80, "d"),), now=20),
            Advance(fence=fence, rows=(step(4, "e"),), now=20),
        ]
        outcomes = store.apply(batch)
        assert outcomes is not None
        assert [outcomes[0], outcomes[3]] == [True, True]
        assert all(outcome is True or isinstance(outcome, Exception) for outcome in outcomes)
        taken = [each for each, outcome in zip(batch, outcomes, strict=True) if outcome is True]
        expected = sorted((entry for each in taken for entry in each.rows), key=lambda entry: entry.seq)
        assert store.ask(ListHistory(row.run)) == tuple(expected)

    def test_load_many_is_load_for_each_in_the_order_that_was_asked(self, store: Store) -> None:
        row, fence = owned(store)
        empty, _ = owned(store, "empty")
        waiting, waiting_fence = owned(store, "waiting")
        told, _ = owned(store, "told")
        speaking, speaking_fence = owned(store, "speaking")
        add(store, fence, step(1))
        one(store, Advance(fence=waiting_fence, waits=(wait(),), now=20))
        one(store, Advance(fence=speaking_fence, published=(("k", "1"),), now=20))
        signal(store, "told")
        runs = [speaking.run, empty.run, row.run, told.run, waiting.run, 999]
        assert store.ask(LoadRuns(runs)) == tuple(store.ask(LoadRun(run)) for run in runs)
        assert store.ask(LoadRuns([])) == ()
