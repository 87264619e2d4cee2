"""Exceptions come back as themselves, the same at first and at every replay, or ``StepFailed`` stands for them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time as clock
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_trio import errors, limits
from durable_trio.codec import Codec
from durable_trio.errors import CodecError, DurableError, RunFailed, StepFailed, StepTimeout
from durable_trio.failures import CannotRebuild, Failures, StepTraceback, describe
from durable_trio.records import FailureRecord

FAILURES = Failures(Codec(), modules=[__name__], classes=[json.JSONDecodeError, subprocess.CalledProcessError])


class Plain(Exception):
    pass


class Keyword(Exception):
    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class Renamed(Exception):
    """Its args are not what its constructor takes."""

    def __init__(self, order: int, reason: str) -> None:
        self.order = order
        super().__init__(f"order {order}: {reason}")


class Slotted(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        self.code = code


@attrs.frozen
class Cart:
    items: tuple[str, ...]


@attrs.frozen
class Declined(Exception):
    cart: Cart
    amount: Decimal
    _token: bytes = b""


@dataclass
class Missing(Exception):
    name: str
    at: datetime


class Unstorable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a socket")
        self.connection = object()


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Guarded(Exception):
    """Refuses every attribute; only decoding past ``__setattr__`` gives it back."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")


class Picky(Exception):
    calls = 0

    def __init__(self, number: int) -> None:
        Picky.calls += 1
        if Picky.calls > 1:
            raise RuntimeError("only once")
        super().__init__("picky")


class Group(ExceptionGroup[Exception]):
    pass


class Both(trio.TooSlowError, ValueError):
    pass


def raised(exc: Exception) -> Exception:
    try:
        raise exc
    except Exception as caught:
        return caught


def view(exc: Any) -> dict[str, Any]:
    """All there is to see of an exception, for comparison."""
    fields = {name: value for name, value in exc.__dict__.items() if name != "__notes__"}
    for name in (
        "errno",
        "strerror",
        "filename",
        "filename2",
        "value",
        "name",
        "path",
        "msg",
        "lineno",
        "offset",
        "text",
    ):
        fields.setdefault(name, getattr(exc, name, None))
    for name in ("encoding", "object", "start", "end", "reason", "code", "cart", "amount", "end_lineno"):
        fields.setdefault(name, getattr(exc, name, None))
    return {
        "type": type(exc),
        "args": () if isinstance(exc, ExceptionGroup) else exc.args,
        "text": None if isinstance(exc, Silent) else str(exc),
        "notes": getattr(exc, "__notes__", None),
        "inner": [view(each) for each in getattr(exc, "exceptions", ())],
        "fields": {name: view(each) if isinstance(each, Exception) else each for name, each in fields.items()},
    }


def check(exc: Exception, failures: Failures = FAILURES) -> Exception:
    """Encode and decode; both give back an equal one, with the traceback as its cause."""
    text, first = failures.encode(exc, where="step 'pay#0'")
    again = failures.decode(text)
    assert first is not exc
    assert again is not first
    assert view(first) == view(exc)
    assert view(again) == view(exc)
    assert isinstance(first.__cause__, StepTraceback)
    assert isinstance(again.__cause__, StepTraceback)
    assert first.__cause__.args == again.__cause__.args
    assert describe(text).type == f"{type(exc).__module__}.{type(exc).__qualname__}"
    return first


