"""The contract of a store that can be away: what was perhaps committed is committed once, and nobody has to guess."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

from durable_trio.errors import StoreAway
from durable_trio.stores.contract import Advance, Operation, RenewLease, Store
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.questions import FindRun, ListHistory, ListUnread
from durable_trio.testing.probes import ProbedStore
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    changed_since,
    finish,
    one,
    owned,
    row_of,
    sent_since,
    signal,
    start_operation,
    step,
)


class OutageContract(ContractKit):
    """A store that cannot be reached for a while."""

    def cut_off(self, store: Store, *, loses_reply: bool) -> AbstractContextManager[None]:
        """Return a block in which the store cannot be reached.

        ``loses_reply``: the first that comes is committed, and only the answer is lost.
        """
        raise NotImplementedError("say how to cut the store off")

    @pytest.fixture(params=[False, True], ids=["request lost", "reply lost"])
    def cut(self, request: pytest.FixtureRequest, store: Store) -> AbstractContextManager[None]:
        """The block."""
        return self.cut_off(store, loses_reply=request.param)

    def test_the_same_batch_is_applied_once_however_often_it_is_given(
        self, store: Store, cut: AbstractContextManager[None]
    ) -> None:
        row, fence = owned(store)
        cursor = store.ask(FindCursor())
        batch: list[Operation] = [
            start_operation("other"),
            Advance(fence=fence, rows=(step(1),), published=(("n", "1"),), now=20),
            start_operation("run"),  # which is there
        ]
        with cut:
            for _ in range(3):
                with pytest.raises(StoreAway):
                    store.apply(batch)
        outcomes = store.apply(batch)
        assert outcomes is not None
        started, advanced, again = outcomes
        assert (started.created, started.row.id, advanced) == (True, "other", True)
        assert again.created is False
        assert [entry.seq for entry in store.ask(ListHistory(row.run))] == [1]
        assert changed_since(store, cursor) == {"run", "other"}
        assert row_of(store, "other") == started.row

    def test_another_batch_before_the_same_again_is_refused_and_does_nothing(
        self, store: Store, cut: AbstractContextManager[None]
    ) -> None:
        batch = [start_operation("first"), start_operation("second")]
        with cut, pytest.raises(StoreAway):
            store.apply(batch)
        for other in ([start_operation("third")], batch[:1], [*batch, start_operation("third")], batch[::-1]):
            with pytest.raises(ValueError, match="batch"):
                store.apply(other)
        assert store.apply(batch) is not None
        assert store.ask(FindRun("third")) is None
        assert one(store, start_operation("third")).created

    def test_messages_are_put_into_a_mailbox_once_and_in_their_order(
        self, store: Store, cut: AbstractContextManager[None]
    ) -> None:
        row, fence = owned(store)
        first, cursor = signal(store, payload="1").entry, store.ask(FindCursor())
        send = [start_operation("other", owner=fence.owner)]
        operations: list[Operation] = [*send, Advance(fence=fence, rows=(step(1),), now=20)]
        with cut, pytest.raises(StoreAway):
            store.apply(operations)
        store.apply(operations)
        second = signal(store, payload="2").entry
        assert store.ask(ListUnread(row.run)) == (first, second)
        assert [sent.entry for sent in sent_since(store, cursor)] == [second]

    def test_questions_are_answered_again_when_it_is_back(
        self, store: Store, cut: AbstractContextManager[None]
    ) -> None:
        row, _ = owned(store)
        with cut, pytest.raises(StoreAway):
            store.ask(FindRun("run"))
        assert store.ask(FindRun("run")) == row

    def test_an_executor_may_have_renewed_its_lease_in_what_was_lost(
        self, store: Store, cut: AbstractContextManager[None]
    ) -> None:
        _, fence = owned(store)
        renewal = [_renewal(fence.owner)]
        with cut, pytest.raises(StoreAway):
            store.apply(renewal)
        assert store.apply(renewal) == [True]
        assert finish(store, fence) is True

    def test_a_transaction_is_committed_once_and_called_again_only_if_it_was_not(
        self, store: Store, cut: AbstractContextManager[None], request: pytest.FixtureRequest
    ) -> None:
        row, fence = owned(store)
        calls: list[Any] = []

        def pay(connection: Any) -> Advance:
            calls.append(connection)
            return Advance(fence=fence, rows=(step(1),), now=20)

        with cut, pytest.raises(StoreAway):
            store.transact(fence, pay, seconds_max=5.0)
        called_count = len(calls)
        assert store.transact(fence, pay, seconds_max=5.0) is True
        assert [entry.seq for entry in store.ask(ListHistory(row.run))] == [1]
        assert len(calls) - called_count == (0 if "reply" in request.node.name else 1)

    def test_a_transaction_is_known_by_a_function_that_equals_it(
        self, store: Store, cut: AbstractContextManager[None]
    ) -> None:
        """A store that puts something around functions for another one makes it anew each time."""
        row, fence = owned(store)

        def pay(connection: Any) -> Advance:
            return Advance(fence=fence, rows=(step(1),), now=20)

        wrapped = ProbedStore(store)
        with cut, pytest.raises(StoreAway):
            wrapped.transact(fence, pay, seconds_max=5.0)
        assert wrapped.transact(fence, pay, seconds_max=5.0) is True
        assert [entry.seq for entry in store.ask(ListHistory(row.run))] == [1]


def _renewal(executor: int) -> RenewLease:
    return RenewLease(executor=executor)
