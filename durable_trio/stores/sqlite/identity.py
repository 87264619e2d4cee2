"""Whether the files of an open store are still those that were opened, and what has become of their database.

A name that leads to another file, or to none, is seen by its inode: SQLite itself goes on with the file that it has
open, so that commits would be acknowledged into nowhere, or two processes would write with different locks. The names
are checked before a transaction and again before anything of it is acknowledged, and before each read. That costs a
call of ``stat``: if the folder has not changed, none of its names has. What counts is the time of its last change that
nobody can set (``ctime``): a restore with ``cp -a`` sets the other one back.

A copy that was written over the database (``cp backup app.db``) has the same inode. SQLite writes to the file itself
only when it moves its log there, so the file seldom changes; when it has, it is read without the log (a *look*). It
is another store's if its nonce differs. It is an earlier state if a number has gone back that only grows, or if it
lacks what this process knows (``lineage``) while the log has been moved whole. It is a copy that VACUUM has made if its
schema version is ahead of that with the log, or if its header says that it has no log. A copy that is none of this has,
page by page, what the log changes, and does no harm. The look of whoever had the turn last stands in the turn file: a
look of others comes after it, and it tells the next opener whether the log beside a database is that database's. With
it stands of what log the one beside was, so that a copy may come with a log of its own.

A copy that SQLite itself has written over the database while it was open (``lineage``) is in the log as much as in the
file, and in order: such a log stays. It is told by the number of the schema, which SQLite raises then.

One thing cannot be told: a copy that VACUUM has made, that was then opened elsewhere, so that its header says that it
has a log, beside a log that a killed process has left and that has no first page. To set such a log aside would throw
away commits where another program has changed the schema and moved the log itself. So it is applied, as SQLite would.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import attrs

from durable_trio.errors import SchemaTooNew, StoreError, StoreInUse, StoreRewound
from durable_trio.processes import boot_id
from durable_trio.stores.sqlite.files import time_of_files, would_show
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.lineage import Lineage
from durable_trio.stores.sqlite.log import (
    Generation,
    Log,
    is_cut_short,
    read_generation,
    read_header,
    schema_in_log,
)
from durable_trio.stores.sqlite.tables import schema_version
from durable_trio.stores.sqlite.write_turn import FileTurn

__all__ = [
    "Files",
    "Look",
    "NoFiles",
    "check_not_overwritten",
    "find_note",
    "leave_open",
    "log_is_stale",
    "look_at",
]

Inode = tuple[int, int]

# Executors whose renewals are looked at; there is one every few seconds.
_EXECUTORS_MAX: Final = 16

_NONCE: Final = "SELECT nonce FROM store_identity"
# Of the database's header (sqlite.org/fileformat.html): whether it is written to by way of a log.
_VERSIONS_AT, _VERSION_WITH_LOG = 18, 2
# Numbers that only grow. A file without its log may have a page of one instant that leads to one of an earlier, where
# something else stood: so each row says that it is what it is taken for, an executor's by the boot that it is of.
_MARKS: Final = f"""
    SELECT 'change', changed FROM change_counter WHERE id = 1
    UNION ALL SELECT 'last of ' || name, seq FROM sqlite_sequence WHERE name IN ('runs', 'mailbox', 'executors')
    UNION ALL
    SELECT 'renewals of ' || id, renewals
    FROM (SELECT id, boot_id, renewals FROM executors ORDER BY id DESC LIMIT {_EXECUTORS_MAX}) WHERE boot_id = ?
