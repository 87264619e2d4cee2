"""The options of a step, as the user gives them and as its call takes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import CoroutineType, FunctionType
from typing import Any, Final, Generic, TypedDict, TypeVar

import attrs

from durable_trio.clock import seconds_of
from durable_trio.codec import UNANNOTATED
from durable_trio.looks import exact_bool, is_a, look, short
from durable_trio.options import check_options
from durable_trio.policies import Retry
from durable_trio.signatures import return_annotation

__all__ = ["ARGUMENTS", "NO_RETRY", "PLAIN", "FunctionOptions", "StepOptions", "TransactionOptions", "function_options"]

#: What a function returns, and its compensation takes.
T_contra = TypeVar("T_contra", contravariant=True)

#: What positional arguments of such calls are, for errors.
ARGUMENTS: Final = "arguments of the function"
NO_RETRY: Final = Retry.none()


@attrs.frozen(kw_only=True)
class FunctionOptions:
    """How a function is run."""

    retry: Retry = NO_RETRY
    timeout: float | None = None
    at_most_once: bool = False
    abandon: bool = False
    returns: Any = UNANNOTATED
    compensates: bool = False


#: What was found of functions that were called without options. Most are, again and again.
PLAIN: Final[dict[FunctionType, FunctionOptions]] = {}


class TransactionOptions(TypedDict, Generic[T_contra], total=False):
    """The keyword options of ``ctx.transaction``; see there."""

    retry: Retry | None
    timeout: float | timedelta | None
    compensate: Callable[[T_contra], Any] | None
    compensate_retry: Retry | None
    returns: Any


class StepOptions(TransactionOptions[T_contra], Generic[T_contra], total=False):
    """The keyword options of ``ctx.step``; see there."""

    at_most_once: bool
    abandon: bool


# By call: what it takes, and an example.
_CALL: Final = ("a name, a function, then its arguments", "{}('charge', charge, order)")
_CALLS: Final = {"ctx.map": ("a name, a function, then the items", "{}('load', load, numbers)")}


def how_called(what: str) -> str:
    """Return how a call is written, as the beginning of an error's text."""
    return f"{what} takes {_CALLS.get(what, _CALL)[0]}"


def function_options(what: str, fn: Callable[..., object], options: StepOptions[Any]) -> FunctionOptions:
    if fn is None:
        raise TypeError(f"{how_called(what)}, as {_CALLS.get(what, _CALL)[1].format(what)}")
    if not callable(fn):
        if type(fn) is CoroutineType:
            fn.close()  # else Python warns of it as well
        raise TypeError(
            f"{how_called(what)}; {short(fn)} is no function: give the function itself, and do not call it yourself"
        )
    if not options:  # most name none
        returns = return_annotation(fn) if type(fn) is FunctionType else _returned(fn)
        chosen = _UNANNOTATED if returns is UNANNOTATED else FunctionOptions(returns=returns)
        if type(fn) is FunctionType and _may_be_remembered(fn):
            if len(PLAIN) >= _PLAIN_MAX:
                PLAIN.clear()
            PLAIN[fn] = chosen
        return chosen
    check_options(what, options, StepOptions.__annotations__, arguments=ARGUMENTS)
    retry, timeout, returns = options.get("retry"), options.get("timeout"), options.get("returns")
    for name, value in (("retry", retry), ("compensate_retry", options.get("compensate_retry"))):
        if value is not None and not is_a(value, Retry):
            raise TypeError(f"{what}: {name} must be a Retry, such as Retry.fixed(3, 1), not {short(value)}")
    compensate = options.get("compensate")
    if compensate is not None and not callable(compensate):
        raise TypeError(f"{what}: compensate must be a function, not {short(compensate)}; do not call it yourself")
    at_most_once = exact_bool(options.get("at_most_once", False), what=f"{what}: at_most_once")
    if at_most_once and retry is not None and retry.max_attempts > 1:
        raise ValueError(f"{what}: at_most_once and retry contradict each other")
    return FunctionOptions(
        retry=retry or NO_RETRY,
        timeout=None if timeout is None else seconds_of(timeout, what="timeout"),
        at_most_once=at_most_once,
        abandon=exact_bool(options.get("abandon", False), what=f"{what}: abandon"),
        returns=_returned(fn) if returns is None else returns,
        compensates=compensate is not None,
    )


def _returned(fn: Callable[..., object]) -> Any:
    """Return the annotated result type of a function; of an object that does not let itself be asked, none."""
    if type(fn) is FunctionType:
        return return_annotation(fn)
    return look(return_annotation, fn, instead=lambda _: UNANNOTATED)


def _may_be_remembered(fn: FunctionType) -> bool:
    """Return whether what was found of a function stays true, and nothing is kept alive with it.

    What wraps a function leaves its mark in its dict. One that is made at each call may hold what it likes.
    """
    return not (fn.__dict__ or fn.__closure__ or fn.__defaults__ or fn.__kwdefaults__)


_UNANNOTATED: Final = FunctionOptions()
_PLAIN_MAX: Final = 1024
