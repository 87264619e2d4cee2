"""Users' exceptions on their way through trio's scopes and nurseries, which look at what they carry.

Trio formats what comes out of a nursery's task, asks it for its traceback, and splits groups by the methods that they
have; a raise from any of these ends the process, or leaves its stack of scopes broken. So an exception that cannot bear
a look is caught where it leaves the user's code, and another one is raised in its stead.
"""

from __future__ import annotations

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

__all__ = ["CARRYING", "carried", "exits_of", "logged"]

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


class _Carrying:
    """``with CARRYING:`` lets out of the block what trio can carry, and what says the same of anything else."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, cls: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        safe = carried(error)
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
