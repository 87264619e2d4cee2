"""The contract of upkeep where there is much of it: in pieces, of which nobody ever sees only some."""

from __future__ import annotations

from typing import Any

import attrs

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.records import RunStatus, StepStatus
from durable_trio.rows import Key, WaitRow
from durable_trio.stores.contract import (
    Advance,
    CopyHistory,
    CutHistory,
    DeleteRun,
    Draft,
    Fence,
    ForkRun,
    Operation,
    Prune,
    ResumeRun,
    Store,
    Sweep,
    TooLong,
)
from durable_trio.stores.questions import (
    CountRuns,
    FindMissing,
    FindRun,
    ListHistory,
    ListRuns,
    ListUnread,
    ListWaits,
    LoadRun,
    RunFilter,
)
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    add,
    changed_runs,
    claim,
    finish,
    one,
    owned,
    register,
    row_of,
    signal,
    start,
    start_operation,
    step,
)
from durable_trio.testing.store_contract.removals import ALL, prune
from durable_trio.testing.store_contract.resuming import resume


def sweep(store: Store, hidden_before: int = 1) -> int:
    """Remove what is left of removed runs; return in how many steps."""
    steps = 0
    while (count := one(store, Sweep(hidden_before=hidden_before))) > 0:
        assert count <= UPKEEP_ROWS_MAX + 1
        steps += 1
    return steps


def add_many(store: Store, fence: Fence, count: int, **options: Any) -> None:
    """Append many rows to a history."""
    for start_at in range(0, count, 500):
        rows = [step(n + 1, n=n, **options) for n in range(start_at, min(count, start_at + 500))]
        add(store, fence, *rows)


