"""How children end, as data. Knows no trio: errors, events and reports all build on it."""

from __future__ import annotations

import enum

import attrs

from supervisors.groups import error_text

# What a program dies of by its own fault; other signals are somebody's, such as an operator's or the kernel's.
FAULTS = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})


class ExitKind(enum.Enum):
    """Why an incarnation of a child is over.

    Attributes:
        RETURNED: it came to its end by itself: the function returned, the process exited with code 0.
        CRASHED: it raised an exception, exited with another code, was killed, or was found hung.
        STOPPED: its supervisor asked it to stop, whatever it did then.
    """

    RETURNED = "returned"
    CRASHED = "crashed"
    STOPPED = "stopped"


@attrs.frozen(kw_only=True)
class ProcessExit:
    """What is known about the end of a process.

    Attributes:
        code: exit code, or None if a signal ended it.
        os_signal: name of the signal that ended it, such as ``"SIGKILL"``, or None.
        is_killed_by_supervisor: the signal was the supervisor's: it was hung, or did not end within its ``shutdown``
            seconds.
        is_out_of_memory: whether the kernel's out-of-memory killer was at work when it was killed; None if that cannot
            be known.
        stderr_tail: the last part of its standard error, at most ``stderr_bytes_max`` bytes.
    """

    code: int | None = None
    os_signal: str | None = None
    is_killed_by_supervisor: bool = False
    is_out_of_memory: bool | None = None
    stderr_tail: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether the program ended by its own doing: by a code, a fault, or as hung; not by somebody else's signal."""
        return self.os_signal is None or self.os_signal in FAULTS or self.is_killed_by_supervisor

    def __str__(self) -> str:
        reason = f"signal {self.os_signal}" if self.os_signal else f"code {self.code}"
        if self.is_killed_by_supervisor:
            reason += ", sent by its supervisor"
        if self.is_out_of_memory:
            reason += ", probably out of memory"
        return reason


@attrs.frozen(kw_only=True)
class Exit:
    """The end of one incarnation of a child.

    Attributes:
        error: what it raised. With ``kind`` STOPPED: what it raised while it was being stopped.
        process: for a ``Process`` child: how the process ended.
    """

    kind: ExitKind
    error: Exception | None = None
    process: ProcessExit | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.kind.value}: {error_text(self.error)}"
        return f"{self.kind.value} ({self.process})" if self.process is not None else self.kind.value