"""


@attrs.frozen(kw_only=True)
class Look:
    """What a database file is without its log."""

    inode: Inode
    log_inode: Inode | None
    size: int
    changed_ns: int
    #: That of the one row that tells stores apart; empty if that row is gone.
    nonce: str | None = None
    has_log: bool = True
    schema: int = 0
    marks: dict[str, int] = attrs.field(factory=dict)
    boot_id: str = ""
    #: Something else was written over the file since: the log is not its log.
    is_overwritten: bool = False
    #: Of what log, if any, the one beside the file was when this was noted.
    generation: Generation | None = None
    #: How often SQLite itself has written something else over the database while somebody had it open; and what last.
    rewound_count: int = 0
    rewound_to: str = ""

    def is_same_file(self, status: os.stat_result) -> bool:
        """Return whether nothing was written to the file since."""
        return (
            status.st_ctime_ns == self.changed_ns
            and status.st_size == self.size
            and (status.st_dev, status.st_ino) == self.inode
        )

    def is_same_content(self, other: Look) -> bool:
        """Return whether nothing tells this file from another."""
        mine, others = ((look.size, look.nonce, look.schema, look.marks) for look in (self, other))
        return mine == others

    def what_was_lost(self, before: Look) -> str | None:
        """Return words for what this file is, if it does not come after ``before``."""
        if self.nonce and before.nonce and self.nonce != before.nonce:
            return "another store"
        if not self.has_log:
            return "a copy of it"
        if any(self.marks.get(mark, value) < value for mark, value in before.marks.items()):
            return "an earlier state of it"
        return None

    def what_was_put(self, path: str, before: Look) -> str | None:
        """Return words for what this file is, if it does not come after ``before``, or not yet: a part of something."""
        lost = self.what_was_lost(before)
        if lost is None and (self.schema == 0 or (self.size < before.size and is_cut_short(path, self.size))):
            lost = "something that is not whole"
        return lost


def look_at(path: str, ask: Callable[[sqlite3.Connection], object] | None = None) -> Look:
    """Look at a database file without its log; ``ask`` may ask it more.

    SQLite opens it: it knows which descriptors of a file it must not close, because that would drop this process's
    locks. Pages may be of different instants, if a move of the log was interrupted; then less is known.

    Raises:
        StoreRewound: it is not there, or no database.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise StoreRewound(f"{path!r} is not there any more ({error.strerror})") from error
    log = _inode_of(f"{path}-wal")
    look = Look(inode=_inode(status), log_inode=log, size=status.st_size, changed_ns=status.st_ctime_ns)
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True, isolation_level=None)
    nonce, schema, marks = None, 0, {}
    try:
        connection.execute("PRAGMA writable_schema = ON")  # a file may be shorter than its first page says
        schema = connection.execute("PRAGMA schema_version").fetchone()[0]
        # What a damaged row holds instead is no mark.
        found = connection.execute(_MARKS, (boot_id(),)).fetchall()
        marks = {mark: number for mark, number in found if type(number) is int}
        nonce = (connection.execute(_NONCE).fetchone() or ("",))[0]
        nonce = nonce if type(nonce) is str else ""
        if ask is not None:
            ask(connection)
    except (sqlite3.Error, TypeError, UnicodeError):
        pass
    finally:
        connection.close()
    has_log = read_header(path, _VERSIONS_AT + 1)[_VERSIONS_AT:] in (b"", bytes([_VERSION_WITH_LOG]))
    return attrs.evolve(look, nonce=nonce, has_log=has_log, schema=schema, marks=marks, boot_id=boot_id())


def find_note(turn: FileTurn) -> Look | None:
    """Return the look of whoever had the turn last, in this boot; a power cut may have left an older file than it."""
    try:
        fields: dict[str, Any] = json.loads(turn.read_note())
        fields["inode"] = tuple(fields["inode"])
        for name in ("log_inode", "generation"):
            fields[name] = fields.get(name) and tuple(fields[name])
        look = Look(**fields)
    except (ValueError, TypeError, KeyError):
        return None
    return look if look.boot_id == boot_id() else None