class LargeContract(ContractKit):
    """Runs with many rows, and many runs."""

    def test_a_large_run_is_gone_at_once_and_its_rows_go_piece_by_piece(self, store: Store) -> None:
        row, fence = owned(store, tags='{"a": "1"}', queue="q")
        add_many(store, fence, 1200)
        children = [owned(store, f"child-{number}", parent=row.run)[0] for number in range(3)]
        for number in range(700):
            signal(store, name=f"name-{number % 7}")
        finish(store, fence)
        owned(store, "another")
        assert one(store, DeleteRun(run_id="run")) is True
        assert store.ask(FindRun("run")) is None
        assert store.ask(FindMissing(["run"])) == ("run",)
        for which in (RunFilter(), RunFilter(tags=(("a", "1"),)), RunFilter(queue="q"), RunFilter(run_id="run")):
            assert "run" not in [found.workflow and found.id for found in store.ask(ListRuns(which, limit=99))]
            assert len(store.ask(ListRuns(which, limit=99))) == (4 if which == RunFilter() else 0)
            assert len(changed_runs(store, which, limit=99)) == (4 if which == RunFilter() else 0)
        assert store.ask(CountRuns()).runs_by_status == {RunStatus.RUNNING: 4}
        assert prune(store, 10_000) == 0
        assert isinstance(one(store, DeleteRun(run_id="run")), RunNotFound)
        again = start(store)
        assert (again.run > row.run, store.ask(LoadRun(again.run)).history) == (True, ())
        sweep(store)
        gone = store.ask(LoadRun(row.run))
        assert (gone.history, gone.waits, gone.unread, gone.values) == ((), (), (), {})
        assert [row_of(store, child.id).parent for child in children] == [None] * 3
        assert row_of(store) == again

    def test_prune_goes_in_steps_that_remove_few_rows_however_large_the_runs_are(self, store: Store) -> None:
        for number in range(5):
            _, fence = owned(store, f"run-{number}")
            add_many(store, fence, 300 if number else 1100)
            finish(store, fence, now=50 + number)
        position, counts = None, []
        while True:
            pruned = one(store, Prune(before=1000, statuses=ALL, limit=200, after=position))
            counts.append(pruned.count)
            position = pruned.position
            if position is None:
                break
        assert sum(counts) == 5
        assert max(counts) <= 2
        assert store.ask(ListRuns(RunFilter(), limit=9)) == ()
        sweep(store)

    def test_a_long_fork_is_made_piece_by_piece_and_nobody_sees_it_before_it_is_whole(self, store: Store) -> None:
        row, fence = owned(store, tags='{"a": "1"}')
        add_many(store, fence, 1300)
        operation = ForkRun(run_id="run", before=Key("", "step", 1250), id="copy", now=300)
        outcome = one(store, operation)
        if isinstance(outcome, Draft):
            draft = outcome
            for start_at in range(0, 1300, 500):
                keys = tuple(Key("", "step", n) for n in range(start_at, min(1300, start_at + 500)))
                assert one(store, CopyHistory(run_id="run", draft=draft, keys=keys, now=301)) is True
                assert store.ask(FindRun("copy")) is None
                assert [found.id for found in store.ask(ListRuns(RunFilter(tags=(("a", "1"),)), limit=9))] == ["run"]
                assert store.ask(CountRuns()).runs_by_status == {RunStatus.RUNNING: 1}
                assert claim(store, register(store)) == ()
                sweep(store)  # of what was removed: a copy that is being made stays
            outcome = one(store, attrs.evolve(operation, draft=draft, now=302))
        assert outcome == row_of(store, "copy")
        assert (outcome.status, outcome.wake_at) == (RunStatus.PENDING, outcome.wake_at)
        assert outcome.wake_at is not None
        assert store.ask(ListHistory(outcome.run)) == store.ask(ListHistory(row.run))[:1250]
        assert [found.id for found in claim(store, register(store))] == ["copy"]

    def test_a_long_fork_whose_original_has_changed_leaves_nothing(self, store: Store) -> None:
        row, fence = owned(store)
        add_many(store, fence, 1300)
        operation = ForkRun(run_id="run", before=Key("", "step", 1250), id="copy", now=300)
        draft = one(store, operation)
        if not isinstance(draft, Draft):
            return
        copying = CopyHistory(run_id="run", draft=draft, keys=(Key("", "step", 0),), now=300)
        assert one(store, copying) is True
        finish(store, fence, RunStatus.FAILED)
        assert isinstance(one(store, copying), RunConflict)
        assert isinstance(one(store, attrs.evolve(operation, draft=draft)), RunConflict)
        another = one(store, operation)
        one(store, DeleteRun(run_id="run"))
        assert isinstance(one(store, attrs.evolve(operation, draft=another)), RunNotFound)
        sweep(store)
        assert (
            store.ask(ListHistory(row.run)),
            store.ask(ListHistory(draft.run)),
            store.ask(ListHistory(another.run)),
        ) == ((), (), ())

    def test_a_copy_that_nobody_goes_on_with_is_removed(self, store: Store) -> None:
        _, fence = owned(store)
        add_many(store, fence, 1300)
        operation = ForkRun(run_id="run", before=Key("", "step", 1250), id="copy", now=300)
        draft = one(store, operation)
        if not isinstance(draft, Draft):
            return
        copying = CopyHistory(run_id="run", draft=draft, keys=(Key("", "step", 0),), now=310)
        assert one(store, copying) is True
        sweep(store, 310)
        assert len(store.ask(ListHistory(draft.run))) == 1
        sweep(store, 311)
        assert store.ask(ListHistory(draft.run)) == ()
        assert isinstance(one(store, copying), RunConflict)
        assert isinstance(one(store, attrs.evolve(operation, draft=draft)), RunConflict)

    def test_a_long_history_is_cut_by_its_caller_before_the_run_is_resumed(self, store: Store) -> None:
        row, fence = owned(store)
        add_many(store, fence, 700)
        entry = signal(store).entry
        failures = [step(701 + n, "failed", n, status=StepStatus.FAILED) for n in range(2)]
        one(store, Advance(fence=fence, rows=tuple(failures), taken=((entry.id, 702),), now=70))
        finish(store, fence, RunStatus.FAILED)
        before = row_of(store)
        outcome = resume(store)
        if isinstance(outcome, TooLong):
            assert outcome.row == row_of(store) == before
            for cut in ((failures[1].key, 702), (failures[0].key, 701)):
                assert one(store, CutHistory(run_id="run", changed=before.changed, rows=(cut,))) is True
            assert row_of(store) == before
            stale = CutHistory(run_id="run", changed=before.changed - 1, rows=((Key("", "step", 0), 1),))
            assert isinstance(one(store, stale), RunConflict)
            assert isinstance(one(store, ResumeRun(run_id="run", cut_at=before.changed - 1, now=200)), RunConflict)
            outcome = one(store, ResumeRun(run_id="run", cut_at=before.changed, now=200))
        assert outcome == row_of(store)
        assert outcome.status is RunStatus.PENDING
        assert len(store.ask(ListHistory(row.run))) == 700
        assert store.ask(ListUnread(row.run)) == (entry,)

    def test_a_branch_of_ten_thousand_characters_is_a_branch(self, store: Store) -> None:
        """Nurseries may nest as deep as that; and two that differ only at their ends are two."""
        row, fence = owned(store)
        branches = ["b/" * 5_000 + end for end in ("x", "y")]
        rows = [step(seq, key=Key(branch, "charge", 0)) for seq, branch in enumerate(branches, 1)]
        waits = tuple(WaitRow(key=Key(branch, "nap", 0), kind="sleep", started_at=1) for branch in branches)
        one(store, Advance(fence=fence, rows=tuple(rows), waits=waits, now=20))
        assert [found.key for found in store.ask(ListHistory(row.run))] == [found.key for found in rows]
        assert {found.key for found in store.ask(ListWaits(row.run))} == {found.key for found in waits}
        again = Advance(fence=fence, rows=(step(3, key=rows[1].key),), now=20)
        assert isinstance(one(store, again), RunConflict)
        one(store, Advance(fence=fence, cleared=(waits[0].key,), now=20))
        assert store.ask(ListWaits(row.run)) == waits[1:]
        finish(store, fence, RunStatus.FAILED)
        copy = one(store, ForkRun(run_id="run", before=rows[1].key, id="copy", now=30))
        assert [found.key for found in store.ask(ListHistory(copy.run))] == [rows[0].key]

    def test_a_batch_may_hold_more_than_a_message_or_a_page_of_memory(self, store: Store) -> None:
        """Some twenty payloads of a megabyte: a store that sends batches sends this one as well."""
        row, fence = owned(store)
        payload = '"' + "ü" * 1_000_000 + '"'
        batch: list[Operation] = [
            Advance(fence=fence, rows=(step(seq, f"s{seq}", result=payload),), now=20) for seq in range(1, 21)
        ]
        assert store.apply([*batch, start_operation("other", args=f"[{payload}]")]) is not None
        found = store.ask(ListHistory(row.run))
        assert [entry.seq for entry in found] == list(range(1, 21))
        assert all(entry.result == payload for entry in found)
        assert row_of(store, "other").args == f"[{payload}]"
