"""The program that is killed: ``python -m demo_parts.serving FOLDER STORE-PORT SHOP-PORT INCARNATION``.

All that makes it durable is the engine's file. It is told nothing of what went before.
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


def main(folder: Path, store_port: int, shop_port: int, incarnation: int) -> None:
    """Serve until SIGTERM drains it, or SIGKILL does not."""
    places = Places(folder)
    outside.connect(store_port=store_port, shop_port=shop_port)
    engine = Engine(
        places.database,
        workflows=[mirror_file, checkout],
        observers=[Trace(places.trace, incarnation)],
        concurrency=CONCURRENCY,
    )
    trio.run(engine.serve)


if __name__ == "__main__":
    end_with_parent()
    logging.basicConfig(level=logging.INFO)
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
