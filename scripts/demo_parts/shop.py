"""A payment and parcel service that is not quite reliable, as they are.

``POST /charges``, ``/refunds`` and ``/shipments``, a JSON object as body, an ``idempotency-key`` header. Some requests
are answered by 503 before anything was done; of some others the effect takes place, but the connection breaks before
the answer. The same key again gives the first answer and has no second effect. Each request is one line of the log.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any, Final

import trio

from demo_parts.tiny_http import Request, Response

UNAVAILABLE_PART: Final = 0.12
REPLY_LOST_PART: Final = 0.06
# What a service far away takes to answer.
_DELAY_SECONDS: Final = (0.005, 0.06)
_PREFIXES: Final = {"/charges": "ch", "/refunds": "re", "/shipments": "sh"}


class Shop:
    """Remembers what it did for each idempotency key."""

    def __init__(self, log: Path, seed: int) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._random = random.Random(f"shop {seed}")
        self._done: dict[str, dict[str, Any]] = {}

    async def handle(self, request: Request) -> Response | None:
        """Answer one request, or break its connection."""
        key = request.headers.get("idempotency-key")
        if request.method != "POST" or request.path not in _PREFIXES or not key:
            return Response(404, b"POST /charges, /refunds or /shipments, with an idempotency-key")
        asked = json.loads(request.body)
        await trio.sleep(self._random.uniform(*_DELAY_SECONDS))
        chance = self._random.random()
        if chance < UNAVAILABLE_PART:
            self._write_log(request.path, key, asked, "unavailable")
            return Response(503, b"come back later")
        done = self._done.get(key)
        is_new = done is None
        if done is None:
            done = self._done[key] = {"id": f"{_PREFIXES[request.path]}_{len(self._done) + 1:04}", **asked}
        is_lost = chance < UNAVAILABLE_PART + REPLY_LOST_PART
        self._write_log(request.path, key, done, "done" if is_new else "known", reply_lost=is_lost)
        return None if is_lost else Response(201 if is_new else 200, json.dumps(done).encode())

    def close(self) -> None:
        """Close the log."""
        os.close(self._log)

    def _write_log(self, path: str, key: str, fields: dict[str, Any], outcome: str, **more: object) -> None:
        entry = {"path": path, "key": key, "outcome": outcome, **fields, **more}
        os.write(self._log, json.dumps(entry).encode() + b"\n")
