"""Opening what comes out of a nursery: the ways to look into an exception group, and none beside them. Pure.

Each takes a lone exception as well, which is like a group of one.
"""

from __future__ import annotations

from typing import TypeVar

__all__ = ["error_text", "first", "part", "sole", "split_failure"]

E = TypeVar("E", bound=BaseException)


def sole(error: BaseException) -> BaseException:
    """Return what is in a group of one, however deep; anything else as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def part(error: BaseException, kind: type[E]) -> E | BaseExceptionGroup[E] | None:
    """Return what of an error is of a kind: itself, a group of what in it is, or ``None``."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kind)
    return error if isinstance(error, kind) else None


def first(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the first error of a kind, however deep; ``None`` if there is none."""
    found: BaseException | None = None if error is None else part(error, kind)
    while isinstance(found, BaseExceptionGroup) and not isinstance(found, kind):
        found = found.exceptions[0]
    return found if isinstance(found, kind) else None


def split_failure(raised: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Split what came out of a task into its failure and what is nobody's to keep: Cancelled, KeyboardInterrupt, …."""
    if isinstance(raised, Exception):
        return raised, None
    if isinstance(raised, BaseExceptionGroup):
        failure, rest = raised.split(Exception)
        return failure, rest
    return None, raised


def error_text(error: BaseException) -> str:
    """Write an error as the last line of a traceback does; of a group, the errors in it, which say more."""
    if isinstance(error, BaseExceptionGroup):
        return " + ".join(error_text(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
