"""Exception groups are opened in one way, however deep they are; a lone exception is like a group of one."""

from __future__ import annotations

import pytest

from supervisors.groups import error_text, first, part, sole, split_failure

A, B, STOP = ValueError("a"), KeyError("b"), KeyboardInterrupt()
LONE = ExceptionGroup("outer", [ExceptionGroup("inner", [A])])
BOTH = ExceptionGroup("both", [A, ExceptionGroup("inner", [B])])
MIXED = BaseExceptionGroup("mixed", [BaseExceptionGroup("inner", [STOP]), BOTH])


@pytest.mark.parametrize(
    ("error", "expected"), [(A, A), (LONE, A), (BOTH, BOTH), (ExceptionGroup("around", [BOTH]), BOTH)]
)
def test_what_is_alone_in_groups_is_taken_out_of_them(error: BaseException, expected: BaseException) -> None:
    assert sole(error) is expected


def test_the_first_of_a_kind_is_found_however_deep() -> None:
    assert first(MIXED, KeyboardInterrupt) is STOP
    assert first(MIXED, KeyError) is B
    assert first(MIXED, Exception) is not None
    assert first(A, ValueError) is A
    assert first(BOTH, ExceptionGroup) is BOTH
    assert (first(MIXED, OSError), first(A, OSError), first(None, OSError)) == (None, None, None)


def test_a_part_keeps_its_shape() -> None:
    found = part(MIXED, ValueError)
    assert isinstance(found, ExceptionGroup)
    assert sole(found) is A
    assert found.message == "mixed"
    assert part(A, ValueError) is A
    assert (part(A, KeyError), part(MIXED, OSError)) == (None, None)


def test_a_failure_is_split_from_what_ends_the_program() -> None:
    assert split_failure(A) == (A, None)
    assert split_failure(STOP) == (None, STOP)
    assert split_failure(BOTH) == (BOTH, None)
    failure, rest = split_failure(MIXED)
    assert failure is not None
    assert rest is not None
    assert (first(failure, KeyError), first(rest, KeyboardInterrupt), first(rest, Exception)) == (B, STOP, None)


def test_the_text_of_a_group_is_that_of_the_errors_in_it() -> None:
    assert error_text(BOTH) == "ValueError: a + KeyError: 'b'"
    assert error_text(STOP) == "KeyboardInterrupt"
