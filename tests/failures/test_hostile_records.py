"""A stored failure is looked up, never run: names resolve among loaded and allowed exceptions only."""

from __future__ import annotations

import json
import sys
import types
from decimal import Decimal
from typing import Any

import pytest

from durable_trio.codec import Codec
from durable_trio.errors import CodecError
from durable_trio.failures import CannotRebuild, Failures, describe
from tests.failures.failures_examples import FAILURES, Cart, DeclinedError, PlainError


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
        {"type": f"{PlainError.__module__}.PlainError.mro"},
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

    def imported(name: str, *rest: Any) -> Any:
        if name not in sys.modules:  # what is loaded is not run again
            called.append(name)
        return sys.modules.get(name)

    with monkeypatch.context() as patch:
        patch.setattr("os.system", called.append)
        patch.setattr("builtins.__import__", imported)
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
    class GuardError(Exception):
        def _refuse(self, value: object) -> None:
            pytest.fail("a property was called")

        danger = property(lambda self: 1, _refuse)

    failures = Failures(Codec(), classes=[GuardError])
    text = failures.encode(GuardError(), where="x")[0]
    record = json.loads(text) | {"state": {"danger": 5}}

    assert failures.decode(json.dumps(record)).__dict__ == {"danger": 5}


def test_a_class_that_has_lost_its_field_parks_by_name() -> None:
    record = json.loads(FAILURES.encode(DeclinedError(Cart(()), Decimal(1)), where="x")[0])
    record["fields"]["gone"] = 1

    with pytest.raises((CannotRebuild, CodecError), match="DeclinedError"):
        FAILURES.decode(json.dumps(record))
