"""Exceptions to records: the first recipe that rebuilds an equal one, proved by rebuilding it."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, cast

import attrs

from durable_trio.codec import ANY_SCALARS, Codec
from durable_trio.codec.extent import no_fields, room_left
from durable_trio.codec.faults import Fault
from durable_trio.codec.sameness import is_same
from durable_trio.failures.allowed import Allowed
from durable_trio.failures.rebuilding import CONSTRUCTORS, Rebuilder
from durable_trio.failures.tracebacks import EXCEPTIONS_MAX
from durable_trio.failures.visible import args_of, attributes_of, described, failed, is_equal
from durable_trio.failures.wrong_loop import named
from durable_trio.looks import bears_a_look, clean, is_a, look, members_of, message_of, qualified_name, text_of
from durable_trio.records import FailureRecord

__all__ = ["Recorder"]

# Each level of a group or of an error within an error is two or three of JSON.
_LEVELS_MAX: Final = 24
# Tracebacks of single exceptions in a group share the room of one.
_TRACEBACK_CHARACTERS_MIN: Final = 400


class _TooLarge(Exception):
    """The texts and values of a failure have more characters than a payload may have bytes."""


class _HoldsItself(Exception):
    """An exception was met among what it is made of, and so before it could be there again; ``of`` is its id."""

    def __init__(self, of: int) -> None:
        super().__init__(of)
        self.of = of


@attrs.define
class _Around:
    """An exception that others are met in."""

    exc: Exception
    is_made: bool = False  # it is there before what is recorded now: its attributes are, which are set last


@attrs.define
class _Progress:
    """How far the encoding of one failure has come."""

    room: int  # characters that its texts and values may still have
    count: int = 0
    around: list[_Around] = attrs.field(factory=list)  # the exceptions around this one, the innermost last
    # The records that are proved, and what they were rebuilt to, by their ids: each once, not again for each around it.
    proved: dict[int, tuple[dict[str, Any], Exception]] = attrs.field(factory=dict)


class Recorder:
    """Makes records that ``rebuilder`` takes."""

    def __init__(self, codec: Codec, allowed: Allowed, rebuilder: Rebuilder) -> None:
        self._codec = codec
        self._allowed = allowed
        self._rebuilder = rebuilder

    def record(self, exc: Exception, room: int, *, text_room: int, text: str) -> dict[str, Any]:
        """Return what is stored of an exception, proved to rebuild an equal one.

        Args:
            room: characters that its traceback may have.
            text_room: characters that its texts and values may have, all together.
            text: its text.

        Raises:
            Exception: it has more than that; or what the exception itself raises.
        """
        return self._record(exc, _Progress(text_room), room, text)

    def _record(self, exc: Exception, progress: _Progress, room: int, text: str | None = None) -> dict[str, Any]:
        progress.count += 1
        told = named(exc)
        if told is not exc:
            exc, text = told, None
        if progress.count > EXCEPTIONS_MAX or len(progress.around) >= _LEVELS_MAX:
            return _took(progress, failed(exc, room, text_room=progress.room))
        seen = _took(progress, described(exc, room, text_room=progress.room, text=text))
        progress.around.append(_Around(exc))
        try:
            if is_a(exc, ExceptionGroup):
                return self._record_group(cast(ExceptionGroup[Exception], exc), seen, progress, room)
            if self._is_rebuilt(exc):
                for recipe in ("fields", *CONSTRUCTORS):
                    record = self._try_recipe(recipe, exc, seen, progress, room)
                    if record is not None:
                        return record
        except _HoldsItself as loop:
            if loop.of != id(exc):
                raise
        finally:
            progress.around.pop()
        return seen | {"recipe": "failed"}

    def _is_rebuilt(self, exc: Exception) -> bool:
        """Whether an exception may come back as itself: its class is allowed, and whoever gets it can look at it."""
        if type(exc) is ExceptionGroup:  # of what it holds each is looked at by itself
            return True
        return look(self._allowed.is_found, type(exc), instead=lambda _: False) and bears_a_look(exc)

    def _record_group(
        self, exc: ExceptionGroup[Exception], seen: dict[str, Any], progress: _Progress, room: int
    ) -> dict[str, Any]:
        members = members_of(exc)
        share = max(_TRACEBACK_CHARACTERS_MIN, room // len(members))
        record = seen | {"recipe": "group", "text": clean(message_of(exc))}
        record["errors"] = errors = list[dict[str, Any]]()
        for each in members:
            if progress.count >= EXCEPTIONS_MAX:
                errors.append(_left_out(len(members) - len(errors)))
                break
            errors.append(self._record_member(exc, each, progress, share))
        # A subclass that cannot be rebuilt still keeps its shape, which ``except*`` goes by.
        try:
            state = attributes_of(exc).items()
            if not self._is_rebuilt(exc):
                raise Fault("its class is not to be rebuilt")
            own = {name: value for name, value in state if name not in ("message", "exceptions")}
            record["state"] = self._state_to_plain(own, progress, room)
            rebuilt = self._rebuild(record, progress)
            if type(rebuilt) is type(exc) and text_of(rebuilt) == text_of(exc):
                progress.proved[id(record)] = record, rebuilt
                return record
        except (RecursionError, _TooLarge):
            raise
        except Exception:
            pass  # also of what holds the group itself: its shape is kept all the same
        return record | {"type": qualified_name(ExceptionGroup), "state": {}}

    def _record_member(
        self, group: ExceptionGroup[Exception], exc: Exception, progress: _Progress, room: int
    ) -> dict[str, Any]:
        try:
            return self._record(exc, progress, room)
        except _HoldsItself as loop:
            if loop.of != id(group):
                raise
            # It holds the group that it is in, which keeps its shape.
            return _took(progress, failed(exc, room, text_room=progress.room))

    def _try_recipe(
        self, recipe: str, exc: Exception, seen: dict[str, Any], progress: _Progress, room: int
    ) -> dict[str, Any] | None:
        cls = type(exc)
        record = seen | {"recipe": recipe}
        progress.around[-1].is_made = False
        try:
            if recipe == "fields":
                if not (attrs.has(cls) or dataclasses.is_dataclass(cls)):
                    return None
                record["fields"] = self._codec.to_plain(exc, cls)
                made = self._codec.from_plain(record["fields"], cls)
                if not is_same(made.args, args_of(exc)):
                    record["args"] = [self._value_to_plain(value, progress, room) for value in args_of(exc)]
            else:
                record["args"] = [self._value_to_plain(value, progress, room) for value in args_of(exc)]
                made = CONSTRUCTORS[recipe](cls, args_of(exc))
            before = attributes_of(made)
            state = attributes_of(exc)
            changed = {n: v for n, v in state.items() if n not in before or not is_same(before[n], v)}
            record["state"] = self._state_to_plain(changed, progress, room)
            rebuilt = self._rebuild(record, progress)
            if not (is_equal(exc, rebuilt) and bears_a_look(rebuilt)):
                return None
            progress.proved[id(record)] = record, rebuilt
            return record
        except (RecursionError, _TooLarge, _HoldsItself):
            raise
        except Exception:
            return None  # whatever a constructor raises: this recipe does not fit

    def _rebuild(self, record: dict[str, Any], progress: _Progress) -> Exception:
        """Rebuild the innermost exception by its record; those around it are there already."""
        return self._rebuilder.rebuild(record, [around.exc for around in progress.around[:-1]], progress.proved)

    def _state_to_plain(self, values: dict[str, Any], progress: _Progress, room: int) -> dict[str, Any]:
        progress.around[-1].is_made = True
        return {name: self._value_to_plain(value, progress, room) for name, value in values.items()}

    def _value_to_plain(self, value: object, progress: _Progress, room: int) -> Any:
        if is_a(value, Exception):
            for levels, around in enumerate(reversed(progress.around)):
                if around.exc is value:
                    if around.is_made:
                        return {"$outer": levels}
                    raise _HoldsItself(id(value))
            record = self._record(cast(Exception, value), progress, max(_TRACEBACK_CHARACTERS_MIN, room // 2))
            return {"$error": record}
        progress.room = room_left(value, progress.room, no_fields)
        if progress.room < 0:
            raise _TooLarge
        if type(value) is FailureRecord:
            return {"$record": self._codec.to_plain(value, FailureRecord)}
        return self._codec.to_plain(value, ANY_SCALARS)


def _took(progress: _Progress, record: dict[str, Any]) -> dict[str, Any]:
    """Count what people read of a record, but for the traceback, which has room of its own."""
    progress.room -= len(record["message"]) + sum(map(len, record.get("notes", ())))
    if progress.room < 0:
        raise _TooLarge
    return record


def _left_out(count: int) -> dict[str, Any]:
    """Return the record that stands for those of a group that are too many."""
    text = f"{count} more exceptions of this group are left out"
    return {"type": qualified_name(Exception), "message": text, "traceback": "", "recipe": "failed"}
