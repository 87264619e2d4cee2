"""Values that look random and are the same at replay: keyed hashes of the run's stored seed."""

from __future__ import annotations

import hashlib
import uuid

from durable_trio.rows import Key


def _digest(seed: bytes, *parts: object) -> bytes:
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), key=seed, digest_size=16).digest()


def random_float(seed: bytes, generation: int, branch: str, count: int) -> float:
    """Return the ``count``-th float in [0, 1) of a branch."""
    return (int.from_bytes(_digest(seed, "random", generation, branch, count)[:8]) >> 11) / (1 << 53)


def random_uuid(seed: bytes, generation: int, branch: str, count: int) -> uuid.UUID:
    """Return the ``count``-th UUID (version 4) of a branch."""
    return uuid.UUID(bytes=_digest(seed, "uuid4", generation, branch, count), version=4)


def idempotency_key(seed: bytes, run_id: str, generation: int, key: Key) -> str:
    """Return a step's key for outside services: 32 hexadecimal digits, stable over attempts and crashes."""
    return _digest(seed, "idempotency", run_id, generation, key).hex()


def child_id(seed: bytes, run_id: str, generation: int, key: Key) -> str:
    """Return the id of the child that a call starts: the same at each replay."""
    return str(uuid.UUID(bytes=_digest(seed, "child", run_id, generation, key), version=4))
