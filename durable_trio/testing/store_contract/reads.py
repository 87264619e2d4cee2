"""The contract of lists, filters, changes and counts."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from durable_trio.records import RunStatus
from durable_trio.rows import Key, RunRow, WaitRow
from durable_trio.stores.contract import Advance, ClaimRun, DeleteRun, Finish, Sent, Store
from durable_trio.stores.news_questions import Change, FindCursor, ListChanges, ListNews, ListSent
from durable_trio.stores.overdue_questions import ListOverdue
from durable_trio.stores.questions import (
    CountByWorkflow,
    CountRuns,
    FindEnded,
    FindMissing,
    ListFailures,
    ListHistory,
    ListRuns,
    ListUnread,
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
    changed_since,
    codes_of,
    fence_of,
    finish,
    in_status,
    one,
    owned,
    park,
    register,
    row_of,
    signal,
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
        assert sorted(ids(changed_runs(zoo, which, limit=100))) == sorted(expected)

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

    def test_what_nobody_has_taken_comes_in_the_order_in_which_it_was_due(self, store: Store) -> None:
        for number, run_id in enumerate("cab"):
            start(store, run_id, due_at=30 - 10 * (number > 0))
        start(store, "of another", due_at=25, workflow="another")
        start(store, "later", due_at=70)
        owned(store, "owned", due_at=20)
        _, fence = owned(store, "parked")
        park(store, fence)  # at 40

        def found(**fields: Any) -> tuple[list[str], int | None]:
            given: dict[str, Any] = {"workflow": "work", "after": (0, 0), "until": 50, "limit": 9}
            overdue = store.ask(ListOverdue(**(given | fields)))
            return ids(overdue.rows), overdue.next_due_at

        assert found() == (["a", "b", "c"], 70)
        assert found(workflow=None) == (["a", "b", "of another", "c"], 70)
        assert found(until=29) == (["a", "b"], 30)
        assert found(until=35) == (["a", "b", "c"], 40)
        assert found(until=70) == (["a", "b", "c", "later"], None)
        assert found(limit=1) == (["a"], 70)
        assert found(after=(20, row_of(store, "a").run)) == (["b", "c"], 70)
        assert found(workflow="nobody") == ([], None)

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

    def test_changes_after_a_cursor_are_told_each_run_as_it_is_now(self, store: Store) -> None:
        cursors = [store.ask(FindCursor())]
        _, fence = owned(store, "first")
        cursors.append(store.ask(FindCursor()))
        start(store, "second")
        cursors.append(store.ask(FindCursor()))
        one(store, Advance(fence=fence, status=RunStatus.SUSPENDED, now=20))
        cursors.append(store.ask(FindCursor()))
        assert [changed_since(store, cursor) for cursor in cursors] == [
            {"first", "second"},
            {"first", "second"},
            {"first"},
            set(),
        ]
        assert sorted(ids(changed_runs(store, RunFilter()))) == ["first", "second"]
        pending = RunFilter(statuses=(RunStatus.PENDING,))
        assert ids(changed_runs(store, pending)) == ids(changed_runs(store, pending, after=cursors[0])) == ["second"]
        assert changed_runs(store, pending, after=cursors[2]) == ()

    def test_changes_bring_the_values_of_their_instant(self, store: Store) -> None:
        _, fence = owned(store, "first")
        start(store, "second")
        for number in range(3):
            one(store, Advance(fence=fence, published=(("n", str(number)), (f"k{number}", "1")), now=20))
        page = store.ask(ListChanges(RunFilter(), after=None, limit=9))
        found = {change.row.id: change for change in page.changes}
        assert (found["second"].row, found["second"].values) == (row_of(store, "second"), {})
        assert (found["first"].row, found["first"].values) == (
            row_of(store, "first"),
            {"n": "2", "k0": "1", "k1": "1", "k2": "1"},
        )
        assert ids(changed_runs(store, RunFilter(run_id="second"), limit=1)) == ["second"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 99])
    def test_pages_of_changes_give_each_run_once_and_any_watcher_can_go_on_behind_any_of_them(
        self, store: Store, limit: int
    ) -> None:
        start(store, "before")
        store.apply([start_operation(f"run-{number}") for number in range(6)])
        start(store, "after")
        which, cursor, found = RunFilter(), None, list[Change]()
        while True:
            page = store.ask(ListChanges(which, after=cursor, limit=limit))
            assert len(page.changes) <= limit
            found += page.changes
            if page.is_last:
                break
            cursor = page.cursor
        expected = {"before", "after", *(f"run-{number}" for number in range(6))}
        assert sorted(change.row.id for change in found) == sorted(expected)
        assert changed_since(store, page.cursor) == set()
        for number, change in enumerate(found):
            rest = {other.row.id for other in found[number + 1 :]}
            assert changed_since(store, store.read_cursor(str(change.cursor))) == rest
        one(store, ClaimRun(owner=register(store), run_id="run-3", codes=codes_of("work"), now=1000))
        assert changed_since(store, page.cursor) == changed_since(store, found[-1].cursor) == {"run-3"}

    def test_pages_of_news_are_pages_of_all_changes(self, store: Store) -> None:
        cursor = store.ask(FindCursor())
        for number in range(5):
            start(store, f"run-{number}")
        found, sizes = list[str](), list[int]()
        while True:
            page = store.ask(ListNews(after=cursor, limit=2))
            found += [change.row.id for change in page.changes]
            sizes.append(len(page.changes))
            cursor = page.cursor
            if page.is_last:
                break
        assert sorted(found) == [f"run-{number}" for number in range(5)]
        assert sizes == [2, 2, 1]

    def test_what_no_store_has_written_is_no_cursor(self, store: Store) -> None:
        cursor = store.ask(FindCursor())
        assert store.read_cursor(str(cursor)) == cursor
        for text in ("", "x y", "ü", "-", "now", " ", "1-2-3-4-5-6-7-8-9"):
            with pytest.raises(ValueError, match="cursor"):
                store.read_cursor(text)

    def test_eight_who_write_at_once_are_missed_by_nobody_who_follows(self, tmp_path: Path, store: Store) -> None:
        """Each commit is told once to one who reads on again and again, whatever order the commits come in."""
        others = [again for again in (self.reopen(tmp_path) for _ in range(8)) if again is not None]
        for other in others:
            other.open()
        cursor = mail_cursor = store.ask(FindCursor())
        changes, entries = list[Change](), list[Sent]()

        def write(number: int, other: Store) -> None:
            fence = owned(other, f"run-{number}")[1]
            for turn in range(6):
                one(other, Advance(fence=fence, published=(("turn", str(turn)),), now=20))
                signal(other, f"run-{number}", payload=str(turn))
                signal(other, "shared", payload=f"{number}.{turn}")

        start(store, "shared")
        with ThreadPoolExecutor(max(1, len(others))) as pool:
            writing = [pool.submit(write, number, other) for number, other in enumerate(others)]
            while True:
                is_over = all(each.done() for each in writing)
                page = store.ask(ListNews(after=cursor, limit=3))
                sent = store.ask(ListSent(mail_cursor, limit=3))
                changes += page.changes
                entries += sent.sent
                cursor, mail_cursor = page.cursor, sent.cursor
                if is_over and page.is_last and sent.is_last:
                    break
        for each in writing:
            each.result()
        for other in others:
            other.close()
        last = {change.row.id: change for change in changes}
        assert last.keys() == {"shared", *(f"run-{number}" for number in range(len(others)))}
        for run_id, change in last.items():
            assert change.row == row_of(store, run_id)
            numbers = [each.row.changed for each in changes if each.row.id == run_id]
            assert numbers == sorted(set(numbers))
            assert run_id == "shared" or change.values == {"turn": "5"}
        found = [sent.entry for sent in entries]
        assert len({entry.id for entry in found}) == len(found) == 12 * len(others)
        for run in {entry.run for entry in found}:
            assert [entry for entry in found if entry.run == run] == list(store.ask(ListUnread(run)))

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

    def test_a_change_that_was_refused_is_told_to_nobody(self, store: Store) -> None:
        _, fence = owned(store)
        cursor = store.ask(FindCursor())
        children = (start_operation("child"), start_operation("run"))
        outcomes = store.apply([Advance(fence=fence, children=children, now=20), start_operation("other")])
        assert outcomes is not None
        assert changed_since(store, cursor) == {"other"}

    def test_the_change_number_of_a_run_rises_with_each_of_its_changes(self, store: Store) -> None:
        row, fence = owned(store)
        seen = [row.changed]
        for number in range(3):
            one(store, Advance(fence=fence, published=(("n", str(number)),), now=20))
            seen.append(row_of(store).changed)
        finish(store, fence)
        seen.append(row_of(store).changed)
        assert seen == sorted(set(seen))

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
