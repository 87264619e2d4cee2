"""The one seam between the engine and a database: every verb, and what each promises.

What is written is a value (``stores.operations``), and so is what is read (``stores.questions``).

A store is synchronous and batch-shaped. It owns its connection, its locks and its schema; it must not know trio,
workflows or codecs: payloads are JSON text, instants are microseconds, runs are small integers.

Writing is one pure verb: ``apply(batch)`` takes operations in order and returns one outcome for each, in the same
order, all committed in one transaction. A batch cannot fail for one of its operations: an operation that is refused
(stale fence, unknown run, conflict) changes nothing, its outcome is the error *as a value*, and the others stand. What
concerns the whole store (full disk, I/O error, foreign writer) is raised, and then nothing of the batch is committed,
except where the error says that the commit is in doubt.

A run's writes carry a ``Fence``: they take effect only if ``owner`` and ``token`` are still those of the run, and the
executor has not ended; it is checked in the same transaction. Otherwise the outcome is ``OwnershipLost`` and nothing
of that operation is written.

Which status of a run may follow which is one table (``rules.run_life``). An operation that would bring about another is
refused with ``RunConflict``.

A row that cannot be read, because the store was damaged, is never an error of a read: the record says so in ``damage``.
An operation that meets a damaged run parks it (suspended, unowned, due at no time, with a problem) where it would
have changed it, and goes on with the others.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from durable_trio.limits import FEED_INTERVAL_SECONDS
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.executor_operations import (
    ForgetDeadCodes,
    PutOpenSteps,
    PutReport,
    ReapExecutor,
    RegisterExecutor,
    RenewLease,
    TellDeath,
)
from durable_trio.stores.operations import (
    NO_POSITION,
    Abandoned,
    AbandonRun,
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    Fence,
    Finish,
    Operation,
    ParkDamaged,
    Refuse,
    Refused,
    Release,
    RequestCancel,
    ResumeRun,
    SendSignal,
    Sent,
    SignalWithStart,
    Started,
    StartRun,
)
from durable_trio.stores.piece_operations import (
    CopyHistory,
    CutHistory,
    DeleteRun,
    Draft,
    ForkRun,
    Prune,
    Pruned,
    Stuck,
    Sweep,
    TooLong,
)
from durable_trio.stores.questions import Question
from durable_trio.stores.step_slots import StepSlots

__all__ = [
    "NO_POSITION",
    "AbandonRun",
    "Abandoned",
    "Advance",
    "ClaimDue",
    "ClaimRun",
    "ContinueAsNew",
    "CopyHistory",
    "CutHistory",
    "DeleteRun",
    "Draft",
    "Fence",
    "Finish",
    "ForgetDeadCodes",
    "ForkRun",
    "Operation",
    "ParkDamaged",
    "Prune",
    "Pruned",
    "PutOpenSteps",
    "PutReport",
    "ReapExecutor",
    "Refuse",
    "Refused",
    "RegisterExecutor",
    "Release",
    "RenewLease",
    "RequestCancel",
    "ResumeRun",
    "SendSignal",
    "Sent",
    "SignalWithStart",
    "StartRun",
    "Started",
    "Store",
    "Stuck",
    "Sweep",
    "TellDeath",
    "TooLong",
]

T = TypeVar("T")


class Store(abc.ABC):
    """A database that keeps runs. One instance belongs to one process; ``apply`` is called by one thread at a time.

    ``ask`` may be called from one other thread at the same time as ``apply``.
    """

    #: Whether questions that only people ask may be asked from a third thread at the same time.
    answers_apart: bool = False
    #: Where it is, as another process opens it, with the password of a URL; empty if only this process can.
    address: str = ""
    #: Of its SQLite file, which others open as one; empty if it has none, or is a store of another kind.
    path: str = ""
    #: Whether other processes may have it open as well. If not, it forgets everything when it is closed.
    is_shared: bool = True
    #: Whether a call may wait, for a disk or for others: then it is called in a thread.
    may_block: bool = True
    #: "full", "normal" or "memory".
    durability: str = "full"
    #: Whether the database has a clock of its own: then that is the wall clock of all machines that use it.
    has_clock: bool = False
    #: How many threads may call ``transact`` at the same time, and while another applies; 0: only the one that applies.
    transact_concurrency: int = 0
    #: Whether executors tell it now and then which steps they are executing (``PutOpenSteps``), because it has no place
    #: to note them at once (``note_steps``).
    takes_open_steps: bool = False

    @abc.abstractmethod
    def open(self) -> None:
        """Open or create the database and bring its schema up to date. Twice is nothing.

        Raises:
            StoreError: a subclass that names what is wrong with the database, which is unchanged then.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close all connections, and release every lock of this store's executors. Twice is nothing."""

    @abc.abstractmethod
    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Commit a batch and return one outcome per operation (module docstring).

        A batch that the database refuses as a whole is committed one operation at a time. If the store then meets an
        error after the first of these commits, it returns the outcomes of what it has committed, fewer than there are
        operations: the others have written nothing and are submitted again, in their order, and meet the error if it
        lasts. Only an error of the whole store leaves that open.

        ``block=False``: return ``None``, with nothing done, rather than wait for others. A store may always do that.

        Raises:
            StoreFull: nothing is committed; the same batch may be tried again.
            StoreInUse: somebody else held the database longer than patience; nothing is committed.
            StoreAway: it cannot be reached, and it is not known whether this was committed. The same operations in the
                same order are applied again, however often; the store sees to it that they are applied once, and gives
                the outcomes of that time. Others before them: ``ValueError``, and nothing is done.
            StoreReadOnly: nothing is committed, and nothing will be: whoever uses it stops.
            StoreCorrupt: I/O error or damage; the commit may be in doubt, the store must not be used on.
        """

    def renew_meanwhile(self, executor: int) -> bool | None:
        """Renew a lease from a thread that has nothing else to do, while another one may apply or be stuck in it.

        It is as ``RenewLease``, and takes a moment: ``None`` rather than wait for others. A store that can do nothing
        at once in ``apply`` has a way of its own, else who blocks the event loop for a lease's time loses all runs.

        Raises:
            StoreError: as ``apply`` does.
        """
        renewed = self.apply([RenewLease(executor=executor)], block=False)
        return None if renewed is None else bool(renewed[0])

    def hurry(self) -> None:  # noqa: B027  # a store that never waits for others has nothing to do
        """Wait for others only some seconds from now on, until it is opened again: this process is leaving."""

    @abc.abstractmethod
    def transact(
        self,
        fence: Fence,
        fn: Callable[[Any], Advance],
        *,
        seconds_max: float,
    ) -> Any:
        """Run a user's function and commit its rows and the ``Advance`` that it returns in one transaction.

        ``fn(connection)`` gets a connection of its own kind: no transaction control, and no writes to the engine's
        tables. It finds nothing that another one has left in the connection. With ``transact_concurrency`` 0 it runs
        alone: nobody else writes meanwhile. If it raises, all is rolled back and the exception comes out; so does
        ``OwnershipLost``, checked before ``fn`` is called and again at the end. ``StepTimeout`` after ``seconds_max``;
        ``StepFailed`` if it has spoilt its transaction, as by having the database roll it back. An error of the store's
        is that also if ``fn`` has met it and swallowed it, or raised it as another. Outcome as of ``Advance``.

        After ``StoreAway`` the same ``fn`` is given again, or one that equals it, and is committed once; it is called
        again only if it was not committed. A store that wraps ``fn`` for another one does so in something that compares
        equal each time.
        """

    @abc.abstractmethod
    def connect(self) -> Any:
        """Return a new connection to the same database for the user; the user closes it."""

    @abc.abstractmethod
    def read_cursor(self, text: str) -> Cursor:
        """Return a cursor that was written down. Asks nobody: whether the store knows the point shows when it is used.

        Raises:
            ValueError: a store of this kind has never written such a text; the message shows how one looks.
        """

    @property
    def doorbell(self) -> int | None:
        """A descriptor that becomes readable when others may have committed something, or may be about to.

        Whoever waits for it reads it empty. ``None``: there is none just now. Look at it anew after ``poll_seconds``.
        """
        return None

    @property
    def poll_seconds(self) -> float:
        """How long to wait for the bell at most, before it is looked whether others have committed.

        Short where nothing rings for each of their commits: that they are noticed within 50 ms is promised.
        """
        return FEED_INTERVAL_SECONDS

    @property
    def doubt_seconds(self) -> float:
        """For how long the process of an executor must be seen to have ended (``ExecutorRow``) until it is past doubt.

        0 where the kernel tells. A server knows only that a connection has ended: another one may be on its way.
        """
        return 0.0

    def foreign_changes(self) -> bool | None:
        """Return whether others have committed since this was last asked; ``None`` if it cannot be told just now.

        Own commits do not count. It costs microseconds: it is asked on the event loop, perhaps many times a second. A
        store that would have to ask somebody says that they have, and it is looked.
        """
        return True

    def read_clock(self) -> int:
        """Return the present by the database's own clock, in microseconds since 1970 UTC; see ``has_clock``.

        It is read after ``open``, and once a minute, by a thread of its own.

        Raises:
            StoreAway: it cannot be reached; what was told before still goes.
        """
        raise NotImplementedError

    def note_steps(self, executor: int) -> StepSlots | None:
        """Return where that executor of this store notes which steps it is executing; ``None``: nowhere.

        It is asked once, by a thread of its own where calls may block. What is noted outlives the process, and
        ``ListOpenSteps`` tells it. It is there until the executor has ended, or the store is closed. Never raises.
        Where there is none, the executor notes them in its own memory, and others know what it reports
        (``takes_open_steps``), or nothing.
        """
        return None

    @abc.abstractmethod
    def ask(self, question: Question[T]) -> T:
        """Answer a question (see ``stores.questions``).

        Each answer is of one instant, and never of half a batch. Only a list that people ask for, and that takes long,
        may be made of several instants.

        Raises:
            StoreInUse: somebody else held the database for too long; ask again.
            StoreAway: it cannot be reached; ask again.
            StoreCorrupt: I/O error or damage; the store must not be used on.
            TypeError: it is no question that this store knows.
        """

    def tidy(self) -> None:  # noqa: B027  # a store that leaves nothing behind has nothing to do
        """Do what the database wants done from time to time, such as moving a log; called by the one who applies."""
