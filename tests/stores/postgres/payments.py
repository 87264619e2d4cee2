"""A run whose function writes into a table of the user's, for tests of transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from durable_trio.rows import HistoryRow
from durable_trio.stores.contract import Advance
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListHistory
from durable_trio.testing.store_contract.kit import owned, step
from tests.stores.postgres.kit import Rows

__all__ = ["Connection", "Payments"]

Connection = psycopg.Connection[tuple[Any, ...]]


class Payments:
    """A run whose function writes into a table of the user's."""

    def __init__(self, store: PostgresStore, rows: Rows, run_id: str = "run") -> None:
        self.store = store
        self._rows = rows
        row, self.fence = owned(store, run_id)
        self._run = row.run

    def call(self, fn: Callable[[Connection], Any], *, seconds_max: float = 20.0, result: str = "1") -> Any:
        """Have a function called, and its checkpoint committed with what it has written."""

        def whole(connection: Connection) -> Advance:
            fn(connection)
            return Advance(fence=self.fence, rows=(step(1, result=result),), now=20)

        return self.store.transact(self.fence, whole, seconds_max=seconds_max)

    def pay(self, connection: Connection, amount: int = 7) -> None:
        """Write a row."""
        connection.execute("INSERT INTO account VALUES (%s)", [amount])

    @property
    def amounts(self) -> list[int]:
        """What was written and committed."""
        return [amount for (amount,) in self._rows.all("SELECT amount FROM public.account ORDER BY amount")]

    @property
    def history(self) -> tuple[HistoryRow, ...]:
        """The checkpoints."""
        return self.store.ask(ListHistory(self._run))

    def must_have_written_nothing(self) -> None:
        """Neither a row nor a checkpoint; and the next function is called and committed as if nothing had been."""
        assert (self.amounts, self.history) == ([], ())
        assert self._rows.all("SELECT * FROM guards") == []
        assert self.call(self.pay) is True
        assert (self.amounts, len(self.history)) == ([7], 1)
