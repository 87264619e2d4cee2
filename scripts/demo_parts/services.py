"""The world outside, as a process of its own: ``python -m demo_parts.services FOLDER SEED HOST``.

``HOST`` is the address to listen on. Writes the two ports to standard output once it listens, and runs until its
standard input ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from demo_parts.children import end_with_parent
from demo_parts.object_store import ObjectStore
from demo_parts.places import Places
from demo_parts.shop import Shop
from demo_parts.tiny_http import serve_http


async def serve(places: Places, seed: int, host: str) -> None:
    """Serve the object store and the shop until cancelled."""
    store = ObjectStore(places.objects, places.store_log)
    shop = Shop(places.shop_log, seed)
    try:
        async with trio.open_nursery() as nursery:
            store_port = await nursery.start(serve_http, store.handle, host)
            shop_port = await nursery.start(serve_http, shop.handle, host)
            print(store_port, shop_port, flush=True)
    finally:
        store.close()
        shop.close()


if __name__ == "__main__":
    end_with_parent()
    trio.run(serve, Places(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3])
