"""Users' exceptions on their way through trio's scopes and nurseries, which look at what they carry.

Trio formats what comes out of a nursery's task, asks it for its traceback, and splits groups by the methods that they
have; a raise from any of these ends the process, or leaves its stack of scopes broken. So an exception that cannot bear
a look is caught where it leaves the user's code, and another one is raised in its stead.

So is ``trio.Cancelled`` where nothing is cancelled, as code raises it that has kept one (a cache of outcomes does). No
scope takes it on its way, up to a nursery, which takes it for the end of a task that it has cancelled itself: whatever
was to come of that task would be lost without a word.
"""

from __future__ import annotations

import math
from traceback import format_exception
from typing import Any, Final, cast

import trio

from durable_trio import limits
from durable_trio.errors import Detached, StepFailed
from durable_trio.failures.tracebacks import trace
from durable_trio.looks import (
    bears_a_look,
    clean,
    is_a,
    leaves,
    look,
    message_of,
    qualified_name,
    text_of,
    traceback_of,
)

__all__ = ["CARRYING", "carried", "exits_of", "is_cancelled", "logged", "without_strays"]

# What stands for an exception of a class derived from one of these, which is no Exception.
_BASES: Final = (SystemExit, KeyboardInterrupt, GeneratorExit, BaseException)


def carried(error: BaseException) -> BaseException:
    """Return an exception that trio can carry: itself, or one that says the same.

    ``StepFailed`` stands for an ``Exception``; for what ends the program its nearest built-in base does. Of a group the
    shape is lost, and nothing else.
    """
    if type(error) is trio.Cancelled or (bears_a_look(error) and all(map(_speaks, leaves(error)))):
        return error
    if not is_a(error, BaseExceptionGroup):
        return _stand_in(error)
    group = cast(BaseExceptionGroup[Any], error)
    members = [carried(leaf) for leaf in leaves(group)]
    return BaseExceptionGroup(clean(message_of(group)), members).with_traceback(traceback_of(group))


def _speaks(leaf: BaseException) -> bool:
    """Whether the ``str()`` of what ends the program, which will be printed, can be made."""
    return is_a(leaf, Exception) or look(str, leaf, instead=lambda _: None) is not None


def logged(error: BaseException) -> BaseException:
    """Return an exception for ``exc_info``: itself, or one that says the same.

    The text of its traceback is made by those, too, that were raised before it.
    """
    made = look(format_exception, error, instead=lambda _: None)
    return error if made is not None else _stand_in(error)


def is_cancelled() -> bool:
    """Whether a scope around the calling task is cancelled, so that a ``trio.Cancelled`` in it is no stray."""
    return trio.current_effective_deadline() == -math.inf


def without_strays(error: BaseException, *ways_out: type[BaseException]) -> BaseException:
    """Return an exception in which a failure stands for each of those classes that nobody has asked for.

    Args:
        ways_out: what would be lost on its way: ``trio.Cancelled`` where no scope is cancelled, ``Detached`` of a run
            that does not leave. Of a group that has one, the shape is lost.
    """
    found = leaves(error)
    if not any(is_a(leaf, ways_out) for leaf in found):
        return error
    failures = [_stray(leaf) if is_a(leaf, ways_out) else carried(leaf) for leaf in found]
    if not is_a(error, BaseExceptionGroup):
        return failures[0]
    return BaseExceptionGroup(clean(message_of(cast(BaseExceptionGroup[Any], error))), failures)


def _stray(leaf: BaseException) -> Exception:
    return StepFailed(
        f"{qualified_name(type(leaf))} was raised where nothing was to end: it is not to be kept, nor raised by hand "
        f"({text_of(leaf)})",
        type=qualified_name(type(leaf)),
        traceback=trace(leaf, limits.TRACEBACK_CHARACTERS_MAX),
    )


class _Carrying:
    """``with CARRYING:`` lets out of the block what trio can carry, and what says the same of anything else."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, cls: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        safe = carried(error)
        if not is_a(safe, Exception) and not is_cancelled():
            safe = without_strays(safe, trio.Cancelled)
        if safe is not error:
            try:
                raise safe
            finally:
                safe.__context__ = None  # the other one must not be looked at by way of this one


CARRYING: Final = _Carrying()


def _stand_in(error: BaseException) -> BaseException:
    text = clean(text_of(error))
    if is_a(error, Exception):
        name = clean(qualified_name(type(error)))
        return StepFailed(text, type=name, traceback=trace(error, limits.TRACEBACK_CHARACTERS_MAX))
    base = next(base for base in _BASES if is_a(error, base))
    if base is SystemExit:
        code = look(vars(SystemExit)["code"].__get__, error, instead=lambda _: 1)
        return SystemExit(code if code is None or type(code) is int else text)
    return base(f"{qualified_name(type(error))}: {text}")


def exits_of(error: BaseException) -> list[BaseException]:
    """Return what of it ends the program, raised by a user's code: neither a failure nor trio's or our own way out."""
    return [leaf for leaf in leaves(error) if not is_a(leaf, (Exception, trio.Cancelled, Detached))]
