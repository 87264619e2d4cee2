"""Exceptions come back as themselves, the same at first and at every replay."""

from __future__ import annotations

import json
import subprocess
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_trio import errors, limits
from durable_trio.codec import Codec
from durable_trio.errors import CodecError, DurableError, RunFailed, StepFailed, StepTimeout
from durable_trio.failures import Failures, describe
from durable_trio.records import FailureRecord
from tests.failures.failures_examples import (
    FAILURES,
    BothError,
    Cart,
    DeclinedError,
    Group,
    GuardedError,
    KeywordError,
    MissingError,
    PlainError,
    RenamedError,
    SilentError,
    SlottedError,
    check,
    raised,
)


def decode_error() -> Exception:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


def syntax_error() -> Exception:
    try:
        compile("a b", "x.py", "exec")
    except SyntaxError as error:
        return error
    raise AssertionError


def json_error() -> Exception:
    try:
        json.loads("{x")
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


def attribute_error() -> Exception:
    try:
        FAILURES.nothing  # type: ignore[attr-defined]  # noqa: B018
    except AttributeError as error:
        return error
    raise AssertionError


def noted() -> Exception:
    error = ValueError("x")
    error.add_note("first")
    error.add_note("second")
    return error


MAKERS: list[Callable[[], Exception]] = [
    lambda: Exception(),
    lambda: ValueError("x", 1, None, (1, [2.5, b"x"]), {"a": {1}, 2: "b"}),
    lambda: KeyError(("a", 1)),
    lambda: KeyError("k"),
    lambda: IndexError("i"),
    lambda: OSError(2, "gone", "f.txt"),
    lambda: OSError("only text"),
    lambda: OSError(2, "gone", "a", None, "b"),
    lambda: FileNotFoundError(2, "gone", b"f.txt"),
    lambda: ConnectionResetError(104, "reset"),
    lambda: BlockingIOError(11, "again", 5),
    lambda: TimeoutError(),
    lambda: StopIteration(5),
    lambda: StopAsyncIteration(),
    lambda: ImportError("no", name="m", path="/p"),
    lambda: ModuleNotFoundError("no", name="m"),
    lambda: NameError("n", name="n"),
    lambda: AttributeError("a", name="n"),
    lambda: ZeroDivisionError("division by zero"),
    lambda: UnicodeEncodeError("ascii", "é", 0, 1, "no"),
    lambda: UnicodeTranslateError("é", 0, 1, "no"),
    lambda: RecursionError("deep"),
    lambda: NotImplementedError(),
    lambda: UserWarning("w"),
    lambda: ValueError(Decimal("1.0"), UUID(int=1), datetime(2024, 1, 1, tzinfo=UTC), PurePosixPath("p")),
    lambda: ValueError(float("nan").__class__(1.0), -0.0, 2**80, {"$type": "x"}),
    lambda: ValueError({"$error": {"type": "builtins.ValueError"}}),
    decode_error,
    syntax_error,
    json_error,
    attribute_error,
    noted,
    lambda: subprocess.CalledProcessError(2, ["ls", "-l"], b"out", b"err"),
    lambda: trio.TooSlowError(),
    lambda: trio.ClosedResourceError("closed"),
    lambda: trio.BrokenResourceError(),
    lambda: trio.EndOfChannel(),
    lambda: trio.WouldBlock(),
    lambda: trio.BusyResourceError("busy"),
    lambda: PlainError("x"),
    lambda: KeywordError("x", code=5),
    lambda: RenamedError(5, "late"),
    lambda: SlottedError(5),
    lambda: DeclinedError(Cart(("a",)), Decimal("1.50"), b"t"),
    lambda: MissingError("x", datetime(2024, 1, 1, tzinfo=UTC)),
    lambda: GuardedError("x"),
    lambda: BothError("slow"),
    lambda: SilentError("x"),
    lambda: StepTimeout("slow", step="pay#0", run_id="r"),
    lambda: StepFailed("x", type="m.E", traceback="t", step="pay#0"),
    lambda: CodecError("x", where="w", path=".a", type="int"),
    lambda: RunFailed("x", run_id="r", error=ValueError("inner")),
    lambda: RunFailed("x", run_id="r", error=FailureRecord(type="m.E", message="x", traceback="t")),
    lambda: RunFailed("x", error=RunFailed("y", error=OSError(2, "gone"))),
    lambda: ExceptionGroup("g", [ValueError(1), ExceptionGroup("h", [KeyError("k"), PlainError()])]),
    lambda: Group("g", [ValueError(1)]),
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: type(make()).__name__)
def test_an_exception_comes_back_as_itself(make: Callable[[], Exception]) -> None:
    check(raised(make()))


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"Detached"}))
def test_each_error_of_the_library_comes_back_with_its_fields(name: str) -> None:
    error = getattr(errors, name)("text")
    for field in vars(error):
        setattr(error, field, f"a {field}")

    check(error)


