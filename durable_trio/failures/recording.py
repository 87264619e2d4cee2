"""Exceptions to records: the first recipe that rebuilds an equal one, proved by rebuilding it."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import attrs

from durable_trio.codec import ANY_SCALARS, Codec
from durable_trio.codec.faults import Fault
from durable_trio.codec.sameness import is_same
from durable_trio.errors import CodecError
from durable_trio.failures.allowed import Allowed
from durable_trio.failures.errors import CannotRebuild
from durable_trio.failures.rebuilding import CONSTRUCTORS, Rebuilder
from durable_trio.failures.tracebacks import EXCEPTIONS_MAX, clean
from durable_trio.failures.visible import attributes_of, described, failed, is_equal, qualified_name, text_of
from durable_trio.records import FailureRecord

__all__ = ["Recorder"]

# Each level of a group or of an error within an error is two or three of JSON.
_LEVELS_MAX: Final = 24
# Tracebacks of single exceptions in a group share the room of one.
_TRACEBACK_CHARACTERS_MIN: Final = 400


@attrs.define
class _Progress:
    """How far the encoding of one failure has come."""

    count: int = 0
    within: set[int] = attrs.field(factory=set)  # ids of the exceptions around this one


class Recorder:
    """Makes records that ``rebuilder`` takes."""

    def __init__(self, codec: Codec, allowed: Allowed, rebuilder: Rebuilder) -> None:
        self._codec = codec
        self._allowed = allowed
        self._rebuilder = rebuilder

    def record(self, exc: Exception, room: int) -> dict[str, Any]:
        """Return what is stored of an exception, proved to rebuild an equal one.

        Args:
            room: characters that its traceback may have.
        """
        return self._record(exc, _Progress(), room)

    def _record(self, exc: Exception, progress: _Progress, room: int) -> dict[str, Any]:
        progress.count += 1
        if progress.count > EXCEPTIONS_MAX or len(progress.within) >= _LEVELS_MAX or id(exc) in progress.within:
            return failed(exc, room)
        progress.within.add(id(exc))
        try:
            if isinstance(exc, ExceptionGroup):
                return self._record_group(exc, progress, room)
            if self._allowed.is_found(type(exc)):
                for recipe in ("fields", *CONSTRUCTORS):
                    record = self._try_recipe(recipe, exc, progress, room)
                    if record is not None:
                        return record
            return failed(exc, room)
        finally:
            progress.within.discard(id(exc))

    def _record_group(self, exc: ExceptionGroup[Exception], progress: _Progress, room: int) -> dict[str, Any]:
        share = max(_TRACEBACK_CHARACTERS_MIN, room // len(exc.exceptions))
        record = described(exc, room) | {"recipe": "group", "text": clean(exc.message)}
        record["errors"] = [self._record(each, progress, share) for each in exc.exceptions]
        # A subclass that cannot be rebuilt still keeps its shape, which ``except*`` goes by.
        state = {name: value for name, value in attributes_of(exc).items() if name not in ("message", "exceptions")}
        record["state"] = {}
        try:
            if not self._allowed.is_found(type(exc)):
                raise Fault("its class is not to be rebuilt")
            record["state"] = self._values_to_plain(state, progress, room)
            rebuilt = self._rebuilder.rebuild(record)
            if type(rebuilt) is type(exc) and text_of(rebuilt) == text_of(exc):
                return record
        except (Fault, CannotRebuild, CodecError):
            pass
        return record | {"type": qualified_name(ExceptionGroup), "state": {}}

    def _try_recipe(self, recipe: str, exc: Exception, progress: _Progress, room: int) -> dict[str, Any] | None:
        cls = type(exc)
        record = described(exc, room) | {"recipe": recipe}
        try:
            if recipe == "fields":
                if not (attrs.has(cls) or dataclasses.is_dataclass(cls)):
                    return None
                record["fields"] = self._codec.to_plain(exc, cls)
                made = self._codec.from_plain(record["fields"], cls)
                if not is_same(made.args, exc.args):
                    record["args"] = [self._value_to_plain(value, progress, room) for value in exc.args]
            else:
                record["args"] = [self._value_to_plain(value, progress, room) for value in exc.args]
                made = CONSTRUCTORS[recipe](cls, exc.args)
            before = attributes_of(made)
            state = attributes_of(exc)
            changed = {n: v for n, v in state.items() if n not in before or not is_same(before[n], v)}
            record["state"] = self._values_to_plain(changed, progress, room)
            return record if is_equal(exc, self._rebuilder.rebuild(record)) else None
        except RecursionError:
            raise
        except Exception:
            return None  # whatever a constructor raises: this recipe does not fit

    def _values_to_plain(self, values: dict[str, Any], progress: _Progress, room: int) -> dict[str, Any]:
        return {name: self._value_to_plain(value, progress, room) for name, value in values.items()}

    def _value_to_plain(self, value: object, progress: _Progress, room: int) -> Any:
        if isinstance(value, Exception):
            return {"$error": self._record(value, progress, max(_TRACEBACK_CHARACTERS_MIN, room // 2))}
        if type(value) is FailureRecord:
            return {"$record": self._codec.to_plain(value, FailureRecord)}
        return self._codec.to_plain(value, ANY_SCALARS)