def stand_in(exc: Exception, failures: Failures = FAILURES) -> StepFailed:
    """Encode an exception that cannot be rebuilt; both give back an equal ``StepFailed``."""
    text, first = failures.encode(exc, where="step 'pay#0'")
    again = failures.decode(text)
    assert type(first) is type(again) is StepFailed
    assert view(first) == view(again)
    record = describe(text)
    assert (record.type, record.message, record.traceback) == (first.type, first.message, first.traceback)
    return first


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
    lambda: Plain("x"),
    lambda: Keyword("x", code=5),
    lambda: Renamed(5, "late"),
    lambda: Slotted(5),
    lambda: Declined(Cart(("a",)), Decimal("1.50"), b"t"),
    lambda: Missing("x", datetime(2024, 1, 1, tzinfo=UTC)),
    lambda: Guarded("x"),
    lambda: Both("slow"),
    lambda: Silent("x"),
    lambda: StepTimeout("slow", step="pay#0", run_id="r"),
    lambda: StepFailed("x", type="m.E", traceback="t", step="pay#0"),
    lambda: CodecError("x", where="w", path=".a", type="int"),
    lambda: RunFailed("x", run_id="r", error=ValueError("inner")),
    lambda: RunFailed("x", run_id="r", error=FailureRecord(type="m.E", message="x", traceback="t")),
    lambda: RunFailed("x", error=RunFailed("y", error=OSError(2, "gone"))),
    lambda: ExceptionGroup("g", [ValueError(1), ExceptionGroup("h", [KeyError("k"), Plain()])]),
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
    error = Plain(*args)
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


def test_a_class_of_another_module_becomes_step_failed() -> None:
    error = stand_in(raised(sqlite3.IntegrityError("unique")))

    assert (error.type, error.message, str(error)) == ("sqlite3.IntegrityError", "unique", "unique")
    assert "IntegrityError: unique" in error.traceback
    assert (error.step, error.run_id) == (None, None)


def test_a_class_given_by_the_user_comes_back_wherever_it_is_defined() -> None:
    class Local(Exception):
        pass

    assert stand_in(Local("x")).type.endswith("<locals>.Local")
    assert isinstance(check(Local("x"), Failures(Codec(), classes=[Local])), Local)
    with pytest.raises(CannotRebuild) as caught:
        FAILURES.decode(Failures(Codec(), classes=[Local]).encode(Local("x"), where="x")[0])
    assert caught.value.type.endswith("<locals>.Local")


def test_another_class_under_the_same_name_is_no_match() -> None:
    impostor = type("Plain", (Exception,), {"__module__": __name__})

    assert stand_in(impostor("x")).type == f"{__name__}.Plain"


@pytest.mark.parametrize("make", [Unstorable, lambda: Plain(Cart(())), lambda: Plain(object())])
def test_what_cannot_be_stored_exactly_becomes_step_failed(make: Callable[[], Exception]) -> None:
    stand_in(make())


def test_a_constructor_with_effects_is_not_called_again() -> None:
    check(Picky(1))

    assert Picky.calls == 1


def test_an_error_that_holds_itself_becomes_step_failed_within() -> None:
    error = Plain("x")
    error.__dict__["me"] = error

    text, first = FAILURES.encode(error, where="x")

    assert type(first) is Plain
    assert type(first.__dict__["me"]) is StepFailed
    assert type(FAILURES.decode(text).__dict__["me"]) is StepFailed


def test_a_group_keeps_its_shape_where_one_of_it_cannot_be_rebuilt() -> None:
    error = ExceptionGroup("g", [ValueError(1), ExceptionGroup("h", [Unstorable(), KeyError("k")])])
    error.add_note("note")

    text, first = FAILURES.encode(raised(error), where="x")

    for group in (first, FAILURES.decode(text)):
        assert isinstance(group, ExceptionGroup)
        assert isinstance(group.exceptions[1], ExceptionGroup)
        assert [type(each) for each in group.exceptions[1].exceptions] == [StepFailed, KeyError]
        assert group.__notes__ == ["note"]


def test_a_group_class_that_is_not_known_keeps_its_shape_as_a_plain_group() -> None:
    class Local(ExceptionGroup[Exception]):
        pass

    first = FAILURES.encode(Local("g", [ValueError(1)]), where="x")[1]

    assert type(first) is ExceptionGroup
    assert view(first.exceptions[0]) == view(ValueError(1))


