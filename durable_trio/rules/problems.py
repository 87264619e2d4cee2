"""Why a run is parked, in one word each: ``record().problem.kind``. The page on operations says what to do."""

from __future__ import annotations

import enum

__all__ = ["ProblemKind"]


class ProblemKind(enum.StrEnum):
    """All kinds of problems; users get the value."""

    DIVERGENCE = "divergence"
    FOREIGN_WAIT = "foreign_wait"
    CODEC = "codec"
    ARGUMENTS = "arguments"
    EXCEPTION = "exception"
    INTERNAL_ERROR = "internal_error"
    DAMAGED = "damaged"
