"""Whether the database is still the one that this store knows: a standby that has taken over may lack commits.

What was acknowledged and is not there is lost, and is said. The runs of this store go on from what is stored: its
executors are declared dead there, so that nothing that they know, and the database does not, is written behind it.
"""

from __future__ import annotations

from typing import Final

from durable_trio.logger import Logger
from durable_trio.stores.contract import ReapExecutor
from durable_trio.stores.postgres.ledger import Ledger
from durable_trio.stores.postgres.operations.table import HANDLERS
from durable_trio.stores.postgres.transaction import NOW, Transaction
from durable_trio.stores.postgres.wire import Request, Wire

__all__ = ["look_back"]

_LOGGER: Final = Logger("durable_trio.store")

FIND_OWN: Final = f"SELECT id, {NOW} FROM executors WHERE instance = $1::bigint AND ended_at IS NULL ORDER BY id"


def look_back(wire: Wire, ledger: Ledger, name: str) -> None:
    """See that what was committed on a connection that was lost is in the database of a new one."""
    with ledger.looking:
        lost = ledger.count_lost(wire)
        if lost:
            _begin_anew(wire, ledger, name, lost)


def _begin_anew(wire: Wire, ledger: Ledger, name: str, lost: int) -> None:
    _LOGGER.error(
        "%s lacks %d of the last commits that it had acknowledged: it is an earlier state, as of a standby that was "
        "behind. Runs go on from what is stored",
        name,
        lost,
        extra={"event": "store_rewound", "lost_count": lost},
    )
    own = wire.execute(FIND_OWN, ledger.instance).rows
    for executor, now in own:
        wire.exchange([Request("BEGIN")])
        HANDLERS[ReapExecutor](Transaction(wire, ledger.instance), ReapExecutor(executor=executor, now=now))
        wire.exchange([Request("COMMIT")])
    ledger.forget()