def test_deep_and_many_times_nested_groups_are_bounded() -> None:
    deep: Exception = ValueError(1)
    for _ in range(2000):
        deep = ExceptionGroup("g", [deep])
    wide: Exception = ValueError(1)
    for _ in range(20):
        wide = ExceptionGroup("g", [wide, wide])
    started = clock.perf_counter()

    for error in (deep, wide):
        text, first = FAILURES.encode(error, where="x")
        assert isinstance(first, ExceptionGroup | StepFailed)
        assert type(FAILURES.decode(text)) is type(first)

    assert clock.perf_counter() - started < 5


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


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "os.system"},
        {"type": "builtins.eval"},
        {"type": "builtins.KeyboardInterrupt"},
        {"type": "builtins.int"},
        {"type": "builtins"},
        {"type": ""},
        {"type": "...."},
        {"type": "subprocess.Popen"},
        {"type": "no.such.module.Error"},
        {"type": "durable_trio.errors.trio.TooSlowError"},
        {"type": "durable_trio.errors.Detached"},
        {"type": f"{__name__}.Plain.mro"},
        {"type": 1},
        {"type": "builtins.UnicodeDecodeError"},
        {"type": "builtins.ExceptionGroup"},
        {"recipe": "exec"},
        {"recipe": "group"},
        {"recipe": "fields"},
        {"recipe": None},
        {"args": 1},
        {"args": [{"$type": "os.system", "value": "x"}]},
        {"args": [{"$error": {"type": "os.system"}}]},
        {"state": {"__class__": 1}},
        {"state": {"__reduce__": 1}},
        {"state": []},
        {"notes": "x"},
        {"message": None},
    ],
    ids=str,
)
def test_a_hostile_record_is_refused_and_runs_nothing(changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    record = {
        "type": "builtins.ValueError",
        "message": "m",
        "traceback": "",
        "recipe": "init",
        "args": ["x"],
        "state": {},
    }
    text = json.dumps(record | changed)
    called: list[str] = []

    with monkeypatch.context() as patch:
        patch.setattr("os.system", called.append)
        patch.setattr("builtins.__import__", lambda name, *rest: called.append(name))
        try:
            FAILURES.decode(text)
        except (CannotRebuild, CodecError) as error:
            refusal = error

    assert str(refusal)
    assert called == []


def test_deep_hostile_text_is_refused() -> None:
    for text in ("[" * 100_000, '{"errors":[' * 100_000, "", "1", "{}", "\ud800"):
        with pytest.raises(CodecError):
            FAILURES.decode(text)
        with pytest.raises(CodecError):
            describe(text)


def test_a_modules_lazy_attributes_are_not_asked() -> None:
    module = types.ModuleType("trio.lazy_for_test")
    module.__getattr__ = lambda name: pytest.fail("was asked")  # type: ignore[method-assign]
    record = {
        "type": "trio.lazy_for_test.Error",
        "message": "",
        "traceback": "",
        "recipe": "new",
        "args": [],
        "state": {},
    }
    sys.modules[module.__name__] = module
    try:
        with pytest.raises(CannotRebuild):
            FAILURES.decode(json.dumps(record))
    finally:
        del sys.modules[module.__name__]


def test_state_is_set_without_calling_properties() -> None:
    class Guard(Exception):
        def _refuse(self, value: object) -> None:
            pytest.fail("a property was called")

        danger = property(lambda self: 1, _refuse)

    failures = Failures(Codec(), classes=[Guard])
    text = failures.encode(Guard(), where="x")[0]
    record = json.loads(text) | {"state": {"danger": 5}}

    assert failures.decode(json.dumps(record)).__dict__ == {"danger": 5}


def test_a_class_that_has_lost_its_field_parks_by_name() -> None:
    record = json.loads(FAILURES.encode(Declined(Cart(()), Decimal(1)), where="x")[0])
    record["fields"]["gone"] = 1

    with pytest.raises((CannotRebuild, CodecError), match="Declined"):
        FAILURES.decode(json.dumps(record))


def test_every_error_of_the_library_is_tried() -> None:
    found = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, DurableError)}
    assert {cls.__name__ for cls in found if not cls.__name__.startswith("_")} == set(errors.__all__) - {"Detached"}
