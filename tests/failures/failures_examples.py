"""Exceptions for the tests of failures, and what each test of one asserts."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import attrs
import trio

from durable_trio.codec import Codec
from durable_trio.errors import StepFailed
from durable_trio.failures import Failures, StepTraceback, describe

FAILURES = Failures(Codec(), modules=[__name__], classes=[json.JSONDecodeError, subprocess.CalledProcessError])


class PlainError(Exception):
    pass


class KeywordError(Exception):
    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class RenamedError(Exception):
    """Its args are not what its constructor takes."""

    def __init__(self, order: int, reason: str) -> None:
        self.order = order
        super().__init__(f"order {order}: {reason}")


class SlottedError(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        self.code = code


@attrs.frozen
class Cart:
    items: tuple[str, ...]


@attrs.frozen
class DeclinedError(Exception):
    cart: Cart
    amount: Decimal
    _token: bytes = b""


@dataclass
class MissingError(Exception):
    name: str
    at: datetime


class UnstorableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a socket")
        self.connection = object()


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class GuardedError(Exception):
    """Refuses every attribute; only decoding past ``__setattr__`` gives it back."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")


class PickyError(Exception):
    calls = 0

    def __init__(self, number: int) -> None:
        PickyError.calls += 1
        if PickyError.calls > 1:
            raise RuntimeError("only once")
        super().__init__("picky")


class Group(ExceptionGroup[Exception]):
    pass


class BothError(trio.TooSlowError, ValueError):
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
        "text": None if isinstance(exc, SilentError) else str(exc),
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
