"""The program that is killed: ``python -m demo_parts.serving FOLDER STORE OBJECT-STORE SHOP INCARNATION LEASE``.

``STORE`` is the path or the URL of the engine's database: all that makes it durable. The services are found at
``host:port``. It is told nothing of what went before, and nothing of other processes that do the same.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import trio

from demo_parts import outside
from demo_parts.children import end_with_parent
from demo_parts.places import Places
from demo_parts.trace import Trace
from demo_parts.workflows import checkout, mirror_file
from durable_trio import Engine

# Runs that are in memory at once: few enough that each gets on, enough that their commits share syncs.
CONCURRENCY = 64


def main(folder: Path, store: str, store_address: str, shop_address: str, incarnation: int, lease: float) -> None:
    """Serve until SIGTERM drains it, or SIGKILL does not."""
    places = Places(folder)
    outside.connect(store_address=store_address, shop_address=shop_address)
    engine = Engine(
        store,
        workflows=[mirror_file, checkout],
        observers=[Trace(places.trace, incarnation)],
        concurrency=CONCURRENCY,
        lease_seconds=lease,
    )
    trio.run(engine.serve)


if __name__ == "__main__":
    end_with_parent()
    logging.basicConfig(level=logging.INFO)
    folder, store, store_address, shop_address, incarnation, lease = sys.argv[1:]
    main(Path(folder), store, store_address, shop_address, int(incarnation), float(lease))
