"""The whole hierarchy of errors, and nothing else but which of them pass.

One base class, ``DurableError``; subclasses say whose fault it is. Fields are keyword-only attributes that a
program may read; the message says what happened, to which thing, and what to do about it.
``Detached`` is not an error of anybody: it ends the stay of a run in this process and must never be caught.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from durable_trio.records import FailureRecord

__all__ = [
    "CodecError",
    "CompensationFailed",
    "Detached",
    "DurableError",
    "MailboxFull",
    "NonDeterminismError",
    "NotADatabase",
    "OwnershipLost",
    "PayloadTooLarge",
    "RunCancelled",
    "RunConflict",
    "RunExpired",
    "RunFailed",
    "RunFinished",
    "RunNotFound",
    "SchemaTooNew",
    "SignalTimeout",
    "StepFailed",
    "StepInterrupted",
    "StepTimeout",
    "StoreAway",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreReadOnly",
    "StoreRewound",
    "UnknownWorkflow",
    "WorkerFailed",
]


class DurableError(Exception):
    """Base class of every error that this library raises."""


class _RunError(DurableError):
    """An error about one run; ``run_id`` names it."""

    def __init__(self, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunNotFound(_RunError):
    """No run has this id in this store."""


class RunConflict(_RunError):
    """What was asked contradicts what is stored: another run, signal or state has this id."""


class RunFinished(_RunError):
    """The run is in a final status and takes no more signals."""


class MailboxFull(_RunError):
    """The run has as many unread signals as a run may have; send again once it has taken some."""


class _RunEndError(_RunError):
    """A run ended without a result.

    ``compensation_errors`` are those of its compensations that failed, in the order in which they ran, the first
    thousand; set where ``result()`` raises it, and ``()`` where a workflow gets it from a child.
    """

    compensation_errors: tuple[CompensationFailed, ...] = ()


class RunFailed(_RunEndError):
    """The run failed. ``error`` is the exception, or its record where it cannot be rebuilt."""

    def __init__(
        self, message: str, *, run_id: str | None = None, error: BaseException | FailureRecord | None = None
    ) -> None:
        super().__init__(message, run_id=run_id)
        self.error = error


class RunCancelled(_RunEndError):
    """The run was cancelled. ``reason`` is what ``cancel`` was given.

    ``abandoned``: by ``engine.abandon``, without its code; then its steps are not undone.
    """

    abandoned: bool = False  # of those that were stored before there was such a thing

    def __init__(
        self, message: str, *, run_id: str | None = None, reason: str | None = None, abandoned: bool = False
    ) -> None:
        super().__init__(message, run_id=run_id)
        self.reason = reason
        self.abandoned = abandoned


class RunExpired(_RunEndError):
    """The run's time to live was over before it ended."""


class _StepError(DurableError):
    """An error about one step; ``step`` is its key in text, ``run_id`` its run."""

    def __init__(self, message: str, *, step: str | None = None, run_id: str | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.run_id = run_id


class StepFailed(_StepError):
    """Stands for a step's exception that cannot be given back as itself.

    ``type`` is the original's qualified name, ``message`` its text, ``traceback`` the formatted traceback.
    """

    def __init__(
        self,
        message: str,
        *,
        type: str = "",
        traceback: str = "",
        step: str | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__(message, step=step, run_id=run_id)
        self.type = type
        self.message = message
        self.traceback = traceback


class StepInterrupted(_StepError):
    """A step with ``at_most_once=True`` had begun when the process died; whether it took effect is not known."""


class StepTimeout(trio.TooSlowError, _StepError):
    """A step's function took longer than its ``timeout``."""


class SignalTimeout(trio.TooSlowError, _StepError):
    """No signal of that name arrived in time."""


class CompensationFailed(_StepError):
    """A compensation raised; the others ran all the same. Found in ``compensation_errors`` of what ``result()`` raises.

    ``step`` is the key of the step that it should have undone, ``error`` what it raised, as in ``RunFailed``.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str | None = None,
        run_id: str | None = None,
        error: BaseException | FailureRecord | None = None,
    ) -> None:
        super().__init__(message, step=step, run_id=run_id)
        self.error = error


class NonDeterminismError(_RunError):
    """The code does not do what the history says. ``diff`` shows both side by side."""

    def __init__(self, message: str, *, run_id: str | None = None, diff: str = "") -> None:
        super().__init__(message, run_id=run_id)
        self.diff = diff


class CodecError(DurableError):
    """A value cannot be stored, or read back, without being changed.

    ``where`` names the step, argument or result; ``path`` the place inside the value; ``type`` the type asked for.
    """

    def __init__(self, message: str, *, where: str = "", path: str = "", type: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.path = path
        self.type = type


class PayloadTooLarge(CodecError):
    """An encoded value is longer than ``payload_bytes_max``; store a reference to it instead."""


class UnknownWorkflow(_RunError):
    """The engine was given no workflow of this name."""


class WorkerFailed(DurableError):
    """Worker processes cannot serve: the application cannot be imported, or ends as soon as it is started."""


class StoreError(DurableError):
    """The store could not do what was asked. Nothing that was acknowledged is lost."""


class SchemaTooNew(StoreError):
    """A newer version of this library has written the database; upgrade this one."""


class NotADatabase(StoreError):
    """The path is a directory, another program's file, or no database at all. It was not changed."""


class StoreAway(StoreError):
    """The database cannot be reached now. It is tried again, and nothing runs twice because of it.

    ``in_doubt``: whether what was asked for has perhaps happened all the same. To ask for the same again, with the same
    id, is safe.
    """

    def __init__(self, message: str, *, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


class StoreFull(StoreError):
    """The disk, or the database, is full. Free some room: nothing runs twice because of it."""


class StoreReadOnly(StoreError):
    """The database does not allow writing; of a file, perhaps its folder or its file system does not."""


class StoreCorrupt(StoreError):
    """The database is damaged, or could not be read or written; the process must not go on with it."""


class StoreRewound(StoreError):
    """The database is not the one that was opened, or an earlier state of it: what was acknowledged may be missing.

    Files were removed, moved, replaced or cut short, or a copy was written over them: then what was acknowledged since
    it was made is gone. The process must not go on with them. Nothing was acknowledged that was not in the database
    that was opened.
    """


class StoreInUse(StoreError):
    """Another process holds the database and does not let go, or serves it with an earlier version."""


#: What passes by itself: whoever has nobody to tell tries again.
PASSING: Final = (StoreFull, StoreInUse, StoreAway)


class OwnershipLost(StoreError):
    """Another executor owns the run, or this executor was declared dead; nothing was written."""


class Detached(BaseException):
    """The run leaves this process: shutdown, passivation, lost ownership. Never catch it.

    Durable calls raise it once the run is detached and write nothing; the run goes on elsewhere from its last
    committed row. The tasks of a body that catches it again and again are abandoned.
    """
