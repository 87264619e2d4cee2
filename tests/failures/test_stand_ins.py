"""What cannot be rebuilt is stood for by ``StepFailed``; no exception is refused, however large or deep."""

from __future__ import annotations

import sqlite3
import time as clock
from collections.abc import Callable
from typing import Any

import pytest

from durable_trio.codec import Codec
from durable_trio.errors import StepFailed
from durable_trio.failures import CannotRebuild, Failures
from tests.failures.failures_examples import (
    FAILURES,
    Cart,
    PickyError,
    PlainError,
    UnstorableError,
    check,
    raised,
    stand_in,
    view,
)


def test_a_class_of_another_module_becomes_step_failed() -> None:
    error = stand_in(raised(sqlite3.IntegrityError("unique")))

    assert (error.type, error.message, str(error)) == ("sqlite3.IntegrityError", "unique", "unique")
    assert "IntegrityError: unique" in error.traceback
    assert (error.step, error.run_id) == (None, None)


def test_a_class_given_by_the_user_comes_back_wherever_it_is_defined() -> None:
    class LocalError(Exception):
        pass

    assert stand_in(LocalError("x")).type.endswith("<locals>.LocalError")
    assert isinstance(check(LocalError("x"), Failures(Codec(), classes=[LocalError])), LocalError)
    with pytest.raises(CannotRebuild) as caught:
        FAILURES.decode(Failures(Codec(), classes=[LocalError]).encode(LocalError("x"), where="x")[0])
    assert caught.value.type.endswith("<locals>.LocalError")


def test_another_class_under_the_same_name_is_no_match() -> None:
    impostor = type("PlainError", (Exception,), {"__module__": PlainError.__module__})

    assert stand_in(impostor("x")).type == f"{PlainError.__module__}.PlainError"


@pytest.mark.parametrize("make", [UnstorableError, lambda: PlainError(Cart(())), lambda: PlainError(object())])
def test_what_cannot_be_stored_exactly_becomes_step_failed(make: Callable[[], Exception]) -> None:
    stand_in(make())


def test_a_constructor_with_effects_is_not_called_again() -> None:
    check(PickyError(1))

    assert PickyError.calls == 1


class FirstError(Exception):
    """The first of a chain is its own root, as many libraries have it."""

    def __init__(self, text: str, root: Exception | None = None) -> None:
        super().__init__(text)
        self.root = root or self


HOLDERS = Failures(Codec(), modules=[__name__])


def both(error: Exception) -> tuple[Any, Any]:
    """Return what the first execution gets of an exception, and what a replay does."""
    text, first = HOLDERS.encode(raised(error), where="x")
    return first, HOLDERS.decode(text)


def test_an_error_that_holds_itself_holds_itself_when_it_comes_back() -> None:
    for error in both(FirstError("x")):
        assert type(error) is FirstError
        assert error.root is error


def test_errors_that_hold_each_other_do_so_when_they_come_back() -> None:
    outer, inner = FirstError("outer"), FirstError("inner")
    outer.root, inner.root = inner, outer

    for error in both(outer):
        assert (type(error), type(error.root)) == (FirstError, FirstError)
        assert error.root is not error
        assert error.root.root is error


def test_an_error_that_is_made_of_itself_becomes_step_failed() -> None:
    """Its constructor would have to be given what is not there yet."""
    error = FirstError("x")
    error.args = ("x", error)
    through_another = FirstError("y")
    through_another.args = ("y", FirstError("z", root=through_another))

    for each in (error, through_another):
        assert [type(seen) for seen in both(each)] == [StepFailed, StepFailed]


def test_a_group_keeps_its_shape_where_one_of_it_holds_the_group() -> None:
    member = FirstError("x")
    group = ExceptionGroup("g", [member, ValueError(1)])
    member.root = group

    for error in both(group):
        assert [type(each) for each in error.exceptions] == [StepFailed, ValueError]


def test_a_group_keeps_its_shape_where_one_of_it_cannot_be_rebuilt() -> None:
    error = ExceptionGroup("g", [ValueError(1), ExceptionGroup("h", [UnstorableError(), KeyError("k")])])
    error.add_note("note")

    text, first = FAILURES.encode(raised(error), where="x")

    for group in (first, FAILURES.decode(text)):
        assert isinstance(group, ExceptionGroup)
        assert isinstance(group.exceptions[1], ExceptionGroup)
        assert [type(each) for each in group.exceptions[1].exceptions] == [StepFailed, KeyError]
        assert group.__notes__ == ["note"]


def test_a_group_class_that_is_not_known_keeps_its_shape_as_a_plain_group() -> None:
    class LocalError(ExceptionGroup[Exception]):
        pass

    first = FAILURES.encode(LocalError("g", [ValueError(1)]), where="x")[1]

    assert type(first) is ExceptionGroup
    assert view(first.exceptions[0]) == view(ValueError(1))


def test_deep_and_many_times_nested_groups_are_bounded() -> None:
    deep: Exception = ValueError(1)
    for _ in range(2000):
        deep = ExceptionGroup("g", [deep])
    wide: Exception = ValueError(1)
    for _ in range(20):
        wide = ExceptionGroup("g", [wide, wide])
    started = clock.process_time()

    for error in (deep, wide):
        text, first = FAILURES.encode(error, where="x")
        assert isinstance(first, ExceptionGroup | StepFailed)
        assert type(FAILURES.decode(text)) is type(first)

    assert clock.process_time() - started < 5


def test_text_that_is_no_unicode_is_escaped() -> None:
    error = stand_in(ValueError("a\ud800"))
    noted = ValueError("x")
    noted.add_note("n\ud800")

    assert error.message == "a\\ud800"
    assert FAILURES.encode(noted, where="x")[1].__notes__ == ["n\\ud800"]


def test_a_failure_too_large_for_a_payload_becomes_step_failed_with_its_message_cut() -> None:
    failures = Failures(Codec(payload_bytes_max=4000))

    error = stand_in(raised(ValueError("\x00" * 10_000)), failures)

    assert error.type == "builtins.ValueError"
    assert error.message.endswith("... (cut)")
    assert isinstance(check(raised(ValueError("short")), failures), ValueError)


def test_an_error_that_shares_its_parts_without_end_becomes_step_failed_in_bounded_time() -> None:
    value: Any = "x"
    for _ in range(60):
        value = [value, value]
    error = PlainError("x")
    error.__dict__["detail"] = value
    started = clock.process_time()

    assert stand_in(error, Failures(Codec(payload_bytes_max=100_000), modules=[PlainError.__module__])).message == "x"

    assert clock.process_time() - started < 2
