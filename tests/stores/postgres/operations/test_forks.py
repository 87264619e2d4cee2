"""Copies of a run that goes on, is cut, or begins anew meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from durable_trio.errors import RunConflict
from durable_trio.records import RunStatus
from durable_trio.rows import Key, RunRow
from durable_trio.stores.contract import Advance, ContinueAsNew, Draft, ForkRun, ResumeRun, Started
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListHistory, ListUnread
from durable_trio.testing.store_contract.kit import add, finish, one, owned, signal, start_operation, step
from tests.stores.postgres.kit import Doing, Rows, at_once, batch_under_way

Stores = Callable[[], PostgresStore]


def fork(before: str, new_id: str = "copy", **options: Any) -> ForkRun:
    return ForkRun(run_id="run", before=Key("", before, 0), id=new_id, now=300, **options)


def names(store: PostgresStore, run: int) -> list[str]:
    return [row.key.name for row in store.ask(ListHistory(run))]


def test_the_owner_goes_on_while_his_run_is_copied_and_each_copy_has_all_before_its_row(open_store: Stores) -> None:
    store, other = open_store(), open_store()
    row, fence = owned(store)
    add(store, fence, step(0, "s0"))

    def go_on() -> None:
        for seq in range(1, 40):
            entry = signal(store, payload=str(seq)).entry
            one(store, Advance(fence=fence, rows=(step(seq, f"s{seq}"),), taken=((entry.id, seq),), now=20))

    def copy_all() -> list[tuple[int, RunRow]]:
        copies: list[tuple[int, RunRow]] = []
        while len(copies) < 25:
            last = store_of_copies.ask(ListHistory(row.run))[-1]
            copies.append((last.seq, one(other, fork(last.key.name, f"copy-{len(copies)}", signals=True))))
        return copies

    store_of_copies = open_store()
    _, copies = at_once(go_on, copy_all)
    for seq, copy in copies:
        assert isinstance(copy, RunRow)
        assert names(store, copy.run) == [f"s{number}" for number in range(seq)]
        # What a row that is not copied has taken, and what was unread: in the order of arrival.
        unread = [int(entry.payload or "") for entry in store.ask(ListUnread(copy.run))]
        assert unread == list(range(max(1, seq), max(1, seq) + len(unread)))


def test_a_run_that_is_being_copied_begins_no_new_history(url: str, store: PostgresStore, rows: Rows) -> None:
    _, fence = owned(store)
    add(store, fence, step(1, "a"), step(2, "b"))
    with batch_under_way(url, fork("b")) as (_, wire):
        continuing = Doing(lambda: one(store, ContinueAsNew(fence=fence, args="[2]", now=20)))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert continuing.result() is True
    copy = rows.one("SELECT run FROM runs WHERE id = 'copy'")
    assert (names(store, copy), names(store, fence.run)) == (["a"], [])


def test_a_copy_of_a_run_that_is_beginning_a_new_history_is_of_that_one(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    _, fence = owned(store)
    add(store, fence, step(1, "a"), step(2, "b"))
    with batch_under_way(url, ContinueAsNew(fence=fence, args="[2]", now=20)) as (_, wire):
        copying = Doing(lambda: one(store, fork("b")))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert isinstance(copying.result(), ValueError)  # which has no such row
    assert rows.one("SELECT count(*) FROM runs") == 1


def test_a_long_copy_is_given_up_if_the_run_begins_anew_between_two_pieces(store: PostgresStore, rows: Rows) -> None:
    _, fence = owned(store)
    for start_at in (0, 500):
        add(store, fence, *(step(n, f"s{n}") for n in range(start_at, start_at + 500)))
    draft = one(store, fork("s900"))
    assert isinstance(draft, Draft)
    one(store, ContinueAsNew(fence=fence, args="[2]", now=20))
    assert isinstance(one(store, fork("s900", draft=draft)), ValueError)
    assert rows.all("SELECT hidden_at FROM runs WHERE run = %s", draft.run) == [(0,)]


def test_of_a_copy_and_a_start_with_the_same_id_one_is_stored(open_store: Stores, url: str, rows: Rows) -> None:
    store, other = open_store(), open_store()
    _, fence = owned(store)
    add(store, fence, step(1, "a"), step(2, "b"))
    with batch_under_way(url, start_operation("copy")) as (_, wire):
        copying = Doing(lambda: other.apply([start_operation("before"), fork("b"), start_operation("after")]))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        before, refused, after = copying.result()
    assert isinstance(refused, RunConflict)
    assert "give the copy another id" in str(refused)
    assert (before.created, after.created) == (True, True)
    assert rows.one("SELECT count(*) FROM runs WHERE hidden_at IS NOT NULL") == 0
    with batch_under_way(url, fork("b", "again")) as (_, wire):
        starting = Doing(lambda: one(store, start_operation("again", args_digest=b"another")))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert isinstance(starting.result(), RunConflict)


def test_many_copies_and_starts_of_the_same_ids_leave_one_run_of_each(open_store: Stores, rows: Rows) -> None:
    stores = [open_store() for _ in range(4)]
    _, fence = owned(stores[0])
    add(stores[0], fence, step(1, "a"), step(2, "b"))

    def work(store: PostgresStore, is_copying: bool) -> int:
        count = 0
        for number in range(25):
            new_id = f"copy-{number}"
            outcome = one(store, fork("b", new_id) if is_copying else start_operation(new_id))
            count += isinstance(outcome, RunRow) or (isinstance(outcome, Started) and outcome.created)
        return count

    counts = at_once(*(partial(work, store, number % 2 == 0) for number, store in enumerate(stores)))
    assert sum(counts) == 25
    assert rows.one("SELECT count(*) FROM runs WHERE id LIKE 'copy-%%'") == 25
    assert rows.one("SELECT count(*) FROM runs") == 26


def test_a_run_is_resumed_once_however_many_ask(open_store: Stores, rows: Rows) -> None:
    stores = [open_store() for _ in range(4)]
    for number in range(5):
        _, fence = owned(stores[0], f"run-{number}")
        add(stores[0], fence, step(1, "a"))
        finish(stores[0], fence, RunStatus.FAILED)
        resume = ResumeRun(run_id=f"run-{number}", now=200)
        outcomes = at_once(*(partial(one, store, resume) for store in stores))
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["RunConflict"] * 3 + ["RunRow"]


def test_texts_with_escaped_nul_and_all_else_are_copied_as_they_are(store: PostgresStore, rows: Rows) -> None:
    row, fence = owned(store, args=json.dumps(["\0", "ü", "\ud83d\ude00"]))
    result = json.dumps({"a\0": ["\0", '\\u0000 "', "\x7f\x1f"]})
    add(store, fence, step(1, "a", result=result, error=result, earlier=result), step(2, "b"))
    copy = one(store, fork("b"))
    assert copy.args == row.args
    assert store.ask(ListHistory(copy.run)) == store.ask(ListHistory(row.run))[:1]
    assert one(store, ContinueAsNew(fence=fence, args=result, generations_kept=None, now=20)) is True
    assert rows.one("SELECT result FROM earlier_history WHERE n = 0 AND name = 'a'") == result
