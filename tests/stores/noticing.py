"""What stores that can look for nothing promise beyond the contract: they say of commits exactly whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_trio.stores.contract import Advance, Store
from durable_trio.testing.store_contract.kit import one, owned, start, step
from durable_trio.testing.store_contract.transactions import TransactionContract


class ExactNoticing(TransactionContract):
    """A store that knows at once, and without asking anybody, whether others have committed."""

    @pytest.mark.usefixtures("account")
    def test_foreign_changes_are_noticed_once_and_own_ones_never(self, tmp_path: Path, store: Store) -> None:
        store.foreign_changes()
        assert store.foreign_changes() is False
        _, fence = owned(store)
        assert store.foreign_changes() is False
        store.transact(fence, lambda _: Advance(fence=fence, rows=(step(1),), now=20), seconds_max=5.0)
        assert store.foreign_changes() is False
        connection = store.connect()
        self.add_row(connection, 1)
        connection.commit()
        connection.close()
        assert store.foreign_changes() is True
        assert store.foreign_changes() is False
        again = self.reopen(tmp_path)
        if again is None:
            return
        again.open()
        try:
            start(again, "from-elsewhere")
            one(store, Advance(fence=fence, rows=(step(2, "b"),), now=20))
            assert store.foreign_changes() is True
            assert store.foreign_changes() is False
            assert again.foreign_changes() is True
        finally:
            again.close()
