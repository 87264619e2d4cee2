"""What decoding a failure raises, and the cause of what it gives back."""

from __future__ import annotations

from durable_trio.records import FailureRecord

__all__ = ["CannotRebuild", "StepTraceback", "cause_of"]


class CannotRebuild(Exception):
    """A recorded exception cannot be rebuilt here; ``type`` names the class to import or to allow."""

    def __init__(self, message: str, *, type: str) -> None:
        super().__init__(message)
        self.type = type


class StepTraceback(Exception):
    """The text of a recorded traceback, shown as the cause of the exception that was rebuilt."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0] if self.args else ""}"""'


def cause_of(error: BaseException | FailureRecord | None) -> BaseException | None:
    """Return a failure as the cause of what is raised because of it, so that its traceback is shown."""
    return StepTraceback(error.traceback) if isinstance(error, FailureRecord) else error