def log_is_stale(path: str, turn: FileTurn) -> bool:
    """Return whether the log beside a closed database is that of another one, which stood there before.

    Call it in the write turn.
    """
    if _inode_of(f"{path}-wal") is None:
        return False
    look, note = look_at(path), find_note(turn)
    if not look.has_log:
        return True
    if note is None or (note.generation is not None and not _is_later(read_generation(path), note.generation)):
        return False
    if look.log_inode == note.log_inode and (
        note.is_overwritten or (look.inode != note.inode and not look.is_same_content(note))
    ):
        return True
    if look.is_same_content(note):
        return False
    logged = schema_in_log(f"{path}-wal")
    return look.what_was_lost(note) is not None or (logged is not None and look.schema > logged)


def _is_later(found: Generation | None, noted: Generation) -> bool:
    """Return whether a log may be the one that was noted, now or begun anew since; else it has come with its copy."""
    return found is None or found == noted or (found[0] == noted[0] and found[1] > noted[1])


def check_not_overwritten(path: str) -> None:
    """Refuse a file with which this process has something open that belongs to what stood there before.

    Raises:
        StoreRewound: so it is.
    """
    if _inode_of(path) in _overwritten:
        raise StoreRewound(
            f"something was written over {path!r} while this process had it open, and its log is still held here; "
            "open it in a new process"
        )


