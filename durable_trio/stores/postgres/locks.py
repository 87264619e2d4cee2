"""Who is there: each open store holds an advisory lock of its session, by the number of its instance.

The server lets go of it when the connection ends, however it ends. Advisory locks are of a whole database, so theirs
has a class of its own for each schema.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FIND_LOCK_CLASS", "POSTMASTER", "TAKE_LOCK", "is_free"]

#: When the server was started, as text: a lock that was taken before is gone, whoever is there.
POSTMASTER: Final = "pg_postmaster_start_time()::text"
FIND_LOCK_CLASS: Final = "SELECT hashtext('durable_trio ' || current_schema()::regnamespace::oid)"
TAKE_LOCK: Final = "SELECT pg_try_advisory_lock($1::integer, $2::integer)"


def is_free(lock_class: str, instance: str) -> str:
    """Return the expression that nobody holds the lock of an instance. What it takes goes with the transaction."""
    return f"pg_try_advisory_xact_lock_shared({lock_class}::integer, {instance}::integer)"
