"""The connection by which others know that a store is open: it holds the lock of its instance."""

from __future__ import annotations

from durable_trio.errors import StoreError
from durable_trio.processes import OWN_PROCESS
from durable_trio.stores.postgres.locks import FIND_LOCK_CLASS, POSTMASTER, TAKE_LOCK
from durable_trio.stores.postgres.transaction import NOW
from durable_trio.stores.postgres.url import Place

__all__ = ["Session"]

ADD_INSTANCE = f"""
    INSERT INTO instances (process, postmaster, opened_at) VALUES ($1::text, {POSTMASTER}, {NOW}) RETURNING instance
"""


class Session:
    """An open store, as others see it."""

    def __init__(self, place: Place) -> None:
        self._wire = wire = place.connect()
        ((self.lock_class,),) = wire.execute(FIND_LOCK_CLASS).rows
        ((self.instance,),) = wire.execute(ADD_INSTANCE, str(OWN_PROCESS)).rows
        if not wire.execute(TAKE_LOCK, self.lock_class, self.instance).rows[0][0]:
            raise StoreError(f"{place.name}: somebody else holds the lock of instance {self.instance}")

    def close(self) -> None:
        """Leave."""
        self._wire.close()
