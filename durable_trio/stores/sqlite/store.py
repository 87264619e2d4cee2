"""``SqliteStore``: the contract of ``stores.contract`` on one SQLite file, or in memory.

Four connections. The *writer* applies batches; the *reader* answers what runs wait for, so that they never wait for a
commit; the *answerer* answers what people ask, so that runs never wait for that either; the *user's* one runs their
transaction steps (``user_connection``). In memory the writer is all of them but the last: a rollback-journal database,
which memory has, locks readers out while somebody writes.

Every write, wal checkpoint, migration and the last close happen in the write turn (``write_turn``). What is done to the
tables is in ``operations``, what is read from them in ``answers``; each has a table that says which function it is.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Final, Literal, TypeVar, cast

from durable_trio.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreReadOnly
from durable_trio.limits import FEED_ALONE_INTERVAL_SECONDS, FEED_INTERVAL_SECONDS
from durable_trio.processes import OWN_PROCESS
from durable_trio.stores.contract import Advance, Fence, Operation, Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.examination_questions import Examine
from durable_trio.stores.questions import ListExecutors, ListOpenSteps, ListUntold, OpenSteps, Question
from durable_trio.stores.sqlite.answers.cursors import read_point
from durable_trio.stores.sqlite.answers.examination import examine
from durable_trio.stores.sqlite.answers.executors import find_home
from durable_trio.stores.sqlite.answers.lists import Slice
from durable_trio.stores.sqlite.answers.table import ANSWERS, JUDGED, Answer, at_one_instant, whole
from durable_trio.stores.sqlite.connection import (
    BUSY_TIMEOUT_MS,
    open_connection,
    open_for_user,
    reading_anything,
    set_up_writer,
)
from durable_trio.stores.sqlite.executor_locks import ExecutorLocks
from durable_trio.stores.sqlite.files import naming_writers
from durable_trio.stores.sqlite.identity import Files, NoFiles, leave_open
from durable_trio.stores.sqlite.library import BUSY, LOCKED, code_of, is_undecodable, note_errno, sqlite3, translate
from durable_trio.stores.sqlite.lineage import Lineage
from durable_trio.stores.sqlite.liveness import is_locked
from durable_trio.stores.sqlite.neighbours import Neighbours, NoNeighbours
from durable_trio.stores.sqlite.opening import open_file, open_memory
from durable_trio.stores.sqlite.operations.removals import apply_apart
from durable_trio.stores.sqlite.operations.table import HANDLERS
from durable_trio.stores.sqlite.step_file import MemorySteps, StepFile, untold_of
from durable_trio.stores.sqlite.transaction import BEGIN, COMMIT, OPERATION_ERRORS, Transaction
from durable_trio.stores.sqlite.user_connection import UserConnection
from durable_trio.stores.sqlite.user_step import StoreFault, run_user_step, stores_own
from durable_trio.stores.sqlite.write_turn import WriteTurn
from durable_trio.stores.step_slots import StepSlots, open_steps

__all__ = ["SqliteStore"]

# How long a process that leaves waits for others, all in all. Closing goes on without the turn: others have the file
# open then, so that the close moves no pages.
_LEAVING_PATIENCE_SECONDS: Final = 5.0
# How long somebody who has met damage waits for his turn to find out whose it is; else he takes it for the disk's.
_JUDGING_PATIENCE_SECONDS: Final = 2.0

T = TypeVar("T")


class SqliteStore(Store):
    """A store in one SQLite file; ``":memory:"`` keeps it in this process's memory until it is closed.

    Args:
        path: the database. Beside it stand its log (``-wal``, ``-shm``) and lock files (``-turn``, ``-turn-queue``,
            ``-owners``) and ``-steps``, all readable by their owner only. The folder must exist. POSIX systems only,
            and a local file system: locks and shared memory do not work on network ones.
        durability: "full" (default) survives power loss; "normal" the death of the process, after a power loss
            the last commits may be missing. In memory it is "memory".

    Raises:
        ValueError: an unknown durability, or an empty path.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: str = "full") -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        name = os.fspath(path)
        if not name or "\0" in name:
            raise ValueError(f"{name!r} is no path of a file")
        self.is_memory = name == ":memory:"
        self.address = self.path = "" if self.is_memory else os.path.abspath(name)
        self._target = f"file:/durable-{uuid.uuid4()}?vfs=memdb" if self.is_memory else self.path  # that SQLite opens
        self.durability = "memory" if self.is_memory else durability
        self._name = name if self.is_memory else self.path  # for messages
        self._write_lock = threading.Lock()  # guards the writer
        self._read_lock = self._write_lock if self.is_memory else threading.Lock()
        self._answer_lock = self._write_lock if self.is_memory else threading.Lock()
        self.is_shared = self.may_block = self.answers_apart = not self.is_memory
        self._turn: WriteTurn
        self._locks: ExecutorLocks
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._answerer: sqlite3.Connection | None = None
        self._user_connection: UserConnection | None = None
        self._pid = 0
        self._lineage: Lineage
        self._has_foreign_changes = False
        self._busy_timeout_ms = BUSY_TIMEOUT_MS
        self._files: Files | NoFiles = NoFiles()
        self._neighbours: Neighbours | NoNeighbours = NoNeighbours()
        self._broken: StoreError | None = None
        self._steps = MemorySteps() if self.is_memory else StepFile(self.path, self._may_write_steps)

    # ---- open, close ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or create the database (see ``Store.open``)."""
        if self._writer is not None:
            self._usable()
            return
        opened = open_memory(self._target) if self.is_memory else open_file(self.path, self.durability)
        self._turn, self._locks, self._files = opened.turn, opened.locks, opened.files
        self._writer, self._reader, self._answerer = opened.writer, opened.reader, opened.answerer
        self._pid = OWN_PROCESS.pid
        self._busy_timeout_ms = BUSY_TIMEOUT_MS
        self._broken = None
        self._lineage = opened.lineage
        self._has_foreign_changes = False
        self._neighbours = NoNeighbours() if self.is_memory else Neighbours(self.path, self._locks)

    def close(self) -> None:
        """Close all connections, and release the locks of this store's executors (see ``Store.close``)."""
        if self._writer is None:
            return
        if self._pid != OWN_PROCESS.pid:
            self._writer = self._reader = self._answerer = self._user_connection = None
            return
        self._steps.close()
        self._neighbours.close()
        has_turn = False
        with suppress(StoreInUse):
            has_turn = self._turn.take(patience_seconds=_LEAVING_PATIENCE_SECONDS)
        try:
            if has_turn:
                self._files.check_leaving(self._writer)
                self._files.tell_others()
            self._files.close()
            with self._read_lock, nullcontext() if self.is_memory else self._answer_lock:
                for connection in (self._user_connection, self._answerer, self._reader, self._writer):
                    if connection is None:
                        continue
                    if self._files.was_overwritten:
                        leave_open(connection)
                        continue
                    with suppress(sqlite3.Error):
                        connection.close()
                self._writer = self._reader = self._answerer = self._user_connection = None
        finally:
            self._locks.close()  # in the turn: whoever has it next finds locks and log, or neither
            if has_turn:
                self._turn.release()
        self._turn.close()

    def _usable(self) -> sqlite3.Connection:
        """Return the writer's connection.

        Raises:
            StoreError: the store is not open, broken, or was carried over a fork.
        """
        if self._writer is None:
            raise StoreError(f"the store {self._name!r} is not open; call open() first")
        failure = self._broken or self._files.failure
        if failure is not None:
            raise type(failure)(f"the store failed before and must not be used on: {failure}")
        if self._pid != OWN_PROCESS.pid:
            raise StoreError(
                f"the store {self._name!r} was opened by process {self._pid} and does not work after a fork; "
                "open another one in this process, or start processes by exec"
            )
        return self._writer

    def _translate(self, error: sqlite3.Error, *, committing: bool = False, has_turn: bool = True) -> StoreError:
        """Return what an error means; in the turn also what somebody has done to the files, if it comes of that."""
        translated = translate(error, self._name, committing=committing)
        if has_turn and self._writer is not None and not isinstance(translated, StoreInUse | StoreFull | StoreReadOnly):
            translated = self._files.find_failure(self._writer) or translated
        if isinstance(translated, StoreCorrupt):
            self._broken = translated
        elif isinstance(translated, StoreInUse) and not self.is_memory:
            return naming_writers(translated, self.path)
        return translated

    def _translate_of_read(self, error: sqlite3.Error) -> StoreError:
        """Return what an error means that was met out of the turn. Call it without any lock."""
        note_errno(error)
        if self.is_memory or code_of(error) in (BUSY, LOCKED):
            return self._translate(error, has_turn=False)
        try:
            self._turn.take(patience_seconds=_JUDGING_PATIENCE_SECONDS)
        except StoreInUse:
            return self._translate(error, has_turn=False)
        try:
            with self._write_lock:
                return self._translate(error)
        finally:
            self._turn.release()

    # ---- writing -------------------------------------------------------------------------------------------------

    # Each step of a run passes here. So what has nothing to say (the files of a database in memory, the patience of a
    # process that is in no hurry) is not asked.
    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Commit a batch and return one outcome per operation (see ``Store.apply``)."""
        connection = self._writer
        if connection is None or self._broken or self._files.failure or self._pid != OWN_PROCESS.pid:
            connection = self._usable()  # which says why it is not
        for operation in batch:
            if type(operation) not in HANDLERS:
                raise TypeError(f"{type(operation).__name__} is no operation of a store")
        if not batch:
            return []
        turn, patience = self._turn, self._turn.patience
        if not (turn.take_free() or turn.take(block=block)):
            return None
        try:
            with self._write_lock:
                busy_timeout_ms = BUSY_TIMEOUT_MS if block else 0
                if busy_timeout_ms and patience.is_short:
                    busy_timeout_ms = patience.milliseconds(BUSY_TIMEOUT_MS)
                if busy_timeout_ms != self._busy_timeout_ms:
                    connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}").fetchall()
                    self._busy_timeout_ms = busy_timeout_ms
                outcomes, is_readable = None, True
                try:
                    outcomes = self._apply_once(connection, batch, block)
                except sqlite3.OperationalError as error:
                    if not is_undecodable(error):
                        raise
                    is_readable = False
                if not is_readable:
                    with reading_anything(connection):
                        outcomes = self._apply_once(connection, batch, block)
            if not self.is_memory:
                self._files.check_committed()
            return outcomes
        finally:
            turn.release()

    def _apply_once(self, connection: sqlite3.Connection, batch: Sequence[Operation], block: bool) -> list[Any] | None:
        lineage = self._lineage
        transaction = Transaction(cursor := connection.cursor(), cursor.execute, self._locks, self._begun)
        step, began = "begin", time.monotonic()
        apart: list[Any] = []  # outcomes that were committed one by one
        try:
            if not self.is_memory:
                self._files.check_content(connection)
            transaction.execute(BEGIN)
            step = "operations"
            if not self.is_memory and lineage.begun(transaction):
                self._notice()
            try:
                outcomes = []
                try:
                    for operation in batch:
                        outcomes.append(HANDLERS[type(operation)](transaction, operation))
                except OPERATION_ERRORS:
                    outcomes = transaction.apply_anew(HANDLERS, batch)
                if not self.is_memory:
                    lineage.leave_mark(transaction, batch, outcomes)
                step = "commit"
                transaction.execute(COMMIT)
                for executor in transaction.ended:
                    self._locks.release(executor)
                    self._steps.end(executor)
            except sqlite3.IntegrityError:
                transaction.roll_back()
                outcomes = apart
                try:
                    apply_apart(transaction, HANDLERS, batch, apart)
                finally:
                    lineage.committed_apart(transaction.change_committed)
            else:
                if not self.is_memory:
                    lineage.committed(transaction)
        except sqlite3.Error as error:
            note_errno(error)
            with suppress(sqlite3.Error):
                transaction.roll_back()
            if code_of(error) == BUSY:
                if not block and not apart:
                    return None
                self._turn.patience.spend(began)
            failure = None if is_undecodable(error) else self._translate(error, committing=step == "commit")
            if apart:  # these must be told; the others meet the error when they are submitted again
                return apart
            if failure is None:
                raise
            raise failure from error
        except BaseException:
            transaction.roll_back()
            raise
        finally:
            # In the frames of an error's traceback it would keep the connection open after close().
            cursor.close()
        return outcomes

    def hurry(self) -> None:
        """Wait for others only some seconds in all from now on (see ``Store.hurry``)."""
        if self._writer is not None:
            self._turn.hurry(_LEAVING_PATIENCE_SECONDS)

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        """Run a user's function and commit its rows with its ``Advance`` (see ``Store.transact``)."""
        writer = self._usable()
        self._turn.take()
        began = time.monotonic()
        connection: UserConnection | None = None
        try:
            with self._write_lock, stores_own():
                self._files.check_content(writer)
                if self.is_memory:  # it cannot be read while the user's transaction goes on
                    self._look_for_others()
            connection = self._take_user_connection()
            outcome, advance = run_user_step(
                connection, self._locks, fence, fn, seconds_max=seconds_max, begun=self._users_begun
            )
            self._files.check_committed()
            with self._write_lock, stores_own():  # the commit was that of another connection, but ours
                if outcome is True:
                    self._lineage.know(advance)
                    self._settle()
            if not connection.is_spent and self._writer is not None:
                self._user_connection = connection
            return outcome
        except StoreFault as fault:
            if code_of(fault.error) == BUSY:
                self._turn.patience.spend(began)
            raise self._translate(fault.error, committing=fault.committing) from fault.error
        finally:
            if connection is not None and self._user_connection is None:
                with suppress(sqlite3.Error):
                    connection.close()
            self._turn.release()

    def _take_user_connection(self) -> UserConnection:
        connection, self._user_connection = self._user_connection, None
        if connection is None:
            with stores_own():
                connection = open_connection(self._target, UserConnection, uri=self.is_memory, statements_max=0)
                set_up_writer(connection, self.durability)
        if (milliseconds := self._turn.patience.milliseconds(BUSY_TIMEOUT_MS)) != BUSY_TIMEOUT_MS:
            connection.allow_all()
            connection.execute(f"PRAGMA busy_timeout = {milliseconds}").fetchall()
        return connection

    def wal_checkpoint(self, mode: Literal["passive", "truncate"] = "passive") -> None:
        """Move the log into the database, in the write turn; passive: as far as nobody reads in it."""
        connection = self._usable()
        if mode not in ("passive", "truncate"):
            raise ValueError(f"mode must be 'passive' or 'truncate', not {mode!r}")
        if self.is_memory:
            return
        self._turn.take()
        try:
            with self._write_lock:
                self._files.check_content(connection)
                connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
                self._files.check_content(connection)  # so that others find a note of what the database holds now
        except sqlite3.Error as error:
            raise self._translate(error) from error
        finally:
            self._turn.release()

    tidy = wal_checkpoint

    def connect(self) -> sqlite3.Connection:
        """Return a new connection to the same database for the user; the user closes it.

        This is the one supported way to open the file in a process that has a store on it: it uses the same SQLite
        library. Foreign keys are on, a locked database is waited for (5 s), and the connection never moves the log:
        that is left to the write turn. A transaction that stays open keeps the store's own writes waiting.
        """
        self._usable()
        self._files.check_names()
        return open_for_user(self._target, uri=self.is_memory)

    # ---- noticing ------------------------------------------------------------------------------------------------

    def read_cursor(self, text: str) -> Cursor:
        """Return a cursor that was written down (see ``Store.read_cursor``)."""
        return read_point(text).cursor

    @property
    def poll_seconds(self) -> float:
        """How soon to look for commits of others (see ``Store.poll_seconds``)."""
        return FEED_INTERVAL_SECONDS if self._neighbours.are_there() else FEED_ALONE_INTERVAL_SECONDS

    @property
    def doorbell(self) -> int | None:
        """What rings when somebody comes (see ``Store.doorbell``)."""
        return self._neighbours.doorbell

    def foreign_changes(self) -> bool | None:
        """Return whether others have committed since this was last asked (see ``Store.foreign_changes``).

        SQLite changes a connection's data version when it sees a commit that is not that connection's own.
        """
        self._usable()
        self._files.check_names()
        if not self._write_lock.acquire(blocking=False):
            return None
        failure: sqlite3.Error | None = None
        try:
            self._look_for_others()
            if self._has_foreign_changes:  # who never writes is told here
                self._files.check_told()
        except sqlite3.Error as error:
            if code_of(error) == BUSY:
                return None
            failure = error
        finally:
            self._write_lock.release()
        if failure is not None:
            raise self._translate_of_read(failure) from failure
        has_changed, self._has_foreign_changes = self._has_foreign_changes, False
        return has_changed

    def _look_for_others(self) -> None:
        if self._lineage.has_moved_on():
            self._notice()

    def _begun(self, transaction: Transaction) -> None:
        """Look what others have done, in a transaction of the writer's."""
        self._lineage.committed_apart(transaction.change_committed)  # the one before it, in a batch done one by one
        if not self.is_memory and self._lineage.begun(transaction):
            self._notice()

    def _users_begun(self, _: Transaction) -> None:
        """Look what others have done, in a transaction of the user's."""
        if not self.is_memory:
            with self._write_lock:
                self._look_for_others()

    def _notice(self) -> None:
        """Another connection has committed: see that what was known is still there, and have the feed look.

        Raises:
            StoreRewound: it is not there.
        """
        self._settle()
        self._has_foreign_changes = True

    def _settle(self) -> None:
        lost = self._lineage.settle()
        if lost is not None:
            raise self._files.rewound(lost)

    def executor_is_alive(self, executor: int) -> bool:
        """Return whether the process of an executor is there, or that cannot be told."""
        return self._judge(executor, *self._answer(ListExecutors(), partial(find_home, executor=executor))) is not False

    def note_steps(self, executor: int) -> StepSlots | None:
        """Return where an executor of this store notes what it is executing (see ``Store.note_steps``)."""
        return self._steps.begin(executor)

    def _may_write_steps(self, executor: int) -> bool:
        return self._writer is not None and self.executor_is_alive(executor)

    # ---- reading -------------------------------------------------------------------------------------------------

    def ask(self, question: Question[T]) -> T:
        """Answer a question (see ``Store.ask``)."""
        if isinstance(question, ListOpenSteps):
            answer: Any = self._open_steps(question)
        elif isinstance(question, ListUntold):
            self._usable()
            answer = untold_of(self._steps.read(), question.executor)
        elif isinstance(question, Examine):
            answer = examine(self.connect(), question, self.path)
        elif (judged := JUDGED.get(type(question))) is not None:
            answer = self._answer(question, partial(judged, judge=self._judge))
        elif (function := ANSWERS.get(type(question))) is not None:
            answer = self._answer(question, function)
        else:
            raise TypeError(f"{type(question).__name__} is no question of a store")
        if isinstance(answer, Slice):
            answer = whole(answer, self._answer)
        return cast(T, answer)

    def _answer(self, question: Question[Any], function: Answer) -> Any:
        """Answer within one transaction, so that the answer is of one instant."""
        self._usable()
        try:
            with self._answer_lock if question.is_for_people else self._read_lock:
                connection = self._answerer if question.is_for_people else self._reader
                if connection is None:
                    raise StoreError(f"the store {self._name!r} was closed")
                self._files.check_names()
                try:
                    return at_one_instant(connection, function, question)
                except sqlite3.OperationalError as error:
                    if not is_undecodable(error):
                        raise
                with reading_anything(connection):
                    return at_one_instant(connection, function, question)
        except sqlite3.Error as error:
            raise self._translate_of_read(error) from error

    def _judge(self, executor: int, file: Any, boot: Any) -> bool | None:
        return is_locked(self._locks, executor, file, boot)

    def _open_steps(self, question: ListOpenSteps) -> OpenSteps:
        self._usable()
        regions = self._steps.read(question.run)
        alive = {region.executor: self.executor_is_alive(region.executor) for region in regions}
        return open_steps(regions, alive)
