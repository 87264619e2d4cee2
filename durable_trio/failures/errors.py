"""What decoding a failure raises, and the cause of what it gives back."""

from __future__ import annotations

__all__ = ["CannotRebuild", "StepTraceback"]


class CannotRebuild(Exception):
    """A recorded exception cannot be rebuilt here; ``type`` names the class to import or to allow."""

    def __init__(self, message: str, *, type: str) -> None:
        super().__init__(message)
        self.type = type


class StepTraceback(Exception):
    """The text of a recorded traceback, shown as the cause of the exception that was rebuilt."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0] if self.args else ""}"""'
