"""The contract of lists, filters, changes and counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from durable_trio.records import RunStatus
from durable_trio.rows import Key, RunRow, WaitRow
from durable_trio.stores.contract import Advance, DeleteRun, Finish, Store
from durable_trio.stores.questions import (
    CountByWorkflow,
    CountRuns,
    FindEnded,
    FindLastChange,
    FindMissing,
    ListChanges,
    ListFailures,
    ListHistory,
    ListRuns,
    LoadRun,
    Order,
    Question,
    ReadValues,
    RunFilter,
)
from durable_trio.testing.store_contract.kit import (
    STRANGE,
    ContractKit,
    add,
    changed_runs,
    fence_of,
    finish,
    in_status,
    one,
    owned,
    park,
    register,
    row_of,
    start,
    start_operation,
    step,
    suspend,
)


def ids(rows: tuple[RunRow, ...]) -> list[str]:
    """Return the ids of runs."""
    return [row.id for row in rows]


class ReadContract(ContractKit):
    """What can be asked."""

    @pytest.fixture
    def zoo(self, store: Store) -> Store:
        """A store with runs that differ in everything a filter looks at."""
        parent = start(store, "a", created_at=1, queue="q", tags='{"x": "1", "y": "2"}')
        start(store, "b", created_at=2, workflow="another", tags='{"x": "1"}', parent=parent.run)
        _, fence = owned(store, "c", created_at=2, queue="Q", tags='{"x": "2", "1": "x"}')
        finish(store, fence)
        _, fence = owned(store, "d", created_at=3, queue="q", parent=parent.run)
        finish(store, fence, RunStatus.FAILED)
        return store

    @pytest.mark.parametrize(
        ("which", "expected"),
        [
            (RunFilter(), "dcba"),
            (RunFilter(run_id="b"), "b"),
            (RunFilter(run_id="B"), ""),
            (RunFilter(workflow="work"), "dca"),
            (RunFilter(workflow="wor%"), ""),
            (RunFilter(statuses=(RunStatus.PENDING,)), "ba"),
            (RunFilter(statuses=(RunStatus.FAILED, RunStatus.COMPLETED)), "dc"),
            (RunFilter(statuses=()), ""),
            (RunFilter(tags=(("x", "1"),)), "ba"),
            (RunFilter(tags=(("x", "1"), ("y", "2"))), "a"),
            (RunFilter(tags=(("x", "1"), ("x", "2"))), ""),
            (RunFilter(tags=(("1", "x"),)), "c"),
            (RunFilter(tags=(("$.x", "1"),)), ""),
            (RunFilter(queue="q"), "da"),
            (RunFilter(parent_id="a"), "db"),
            (RunFilter(created_after=1), "dcb"),
            (RunFilter(created_before=3), "cba"),
            (RunFilter(created_after=1, created_before=3), "cb"),
            (RunFilter(workflow="work", statuses=(RunStatus.PENDING,), queue="q"), "a"),
        ],
    )
    def test_filters_find_what_they_say(self, zoo: Store, which: RunFilter, expected: str) -> None:
        assert ids(zoo.ask(ListRuns(which, limit=100))) == list(expected)
        assert sorted(ids(changed_runs(zoo, which, after=0, limit=100))) == sorted(expected)

    def test_pages_go_on_where_the_last_one_ended_also_among_equal_times(self, store: Store) -> None:
        for number in range(25):
            start(store, f"run-{number}", created_at=number // 7)
        everything = store.ask(ListRuns(RunFilter(), limit=100))
        assert ids(everything) == [f"run-{number}" for number in reversed(range(25))]
        paged: list[RunRow] = []
        before = None
        while page := store.ask(ListRuns(RunFilter(), limit=4, before=before)):
            paged += page
            before = (page[-1].created_at, page[-1].run)
        assert tuple(paged) == everything
        assert store.ask(ListRuns(RunFilter(), limit=0)) == ()

    @pytest.mark.parametrize(
        ("order", "expected"),
        [(Order.NEWEST, "dcba"), (Order.OLDEST, "abcd"), (Order.CHANGED, "dcba"), (Order.ENDED, "dc")],
    )
    def test_orders_are_what_they_say_also_page_by_page(self, zoo: Store, order: Order, expected: str) -> None:
        rows = zoo.ask(ListRuns(RunFilter(), order=order, limit=100))
        assert ids(rows) == list(expected)
        keys = {
            Order.NEWEST: [row.created_at for row in rows],
            Order.OLDEST: [row.created_at for row in rows],
            Order.CHANGED: [row.changed for row in rows],
            Order.ENDED: [row.finished_at or 0 for row in rows],
        }
        for number, (key, row) in enumerate(zip(keys[order], rows, strict=True), start=1):
            rest = zoo.ask(ListRuns(RunFilter(), order=order, limit=100, before=(key, row.run)))
            assert ids(rest) == list(expected[number:])

    def test_states_are_found_that_no_status_tells(self, store: Store) -> None:
        start(store, "due", created_at=1)
        start(store, "later", created_at=2)
        _, fence = owned(store, "retrying", created_at=3)
        wait = WaitRow(key=Key("", "x", 0), kind="retry", attempt=1, due_at=5, started_at=1)
        assert one(store, Advance(fence=fence, waits=(wait,), now=20)) is True
        _, fence = owned(store, "sleeping", created_at=4)
        suspend(store, fence, wake_at=10**6)
        _, fence = owned(store, "parked", created_at=5)
        park(store, fence)
        _, fence = owned(store, "ended", created_at=6)
        assert one(store, Advance(fence=fence, waits=(wait,), now=20)) is True
        finish(store, fence, RunStatus.FAILED)

        def found(**fields: Any) -> set[str]:
            return set(ids(store.ask(ListRuns(RunFilter(**fields), limit=9))))

        assert found(is_parked=True) == {"parked"}
        assert found(is_retrying=True) == {"retrying"}
        assert found(is_retrying=True, is_parked=True) == set()
        wake_at = {run_id: row_of(store, run_id).wake_at for run_id in ("due", "later", "sleeping")}
        for at in (0, 50, 10**6 - 1, 10**6):
            expected = {run_id for run_id, due in wake_at.items() if due is not None and due <= at}
            assert found(overdue_at=at) == expected

    def test_workflows_are_counted_with_their_oldest_and_their_durations(self, zoo: Store) -> None:
        another, work = zoo.ask(CountByWorkflow(durations_max=9))
        assert (another.workflow, another.by_status, another.durations) == ("another", {RunStatus.PENDING: 1}, ())
        assert another.oldest_unfinished == ("b", 2)
        assert work.workflow == "work"
        assert work.by_status == {RunStatus.PENDING: 1, RunStatus.COMPLETED: 1, RunStatus.FAILED: 1}
        assert work.oldest_unfinished == ("a", 1)
        assert len(work.durations) == 1
        assert zoo.ask(CountByWorkflow(durations_max=9, workflow="another")) == (another,)
        assert zoo.ask(CountByWorkflow(durations_max=9, workflow="nobody")) == ()
        (_, since) = zoo.ask(CountByWorkflow(durations_max=0, since=2))
        assert (since.by_status, since.oldest_unfinished, since.durations) == ({RunStatus.FAILED: 1}, ("a", 1), ())

    def test_failures_come_last_first_with_type_and_text(self, store: Store) -> None:
        inner = {"type": "a.E", "message": "no", "traceback": "", "recipe": "failed"}
        group = inner | {"type": "G", "recipe": "group", "errors": [inner | {"errors": [inner]}]}
        several = group | {"errors": [inner, group, inner | {"type": "b.F", "message": "never"}]}
        errors = [json.dumps(inner), json.dumps(group), "no JSON", None, '{"type": 5}', json.dumps(several)]
        for number, error in enumerate(errors):
            _, fence = owned(store, f"run-{number}")
            finish(store, fence, RunStatus.FAILED, error=error, now=50 + number)
        _, fence = owned(store, "completed")
        finish(store, fence)
        found = store.ask(ListFailures(limit=9))
        assert [run.run_id for run in found] == [f"run-{number}" for number in reversed(range(6))]
        assert found[0].causes == (("a.E", "no"), ("a.E", "no"), ("b.F", "never"))
        assert [[name for name, _ in run.causes] for run in found[1:]] == [*[["unreadable"]] * 3, ["a.E"], ["a.E"]]
        assert store.ask(ListFailures(limit=2)) == found[:2]
        assert store.ask(ListFailures(limit=9, since=53)) == found[:2]
        assert store.ask(ListFailures(limit=9, workflow="nobody")) == ()

    @pytest.mark.parametrize("status", list(RunStatus))
    def test_every_status_comes_back(self, store: Store, status: RunStatus) -> None:
        in_status(store, status)
        assert ids(store.ask(ListRuns(RunFilter(statuses=(status,)), limit=9))) == ["run"]
        assert store.ask(CountRuns()).runs_by_status == {status: 1}

    def test_tags_with_strange_names_and_values_are_found(self, store: Store) -> None:
        for number, text in enumerate(STRANGE):
            start(store, f"run-{number}", tags=json.dumps({text: text}))
        for number, text in enumerate(STRANGE):
            assert ids(store.ask(ListRuns(RunFilter(tags=((text, text),)), limit=99))) == [f"run-{number}"]
            assert store.ask(ListRuns(RunFilter(tags=((text, text + "'"),)), limit=99)) == ()

    def test_changes_come_in_order_each_run_as_it_is_now(self, store: Store) -> None:
        first, fence = owned(store, "first")
        second = start(store, "second")
        assert ids(changed_runs(store, RunFilter(), after=0, limit=9)) == ["first", "second"]
        assert 0 < first.changed < second.changed == store.ask(FindLastChange())
        one(store, Advance(fence=fence, status=RunStatus.SUSPENDED, now=20))
        assert ids(changed_runs(store, RunFilter(), after=second.changed, limit=9)) == ["first"]
        assert ids(changed_runs(store, RunFilter(), after=0, limit=9)) == ["second", "first"]
        assert changed_runs(store, RunFilter(), after=store.ask(FindLastChange()), limit=9) == ()
        pending = RunFilter(statuses=(RunStatus.PENDING,))
        assert ids(changed_runs(store, pending, after=0, limit=9)) == ["second"]

    def test_changes_bring_the_values_of_their_instant(self, store: Store) -> None:
        _, fence = owned(store, "first")
        start(store, "second")
        for number in range(3):
            one(store, Advance(fence=fence, published=(("n", str(number)), (f"k{number}", "1")), now=20))
        second, first = store.ask(ListChanges(RunFilter(), after=0, limit=9))
        assert (second.row, second.values) == (row_of(store, "second"), {})
        assert (first.row, first.values) == (row_of(store, "first"), {"n": "2", "k0": "1", "k1": "1", "k2": "1"})
        assert store.ask(ListChanges(RunFilter(), after=second.row.changed, limit=9)) == (first,)
        assert store.ask(ListChanges(RunFilter(run_id="second"), after=0, limit=1)) == (second,)
        assert store.ask(ListChanges(RunFilter(), after=first.row.changed, limit=9)) == ()

    def test_runs_that_are_not_stored_are_missing(self, store: Store) -> None:
        _, fence = owned(store, "first")
        start(store, "second")
        finish(store, fence)
        strange = tuple(text for text in STRANGE if text)
        assert store.ask(FindMissing([])) == ()
        assert store.ask(FindMissing(["second", "third", "first"])) == ("third",)
        assert sorted(store.ask(FindMissing(strange))) == sorted(strange)
        one(store, DeleteRun(run_id="first"))
        assert store.ask(FindMissing(["first", "second"])) == ("first",)

    def test_of_some_runs_those_that_have_ended_are_found(self, store: Store) -> None:
        for number, status in enumerate((RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)):
            _, fence = owned(store, f"ended-{number}")
            finish(store, fence, status)
        start(store, "pending")
        _, waiting = owned(store, "waiting")
        suspend(store, waiting)
        assert store.ask(FindEnded([])) == ()
        asked = ["pending", "ended-2", "nobody", "ended-0", "waiting", *(text for text in STRANGE if text), "ended-1"]
        assert sorted(store.ask(FindEnded(asked))) == ["ended-0", "ended-1", "ended-2"]

    def test_all_runs_changed_in_one_commit_have_one_number_and_are_never_cut_apart(self, store: Store) -> None:
        start(store, "before")
        outcomes = store.apply([start_operation(f"run-{number}") for number in range(6)])
        assert outcomes is not None
        assert len({outcome.row.changed for outcome in outcomes}) == 1
        start(store, "after")
        assert ids(changed_runs(store, RunFilter(), after=0, limit=3)) == ["before", *(f"run-{n}" for n in range(6))]
        assert ids(changed_runs(store, RunFilter(), after=0, limit=1)) == ["before"]
        last = changed_runs(store, RunFilter(), after=0, limit=3)[-1].changed
        assert ids(changed_runs(store, RunFilter(), after=last, limit=3)) == ["after"]

    def test_a_change_that_was_refused_gives_no_number_to_others(self, store: Store) -> None:
        _, fence = owned(store)
        children = (start_operation("child"), start_operation("run"))
        outcomes = store.apply([Advance(fence=fence, children=children, now=20), start_operation("other")])
        assert outcomes is not None
        assert outcomes[1].row.changed == store.ask(FindLastChange()) == row_of(store, "other").changed

    def test_a_change_number_is_never_given_twice(self, store: Store) -> None:
        seen = [0]
        for number in range(5):
            row, fence = owned(store, f"run-{number}")
            assert row.changed > seen[-1]
            finish(store, fence)
            assert row_of(store, f"run-{number}").changed > row.changed
            seen.append(store.ask(FindLastChange()))

    def test_status_counts_what_is_there(self, store: Store) -> None:
        start(store, "a")
        start(store, "b", workflow="another")
        _, fence = owned(store, "c")
        finish(store, fence)
        _, fence = owned(store, "d")
        park(store, fence)
        _, fence = owned(store, "e")
        suspend(store, fence)
        status = store.ask(CountRuns())
        assert status.runs_by_status == {RunStatus.PENDING: 2, RunStatus.COMPLETED: 1, RunStatus.SUSPENDED: 2}
        assert status.unfinished_by_workflow == {"work": 3, "another": 1}
        assert status.parked == ("d",)
        assert status.store_version
        assert all(isinstance(warning, str) for warning in status.warnings)

    def test_what_is_no_question_of_a_store_is_refused(self, store: Store) -> None:
        class Unknown(Question[int]):
            pass

        with pytest.raises(TypeError, match="Unknown"):
            store.ask(Unknown())
        with pytest.raises(TypeError, match="DeleteRun"):
            store.ask(DeleteRun(run_id="run"))  # type: ignore[arg-type]

    def test_load_of_an_unknown_run_is_empty(self, store: Store) -> None:
        loaded = store.ask(LoadRun(999))
        assert (loaded.history, loaded.waits, loaded.unread, loaded.values) == ((), (), (), {})
        assert store.ask(ReadValues([999])) == {999: {}}

    def test_many_runs_do_not_disturb_each_other(self, store: Store) -> None:
        executor = register(store)
        outcomes = store.apply([start_operation(f"run-{n}", owner=executor) for n in range(300)])
        assert outcomes is not None
        fences = [fence_of(outcome.row) for outcome in outcomes]
        advances = [Advance(fence=f, rows=(step(1, f"s{f.run}"),), published=(("k", "1"),), now=20) for f in fences]
        assert store.apply(advances) == [True] * 300
        assert (
            store.apply([Finish(fence=f, status=RunStatus.COMPLETED, result=str(f.run), now=9) for f in fences])
            == [True] * 300
        )
        for outcome in outcomes[::37]:
            row = row_of(store, outcome.row.id)
            assert row.result == str(row.run)
            assert [entry.key.name for entry in store.ask(ListHistory(row.run))] == [f"s{row.run}"]
        assert len(store.ask(ReadValues([f.run for f in fences]))) == 300
        add(store, *(lambda found: (found[1], step(1)))(owned(store, "last")))
