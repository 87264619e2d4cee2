"""Whether other processes have something else open than what stands there now.

Who opens a database next to others takes its log for the one that they write to. After something was put in place of
the database, or its log was removed, that is not so any more. The others find out before they store anything, but an
idle one only after some seconds, and then they end. Until then nobody must begin there: his commits would go into files
that whoever has put them there is about to set right, and he would set aside a log that is in use. So he is told to
stop the others first, as they are; nothing was changed then. Where nobody lives what was left is sorted out at opening.

Executors are known by their locks, on all systems; clients, who have none, by the files that they have open, on Linux.
"""

from __future__ import annotations

import os

from durable_trio.errors import StoreRewound
from durable_trio.processes import describe_process
from durable_trio.stores.sqlite.executor_locks import open_executor_locks
from durable_trio.stores.sqlite.files import stores_on
from durable_trio.stores.sqlite.identity import find_note, look_at
from durable_trio.stores.sqlite.write_turn import FileTurn

__all__ = ["check_not_occupied"]


def check_not_occupied(path: str, turn: FileTurn) -> None:
    """Refuse a database that is not the one that others have open there. Call it in the write turn.

    Raises:
        StoreRewound: so it is; the message names what was done, and by whom it is open still.
    """
    what = _what_was_done(path, turn)
    if what is not None and ((pids := stores_on(path)) or _has_owners(path)):
        raise _occupied(path, what, pids)
    if what is None and not os.path.lexists(f"{path}-wal") and _has_owners(path):
        raise _occupied(path, f"{path + '-wal'!r} was removed", stores_on(path))


def _what_was_done(path: str, turn: FileTurn) -> str | None:
    """Return words for what was done to a database since whoever had the turn last has looked at it."""
    note = find_note(turn)
    if note is None:
        return None
    try:
        status = os.lstat(path)
    except OSError:
        return f"{path!r} was removed"
    if (status.st_dev, status.st_ino) != note.inode:
        return f"{path!r} was replaced by another file"
    if status.st_size == 0:
        return f"{path!r} was emptied"
    if note.is_overwritten:
        return f"something else was written over {path!r}"
    if note.is_same_file(status):
        return None
    lost = look_at(path).what_was_put(path, note)
    return None if lost is None else f"{lost} was written over {path!r}"


def _has_owners(path: str) -> bool:
    locks = open_executor_locks(path)
    try:
        return locks.are_any_held()
    finally:
        locks.close()


def _occupied(path: str, what: str, pids: list[int]) -> StoreRewound:
    who = " and ".join(describe_process(pid).removesuffix(",") for pid in pids) or "another process"
    return StoreRewound(
        f"{what} while {who} had it open, and has it open still; nothing was changed. Stop all processes that use "
        f"{path!r}, put in place what is to stand there, and start again"
    )