def builtin_errors() -> list[type[Exception]]:
    import builtins

    found = [cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    return sorted(
        {cls for cls in found if not issubclass(cls, (ExceptionGroup, UnicodeError)) or cls is UnicodeError}, key=repr
    )


@pytest.mark.parametrize("cls", builtin_errors())
def test_each_builtin_exception_comes_back_with_any_args(cls: type[Exception]) -> None:
    for args in [(), ("x",), (1, "x"), (("a", None), b"x", 1.5)]:
        try:
            error = cls(*args)
        except TypeError:
            continue
        check(error)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("$ab"), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=3), st.dictionaries(st.sampled_from(["code", "detail", "x"]), values))
def test_args_and_attributes_of_any_plain_value_are_kept(args: list[Any], attributes: dict[str, Any]) -> None:
    error = PlainError(*args)
    error.__dict__.update(attributes)

    check(error)


def test_the_cause_is_the_text_of_the_originals_traceback() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        rebuilt = check(error)

    text = "".join(traceback.format_exception(rebuilt))
    assert "KeyError: 'inner'" in text
    assert "direct cause" in text
    assert "test_the_cause_is_the_text" in text
    assert rebuilt.__suppress_context__


def test_a_long_traceback_keeps_its_last_frames() -> None:
    names: dict[str, Any] = {}
    depth = 200
    for number in range(depth):
        call = f"f{number - 1}()" if number else "1 / 0"
        exec(f"def f{number}():\n    {call}\n", names)
    with pytest.raises(ZeroDivisionError) as caught:
        names[f"f{depth - 1}"]()
    text, rebuilt = FAILURES.encode(caught.value, where="x")
    kept = describe(text).traceback

    assert isinstance(rebuilt, ZeroDivisionError)
    assert len(kept) <= limits.TRACEBACK_CHARACTERS_MAX + 100
    assert kept.endswith("ZeroDivisionError: division by zero\n")


def test_every_error_of_the_library_is_tried() -> None:
    found = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, DurableError)}
    assert {cls.__name__ for cls in found if not cls.__name__.startswith("_")} == set(errors.__all__) - {"Detached"}


def test_an_error_within_errors_is_rebuilt_as_often_however_deep_it_is() -> None:
    """Not again for each around it: to try the recipe, to prove it, and to give back what was stored."""
    made = 0

    class Counted(Exception):
        def __init__(self, text: str, inner: Exception | None = None) -> None:
            super().__init__(text)
            self.inner = inner

        def __new__(cls, *args: Any) -> Counted:
            nonlocal made
            made += 1
            return super().__new__(cls, *args)

    failures = Failures(Codec(payload_bytes_max=4 * 1024 * 1024), classes=[Counted])
    levels = 20
    exc = Counted("0")
    for number in range(1, levels):
        exc = Counted(str(number), exc)
    made = 0
    _, rebuilt = failures.encode(exc, where="here")
    assert made == 3 * levels
    depth = 0
    inner: Any = rebuilt
    while type(inner) is Counted:
        inner, depth = inner.inner, depth + 1
    assert depth == levels
