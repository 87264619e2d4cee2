"""The contract of codes that nobody has any more: runs that sleep forget them, and nothing else changes."""

from __future__ import annotations

from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rows import RunRow
from durable_trio.stores.code_questions import ListRefusedSets, RefusedSet
from durable_trio.stores.contract import ForgetDeadCodes, Store
from durable_trio.testing.store_contract.codes import Server, parked
from durable_trio.testing.store_contract.kit import ContractKit, fence_of, one, row_of, signal, start, suspend


def sets(store: Store) -> list[set[int]]:
    """Return by which sets of codes runs were refused."""
    found = store.ask(ListRefusedSets())
    assert all((each.workflow, each.version) == ("work", 0) for each in found)
    return [set(each.codes) for each in found]


def forget(store: Store, *codes: int) -> int:
    """Forget what is dead of one set, and return in how many pieces."""
    pieces, after = 1, None
    while True:
        piece = ForgetDeadCodes(workflow="work", version=0, codes=frozenset(codes), after=after, now=250)
        after = one(store, piece)
        if after is None:
            return pieces
        pieces += 1


def asleep(store: Store, server: Server, *, wake_at: int | None = None) -> list[RunRow]:
    """Have a server claim what is due, and let it sleep."""
    found = server.claim(limit=10_000)
    for row in found:
        assert suspend(store, fence_of(row), wake_at=wake_at, waits_for=("go",)) is True
    return found


class DeadCodeContract(ContractKit):
    """``ListRefusedSets`` and ``ForgetDeadCodes``."""

    def test_what_sleeps_forgets_codes_that_are_dead_and_its_problem_with_them(self, store: Store) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        old.refuse(*old.claim())
        asleep(store, new)
        assert sets(store) == [{1}]
        old.end()
        before = row_of(store)
        assert forget(store, 1) == 1
        assert sets(store) == []
        assert (row_of(store), parked(store)) == (before, [])
        assert Server(store, "old").code.code == 1
        new.end()  # what was said of it before is of no use: it is not parked for that
        assert (row_of(store).problem, parked(store)) == (None, [])
        signal(store)
        assert [row.id for row in Server(store, "old").claim()] == ["run"]

    def test_codes_that_live_are_kept(self, store: Store) -> None:
        start(store)
        dead, alive, new = Server(store, "dead"), Server(store, "alive"), Server(store, "new")
        for server in (dead, alive):
            server.refuse(*server.claim())
        asleep(store, new)
        assert forget(store, 1, 2) == 1  # nobody of them is dead
        assert sets(store) == [{1, 2}]
        dead.end()
        forget(store, 1, 2)
        assert sets(store) == [{2}]
        signal(store)
        assert (alive.claim(), [row.id for row in new.claim()]) == ([], ["run"])

    def test_what_is_due_or_owned_is_left_alone(self, store: Store) -> None:
        start(store, "due")
        start(store, "owned")
        old, new = Server(store, "old"), Server(store, "new")
        for row in old.claim():
            old.refuse(row)
        (row,) = new.claim(limit=1)
        old.end()
        assert forget(store, 1) == 1
        assert sets(store) == [{1}]
        assert row_of(store, row.id).owner == new.executor
        assert old.code.code == 1

    def test_so_is_what_was_refused_by_others_or_is_of_another_version(self, store: Store) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        old.refuse(*old.claim())
        asleep(store, new)
        old.end()
        forget(store, 2)
        forget(store, 1, 3)
        one(store, ForgetDeadCodes(workflow="other", version=0, codes=frozenset({1}), now=250))
        one(store, ForgetDeadCodes(workflow="work", version=7, codes=frozenset({1}), now=250))
        assert store.ask(ListRefusedSets()) == (RefusedSet("work", 0, frozenset({1})),)

    def test_one_transaction_takes_a_bounded_number_of_runs_whether_they_sleep_or_not(self, store: Store) -> None:
        count = UPKEEP_ROWS_MAX + 20
        for number in range(count):
            start(store, f"run {number}")
        old, new = Server(store, "old"), Server(store, "new")
        for row in old.claim(limit=count):
            old.refuse(row)
        asleep(store, new, wake_at=900)
        old.end()
        piece = ForgetDeadCodes(workflow="work", version=0, codes=frozenset({1}), now=250)
        after = one(store, piece)
        assert after is not None
        assert sets(store) == [{1}]
        assert forget(store, 1) == 1
        assert sets(store) == []
        assert Server(store, "old").claim()
