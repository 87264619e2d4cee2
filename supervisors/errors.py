"""The whole hierarchy of errors. Fields say which supervisor or child; messages say what to do."""

from __future__ import annotations

from supervisors.exits import ProcessExit


def path_text(path: tuple[str, ...]) -> str:
    """Write the place of a supervisor or child in its tree as one would say it."""
    return "/".join(path)


class SupervisorError(Exception):
    """Base class of every error of this package."""


# What a supervisor fails with; these leave its block in an ExceptionGroup.


class RestartIntensityExceeded(SupervisorError):
    """Children had to be restarted more often than the supervisor's ``Intensity`` allows.

    ``__cause__`` is the error of the child that crashed last, if it had one.
    """

    def __init__(self, path: tuple[str, ...], child: str, restarts: int, per_seconds: float) -> None:
        spent = f"{restarts} restarts within {per_seconds:g} s were already used up"
        if restarts <= 1:
            spent = f"1 restart within {per_seconds:g} s was already used up" if restarts else "no restart is allowed"
        super().__init__(f"supervisor {path_text(path)!r} gave up: child {child!r} ended, and {spent}")
        self.path = path
        self.child = child
        self.restarts = restarts
        self.per_seconds = per_seconds


class UnstoppedChild(SupervisorError):
    """A child was still running when the time it has to stop was over.

    It is not replaced, its supervisor fails, and so does every supervisor above. A task cannot be killed:
    the block of the root supervisor is left only when the task has ended after all.
    """

    def __init__(self, path: tuple[str, ...], shutdown_seconds: float) -> None:
        super().__init__(
            f"child {path_text(path)!r} did not stop within {shutdown_seconds:g} s after it was cancelled; "
            f"look for a shielded scope, a thread or a blocking call in it, or raise its shutdown= time"
        )
        self.path = path
        self.shutdown_seconds = shutdown_seconds


# What a caller of a supervisor gets.


class SupervisorClosed(SupervisorError):
    """The supervisor is stopping or has stopped; it takes no requests any more."""

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(f"supervisor {path_text(path)!r} is stopping or has stopped")
        self.path = path


class ChildNotFound(SupervisorError, LookupError):
    """The supervisor has no child of that name (any more: a temporary child is forgotten when it ends)."""

    def __init__(self, path: tuple[str, ...], child: str, known: tuple[str, ...] = ()) -> None:
        hint = f"; it has {', '.join(map(repr, known))}" if known else ""
        super().__init__(f"supervisor {path_text(path)!r} has no child {child!r}{hint}")
        self.path = path
        self.child = child


class ChildRunning(SupervisorError):
    """The child runs, or waits for its restart; ``terminate_child`` it first."""

    def __init__(self, path: tuple[str, ...], child: str) -> None:
        super().__init__(f"child {child!r} of supervisor {path_text(path)!r} is running; terminate it first")
        self.path = path
        self.child = child


class TooManyChildren(SupervisorError):
    """A dynamic supervisor has ``children_max`` children already."""

    def __init__(self, path: tuple[str, ...], children_max: int) -> None:
        super().__init__(f"supervisor {path_text(path)!r} has {children_max} children already, its max_children")
        self.path = path
        self.children_max = children_max


# What a process child crashes with.


class ProcessError(SupervisorError):
    """Base class of what goes wrong with a ``Process`` child; ``exit`` tells how it ended."""

    def __init__(self, message: str, name: str, exit: ProcessExit) -> None:
        tail = exit.stderr_tail.rstrip()
        super().__init__(f"{message}\n{tail}" if tail else message)
        self.name = name
        self.exit = exit


class ProcessFailed(ProcessError):
    """The process exited with a code other than 0, was ended by a signal, or ended before it was ready."""

    def __init__(self, name: str, exit: ProcessExit, *, is_ready: bool = True) -> None:
        super().__init__(f"process {name!r} ended{'' if is_ready else ' before it was ready'}: {exit}", name, exit)


class ProcessNotReady(ProcessError):
    """The process did not call ``ready()`` within its ``ready_within`` seconds, and was killed."""

    def __init__(self, name: str, exit: ProcessExit, seconds: float) -> None:
        super().__init__(f"process {name!r} was not ready within {seconds:g} s", name, exit)
        self.seconds = seconds


class ProcessUnresponsive(ProcessError):
    """No heartbeat came within ``heartbeat_within`` seconds: the process was stopped or spinning, and was killed."""

    def __init__(self, name: str, exit: ProcessExit, seconds: float) -> None:
        super().__init__(f"process {name!r} sent no heartbeat for {seconds:g} s", name, exit)
        self.seconds = seconds