def leave_open(connection: sqlite3.Connection) -> None:
    """Leave a connection open until the process ends: closing the last one would move its log into what is there now.

    The end of a process closes files, not connections; Python would close them when it clears its modules.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


_overwritten: Final[set[Inode | None]] = set()


class NoFiles:
    """Those of a database in memory."""

    failure: StoreError | None = None
    was_overwritten = False

    def rewound(self, lost: str) -> StoreRewound:
        """Return the error for a database that does not go on from what is known of it."""
        return StoreRewound(f"{lost} was written over a database in memory; nothing more is stored")

    def tell_others(self) -> None:
        """There are no others."""

    def check_told(self) -> None:
        """Nobody tells."""

    def check_names(self) -> None:
        """Nothing to check."""

    def check_content(self, writer: sqlite3.Connection) -> None:
        """Nothing to check."""

    def check_committed(self) -> None:
        """Nothing to check."""

    def find_failure(self, writer: sqlite3.Connection) -> StoreError | None:
        """Nobody can have done anything to it."""
        return None

    def check_leaving(self, writer: sqlite3.Connection) -> None:
        """Nothing to check."""

    def close(self) -> None:
        """Nothing to close."""


class Files:
    """The files of an open store, as they were when it was opened."""

    def __init__(self, path: str, turn: FileTurn, lineage: Lineage) -> None:
        #: What was found last; the store must not be used on.
        self.failure: StoreError | None = None
        self.was_overwritten = False
        self.lineage = lineage
        self._untold = ""
        self._is_in_order = True  # as far as was found, the log is the database's, whatever that is now
        self._path = path
        self._folder = os.path.dirname(path)
        self._turn = turn
        self._folder_stamp: tuple[int, int, int] | None = None
        note = find_note(turn)
        self._rewound_count, self._rewound_to = (note.rewound_count, note.rewound_to) if note is not None else (0, "")
        self._look = look_at(path)
        self._inodes = {name: _inode_of(name) for name in (path, f"{path}-wal", f"{path}-shm")}
        self._inodes |= turn.inodes()
        self._noted_salts = b""
        self._log = Log(path)  # last: it is to be closed
        self._keep_note(self._look)

    def check_names(self) -> None:
        """Check that all names lead to the files that were opened.

        Raises:
            StoreRewound: one does not.
        """
        try:
            folder = os.stat(self._folder)
            if (folder.st_ctime_ns, folder.st_ino, folder.st_dev) == self._folder_stamp:
                return
            now = time_of_files()  # before the look that counts: a change that it does not see has a later time
            folder = os.stat(self._folder)
            self._check_each()
        except PermissionError:
            return  # it tells nothing of the files, which SQLite has open; the next look may
        except OSError as error:
            raise self._failed(f"the folder of {self._path!r} cannot be read any more ({error.strerror})") from error
        stamp = folder.st_ctime_ns, folder.st_ino, folder.st_dev
        self._folder_stamp = stamp if would_show(folder, now) else None

    def check_content(self, writer: sqlite3.Connection) -> None:
        """Check the names, the log, and the database if it was changed.

        Call it in the write turn, with a writer at rest.

        Raises:
            StoreRewound: another state, or another store, was written over it; or something has spoilt its log.
            SchemaTooNew: a newer version of this library has brought its schema up to date.
            StoreInUse: it cannot be told for now; nothing was begun.
        """
        self.check_names()
        if self._log.is_spoilt():
            self._leave_as_it_is()
            raise self._failed(
                f"{self._path + '-wal'!r} was cut short or written over while this process had it open, and what it "
                "held is lost"
            )
        try:
            status = os.lstat(self._path)
        except PermissionError:
            return
        except OSError as error:
            raise self._failed(f"{self._path!r} cannot be found any more ({error.strerror})") from error
        if not self._look.is_same_file(status):
            self._check_changed(writer, status)
        if self._log.salts != self._noted_salts:  # after the note of others was read
            self._keep_note(self._look)

    def _check_changed(self, writer: sqlite3.Connection, status: os.stat_result) -> None:
        """Check the database, which was changed."""
        if _inode(status) != self._inodes[self._path]:
            raise self._failed(f"{self._path!r} was replaced by another file while this process had it open")
        note = self.check_told()
        look, lost = (note, None) if note is not None and note.is_same_file(status) else self._look_again()
        lost = "an empty file" if status.st_size == 0 else look.what_was_lost(self._look) or lost
        if lost is None and note is not None:
            lost = look.what_was_lost(note)
        if lost is None and look is not note and look.schema > _schema_of(writer):
            lost = "a copy of it"
        if lost is not None and look.has_log and self.lineage.was_written_over():  # and has moved the log itself
            raise self.rewound(lost)
        if lost is not None:
            raise self._overwritten(lost)
        try:
            schema_version(writer, self._path)
        except SchemaTooNew as error:
            self.failure = error
            raise
        # A row that was removed in place: the store is still known by what it was.
        self._look = look if look.nonce else attrs.evolve(look, nonce=self._look.nonce)
        if look is not note:
            self._keep_note(look)

    def find_failure(self, writer: sqlite3.Connection) -> StoreError | None:
        """Return what was done to the files, for somebody who has met damage; ``None`` if it is the disk's, say.

        A copy and a log that is not its own, read as one, are no database; nor is a copy of which only a part is there
        yet. But where nobody has written to the file since it was last looked at, that is not why.

        Call it in the write turn, with a writer at rest.
        """
        before = self._look
        try:
            self.check_content(writer)
        except (StoreRewound, SchemaTooNew) as error:
            return error
        except (StoreError, sqlite3.Error, OSError):
            pass  # the writer meets it, too
        try:
            look = look_at(self._path)
        except (StoreRewound, OSError, sqlite3.Error):
            return None
        if (look.inode, look.size, look.changed_ns) == (before.inode, before.size, before.changed_ns):
            return None
        lost = look.what_was_put(self._path, before)
        return None if lost is None else self._overwritten(lost)

    def check_leaving(self, writer: sqlite3.Connection) -> None:
        """Find out whether closing the connections would spoil what stands there now: it moves the log into it.

        Call it in the write turn, with a writer at rest; whatever else is wrong is of no importance any more.
        """
        with suppress(StoreError, sqlite3.Error, OSError):
            self.check_content(writer)
        if self._is_in_order or self.was_overwritten:
            return
        # A name leads elsewhere. SQLite itself leaves a database alone that was replaced; but not one that others have
        # put there, or gone on with, with another log: it would move this one into it, and remove the name of theirs.
        log = f"{self._path}-wal"
        with suppress(OSError):
            status = os.lstat(self._path)
            is_theirs = not self._look.is_same_file(status) or _inode_of(log) not in (None, self._inodes[log])
            if is_theirs and _inode(status) == self._inodes[self._path]:
                self._leave_as_it_is()

    def check_told(self) -> Look | None:
        """Return what whoever had the turn last has noted. Out of the turn it may be half written: then nothing.

        Raises:
            StoreRewound: it says that somebody has found the database written over, since this store was opened.
        """
        note = find_note(self._turn)
        if note is not None and note.rewound_count > self._rewound_count:
            raise self.rewound(note.rewound_to, is_told=True)
        return note

    def check_committed(self) -> None:
        """Check the names after a commit, which went into the files that were opened, and before it is acknowledged.

        Raises:
            StoreRewound: one leads elsewhere.
        """
        try:
            self.check_names()
        except StoreRewound as error:
            raise StoreRewound(f"{error}. The last commit went into what was there before") from error

    def rewound(self, lost: str, *, is_told: bool = False) -> StoreRewound:
        """Return the error for a database that SQLite itself has written over, so that its files are in order."""
        self._untold = "" if is_told else lost
        failure = self._failed(f"{lost} was written over {self._path!r} while this process had it open")
        self._is_in_order = True
        return failure

    def tell_others(self) -> None:
        """Let others know, who perhaps miss nothing, that the database was written over. Call it in the write turn."""
        if self._untold:
            self._rewound_count, self._rewound_to, self._untold = self._rewound_count + 1, self._untold, ""
            self._keep_note(self._look)
            with suppress(OSError):
                os.utime(self._path)  # they look at it again, even if no page was moved

    def close(self) -> None:
        """Close what was opened here; the connections come after."""
        self._log.close()

    def _look_again(self) -> tuple[Look, str | None]:
        """Look at the database, and for what is known of it, if all of that has to be there and not in the log."""
        lost: list[str | None] = []
        try:
            rest = self._log.find_rest()
            look = look_at(self._path, lambda connection: lost.append(self.lineage.look_through(connection)))
            is_at_rest = rest is not None and rest == self._log.find_rest()
        except (OSError, sqlite3.Error) as error:  # for want of descriptors, mostly: of those, others may let go
            raise StoreInUse(
                f"{self._path!r} was changed, and could not be looked at before it is written to: check its "
                f"permissions and free descriptors ({error})"
            ) from error
        return look, lost[0] if lost and is_at_rest else None

    def _keep_note(self, look: Look) -> None:
        generation = read_generation(self._path)
        if generation is not None and self._log.salts.endswith(generation[2].to_bytes(4, "big")):
            self._noted_salts = self._log.salts  # else the log is to be begun: then it is noted again
        kept = attrs.evolve(look, generation=generation, rewound_count=self._rewound_count, rewound_to=self._rewound_to)
        self._turn.write_note(json.dumps(attrs.asdict(kept)))

    def _overwritten(self, lost: str) -> StoreRewound:
        """Return the error for a database whose log is not its own any more."""
        self._leave_as_it_is()
        self._keep_note(attrs.evolve(self._look, is_overwritten=True))
        return self._failed(f"{lost} was written over {self._path!r} while this process had it open")

    def _leave_as_it_is(self) -> None:
        """Have the connections left open, not closed, and the file not opened again in this process."""
        self.was_overwritten = True
        _overwritten.add(self._inodes[self._path])

    def _check_each(self) -> None:
        for name, inode in self._inodes.items():
            found = _inode_of(name)
            if found != inode:
                what = "removed or moved" if found is None else "replaced by another file"
                raise self._failed(f"{name!r} was {what} while this process had it open")

    def _failed(self, what: str) -> StoreRewound:
        self._is_in_order = False
        self.failure = StoreRewound(
            f"{what}; nothing more is stored. Stop all processes that use {self._path!r}, put in place what is to "
            "stand there, and start again"
        )
        return self.failure


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _inode_of(path: str) -> Inode | None:
    """Return to what a name leads, or ``None`` if it leads to nothing.

    Raises:
        PermissionError: that may not be looked at.
    """
    try:
        return _inode(os.lstat(path))
    except PermissionError:
        raise
    except OSError:
        return None


def _schema_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])
