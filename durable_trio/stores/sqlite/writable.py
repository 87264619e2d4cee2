"""Whether a database can be written just now, for who examines it. Nothing of it is changed."""

from __future__ import annotations

import os
import tempfile

from durable_trio.processes import describe_process
from durable_trio.stores.sqlite.files import writers_of
from durable_trio.stores.sqlite.library import PROBE_BYTES, note_errno, sqlite3, translate

__all__ = ["why_not_writable"]


def why_not_writable(connection: sqlite3.Connection, path: str) -> str | None:
    """Return what keeps everybody from writing to a database, and what to do; ``None`` if nothing does.

    Blocks for as long as the connection waits for a lock. A limit of another process (``ulimit -f``) is not seen.
    """
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        advice = "make room, and do not stop the servers: what they have finished is in their memory"
        return f"nothing can be written beside {path!r} ({error.strerror}); {advice}"
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        note_errno(error)
        who = " and ".join(describe_process(pid).removesuffix(",") for pid in writers_of(path))
        return f"{translate(error, path)}{who and f'. It is {who}'}"
    return None
