"""The contract of transaction steps, and of noticing what others have written."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import Any

import pytest

from durable_trio.errors import OwnershipLost, RunConflict, StepTimeout
from durable_trio.records import RunStatus
from durable_trio.stores.contract import Advance, Store
from durable_trio.stores.questions import ListHistory, LoadRun
from durable_trio.testing.store_contract.kit import ContractKit, add, owned, signal, stale, start, step, suspend


class TransactionContract(ContractKit):
    """A user's rows and the checkpoint: together or neither.

    What a user does with a connection is said in SQL, and by the verbs that connections of Python's databases have.
    Override the first three methods if yours speaks another language.
    """

    def make_table(self, connection: Any) -> None:
        """Make a table of the user's."""
        connection.cursor().execute("CREATE TABLE account (amount INTEGER)")

    def add_row(self, connection: Any, amount: int) -> None:
        """Add a row to it."""
        connection.cursor().execute(f"INSERT INTO account VALUES ({amount:d})")

    def count_rows(self, connection: Any) -> int:
        """Return how many rows it has."""
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM account")
        found: int = cursor.fetchone()[0]
        return found

    @pytest.fixture
    def account(self, store: Store) -> None:
        """A table of the user's."""
        connection = store.connect()
        self.make_table(connection)
        connection.commit()
        connection.close()

    def count(self, store: Store) -> int:
        """Return how many rows of the user's are committed."""
        connection = store.connect()
        try:
            return self.count_rows(connection)
        finally:
            connection.close()

    @pytest.mark.usefixtures("account")
    def test_rows_and_checkpoint_are_committed_together(self, store: Store) -> None:
        row, fence = owned(store)

        def pay(connection: Any) -> Advance:
            self.add_row(connection, 7)
            return Advance(fence=fence, rows=(step(1),), status=RunStatus.RUNNING, now=20)

        assert store.transact(fence, pay, seconds_max=5.0) is True
        assert self.count(store) == 1
        assert store.ask(ListHistory(row.run)) == (step(1),)

    @pytest.mark.usefixtures("account")
    def test_an_exception_rolls_everything_back_and_comes_out(self, store: Store) -> None:
        row, fence = owned(store)

        def fail(connection: Any) -> Advance:
            self.add_row(connection, 7)
            raise LookupError("no such customer")

        with pytest.raises(LookupError, match="no such customer"):
            store.transact(fence, fail, seconds_max=5.0)
        assert (self.count(store), store.ask(ListHistory(row.run))) == (0, ())
        add(store, fence, step(1))

    @pytest.mark.usefixtures("account")
    def test_a_lost_run_is_noticed_before_the_function_is_called(self, store: Store) -> None:
        _, fence = owned(store)
        with pytest.raises(OwnershipLost):
            store.transact(stale(fence), lambda _: pytest.fail("must not be called"), seconds_max=5.0)
        suspend(store, fence)
        with pytest.raises(OwnershipLost):
            store.transact(fence, lambda _: pytest.fail("must not be called"), seconds_max=5.0)

    @pytest.mark.usefixtures("account")
    def test_a_refused_advance_rolls_the_rows_back(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1))
        signal(store)

        def pay(**options: Any) -> Any:
            def function(connection: Any) -> Advance:
                self.add_row(connection, 7)
                return Advance(fence=fence, now=20, **options)

            return store.transact(fence, function, seconds_max=5.0)

        assert isinstance(pay(rows=(step(2, "new"), step(3))), RunConflict)
        assert pay(rows=(step(2, "new"),), unless_unread=("go", 99)) is False
        assert (self.count(store), len(store.ask(ListHistory(row.run)))) == (0, 1)
        assert pay(rows=(step(2, "new"),)) is True
        assert self.count(store) == 1

    @pytest.mark.usefixtures("account")
    def test_a_function_that_takes_too_long_is_stopped(self, store: Store) -> None:
        row, fence = owned(store)

        def slow(connection: Any) -> Advance:
            self.add_row(connection, 7)
            time.sleep(0.06)
            return Advance(fence=fence, rows=(step(1),), now=20)

        with pytest.raises(StepTimeout):
            store.transact(fence, slow, seconds_max=0.05)
        assert (self.count(store), store.ask(ListHistory(row.run))) == (0, ())

    def test_an_advance_of_another_run_is_refused(self, store: Store) -> None:
        _, fence = owned(store)
        other, other_fence = owned(store, "other")
        with pytest.raises(ValueError, match="Advance"):
            store.transact(fence, lambda _: Advance(fence=other_fence, rows=(step(1),), now=20), seconds_max=5.0)
        assert store.ask(ListHistory(other.run)) == ()

    def test_what_another_one_commits_is_noticed_in_time(self, tmp_path: Path, store: Store) -> None:
        again = self.reopen(tmp_path)
        if again is None:
            return
        again.open()
        try:
            for number in range(3):
                store.foreign_changes()  # what was committed before
                start(again, f"from-elsewhere-{number}")
                assert _is_noticed(store)
        finally:
            again.close()

    def test_nobody_is_said_to_have_committed_all_the_time(self, store: Store) -> None:
        # Perhaps once in ``poll_seconds``, of a store that would have to ask for it.
        noticed = [store.foreign_changes() for _ in range(3)]
        assert noticed.count(True) <= 1

    def test_tidying_up_changes_no_data(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1))
        before = store.ask(LoadRun(row.run))
        store.tidy()
        store.tidy()
        assert store.ask(LoadRun(row.run)) == before
        assert store.durability in ("full", "normal", "memory")

    def test_apply_without_blocking_works_when_nobody_writes(self, store: Store) -> None:
        _, fence = owned(store)
        batch = [Advance(fence=fence, rows=(step(1),), now=20)]
        if store.apply(batch, block=False) is None:  # which a store may always say: nothing was done then
            assert store.ask(LoadRun(fence.run)).history == ()
            assert store.apply(batch) == [True]
        assert store.ask(LoadRun(fence.run)).history == (step(1),)


def _is_noticed(store: Store) -> bool:
    """Wait for the bell, or as long as whoever has none; return whether others are said to have committed then."""
    until = time.monotonic() + 10 * store.poll_seconds
    while not store.foreign_changes():
        if time.monotonic() > until:
            return False
        bell = store.doorbell
        if bell is None:
            time.sleep(store.poll_seconds)
        elif select.select([bell], [], [], store.poll_seconds)[0]:
            os.read(bell, 4096)
    return True
