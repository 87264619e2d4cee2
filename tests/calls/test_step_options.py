"""What is found of a step's function is found once, and keeps nothing alive."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from durable_trio import Retry
from durable_trio.calls.step_options import PLAIN, function_options


class Held:
    """Something that a function may hold."""


def a_closure(held: Held) -> Callable[..., Any]:
    return lambda: held


def a_default(held: Held) -> Callable[..., Any]:
    return lambda given=held: given


def a_named_default(held: Held) -> Callable[..., Any]:
    def fn(*, given=held):  # type: ignore[no-untyped-def]
        return given

    return fn


def an_annotated_closure(held: Held) -> Callable[..., Any]:
    def fn() -> Decimal:
        return Decimal(id(held))

    return fn


def an_annotated_default(held: Held) -> Callable[..., Any]:
    def fn(given: Held = held) -> Decimal:
        return Decimal(id(given))

    return fn


def a_wrapper(held: Held) -> Callable[..., Any]:
    return functools.wraps(priced)(an_annotated_closure(held))


def a_partial(held: Held) -> Callable[..., Any]:
    return functools.partial(an_annotated_closure(held))


@pytest.mark.parametrize(
    "make",
    [a_closure, a_default, a_named_default, an_annotated_closure, an_annotated_default, a_wrapper, a_partial],
)
def test_what_a_function_holds_is_not_kept_alive(make: Callable[[Held], Callable[..., Any]]) -> None:
    held = Held()
    seen = weakref.ref(held)
    fn = make(held)
    function_options("ctx.step", fn, {})
    function_options("ctx.step", fn, {"retry": Retry.fixed(2, 1)})
    del fn, held
    gc.collect()
    assert seen() is None


def priced() -> Decimal:
    return Decimal(1)


def test_a_function_that_holds_nothing_is_looked_at_once() -> None:
    def plain():  # type: ignore[no-untyped-def]
        return 1

    for fn in (plain, priced):
        found = function_options("ctx.step", fn, {})
        assert PLAIN[fn] is found  # type: ignore[index]
    assert function_options("ctx.step", priced, {}).returns is Decimal


def test_one_that_wraps_another_is_looked_through_each_time() -> None:
    def wrapper(*args):  # type: ignore[no-untyped-def]
        return priced(*args)

    assert function_options("ctx.step", functools.wraps(priced)(wrapper), {}).returns is Decimal
    assert wrapper not in PLAIN
