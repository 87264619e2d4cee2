"""Who is there: each open store holds an advisory lock of its session, by the number of its instance.

The server lets go of it when the connection ends, however it ends. Advisory locks are of a whole database, so theirs
has a class of its own for each schema.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FIND_LOCK_CLASS", "LET_GO", "POSTMASTER", "SCHEMA", "TAKE_LOCK", "is_free"]

#: Since when the server has been up, as text: a lock that was taken before is gone, whoever is there, and numbers of
#: transactions are given out again. After the crash of one of its processes it begins anew without being started, and
#: all that tells it is that its statistics do, too.
POSTMASTER: Final = """(
    extract(epoch FROM pg_postmaster_start_time()) || '/'
    || coalesce(extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()), 0)
)"""
#: The number of the schema. (A cast of its name to ``regnamespace`` would read it as an identifier in a statement.)
SCHEMA: Final = "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
FIND_LOCK_CLASS: Final = f"SELECT hashtext('durable_trio ' || {SCHEMA})"
TAKE_LOCK: Final = "SELECT pg_try_advisory_lock($1::integer, $2::integer)"

LET_GO: Final = "SELECT pg_advisory_unlock_all()"


def is_free(lock_class: str, instance: str) -> str:
    """Return the expression that nobody holds the lock of an instance. What it takes goes with the transaction."""
    return f"pg_try_advisory_xact_lock_shared({lock_class}::integer, {instance}::integer)"
