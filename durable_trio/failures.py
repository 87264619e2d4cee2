"""Exceptions to JSON text and back, without pickle: what a step or a run failed with.

An exception is stored with a *recipe*, the first that rebuilt an equal one when it was encoded:

``fields``   an attrs class or dataclass, from its fields
``new``      ``cls.__new__(cls, *args)``, then its attributes
``init``     ``cls(*args)``, then its attributes
``group``    an ``ExceptionGroup``, from its message and exceptions, each by its own recipe
``failed``   none rebuilds it, or its class is not to be rebuilt: ``StepFailed`` stands for it

Equal means: the same type, args, text, notes and attributes, also those kept in C. Left out are what belongs to the
raise and not to the error (traceback, context) and ``AttributeError.obj``. ``encode`` returns what ``decode`` will, so
the first execution gets what each replay gets: a new object whose cause is the text of the original's traceback.

The name of a class in stored data is looked up among loaded modules and only where the engine allows it. Nothing is
imported, and nothing called but the constructors of exception classes.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from durable_trio import limits
from durable_trio.codec import ANY_SCALARS, Codec, parse
from durable_trio.digest import Fault, is_same
from durable_trio.errors import CodecError, StepFailed
from durable_trio.records import FailureRecord

__all__ = ["CannotRebuild", "Failures", "StepTraceback", "describe"]

_TRUSTED: Final = ("builtins", "trio", "durable_trio")
# Each level of a group or of an error within an error is two or three of JSON.
_LEVELS_MAX: Final = 24
# Exceptions in one failure. A group that holds itself many times over must not fill the memory.
_EXCEPTIONS_MAX: Final = 1000
# Tracebacks of single exceptions in a group share the room of one.
_TRACEBACK_CHARACTERS_MIN: Final = 400
# A failure too large for a payload keeps so much of its texts; JSON may need six bytes for a character.
_CUT_SHARE: Final = 32
# The object whose attribute was asked for belongs to the place of the error, like the frames of the traceback.
_LEFT_OUT: Final = frozenset({(AttributeError, "obj"), (BaseException, "args")})

_NEW: Final[dict[str, Callable[..., Any]]] = {
    "new": lambda cls, args: cls.__new__(cls, *args),
    "init": lambda cls, args: cls(*args),
}


class CannotRebuild(Exception):
    """A recorded exception cannot be rebuilt here; ``type`` names the class to import or to allow."""

    def __init__(self, message: str, *, type: str) -> None:
        super().__init__(message)
        self.type = type


class StepTraceback(Exception):
    """The text of a recorded traceback, shown as the cause of the exception that was rebuilt."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0] if self.args else ""}"""'


class Failures:
    """Encodes and decodes exceptions.

    Args:
        codec: converts their args and fields, and bounds the size.
        modules: names of modules whose exceptions are rebuilt, besides builtins, trio and durable_trio.
        classes: exception classes that are rebuilt wherever they are defined.
    """

    def __init__(self, codec: Codec, *, modules: Iterable[str] = (), classes: Iterable[type[Exception]] = ()) -> None:
        self._codec = codec
        self._modules = frozenset(modules)
        self._classes = {_name(cls): cls for cls in classes}

    def encode(self, exc: Exception, *, where: str) -> tuple[str, Exception]:
        """Return the JSON text of an exception, and the exception as ``decode`` will rebuild it.

        What cannot be rebuilt equal becomes ``StepFailed``; no exception is refused.

        Args:
            where: what failed, for errors.
        """
        # Each is smaller than the one before; the last one fits any limit that leaves room for a sentence.
        attempts: tuple[Callable[[], dict[str, Any]], ...] = (
            lambda: self._record(exc, _Progress(), limits.TRACEBACK_CHARACTERS_MAX),
            lambda: _failed(exc, limits.TRACEBACK_CHARACTERS_MAX),
            lambda: _failed(exc, self._codec.payload_bytes_max // _CUT_SHARE, is_cut=True),
        )
        for attempt in attempts:
            try:
                text = self._codec.write(attempt(), where=where)
                return text, self.decode(text)
            except (CodecError, CannotRebuild, RecursionError):
                continue
        text = self._codec.write({"type": "", "message": "", "traceback": "", "recipe": "failed"}, where=where)
        return text, self.decode(text)

    def decode(self, text: str) -> Exception:
        """Return the exception that ``encode`` has written as ``text``; a new object each time.

        Raises:
            CannotRebuild: its class is not loaded, not allowed, or does not take its fields any more.
            CodecError: ``text`` is no failure.
        """
        return self._rebuild(parse(text, where="failure"))

    # ---- encoding ----

    def _record(self, exc: Exception, progress: _Progress, room: int) -> dict[str, Any]:
        """Return what is stored of an exception, proved to rebuild an equal one."""
        progress.count += 1
        if progress.count > _EXCEPTIONS_MAX or len(progress.within) >= _LEVELS_MAX or id(exc) in progress.within:
            return _failed(exc, room)
        progress.within.add(id(exc))
        try:
            if isinstance(exc, ExceptionGroup):
                return self._record_group(exc, progress, room)
            if self._is_found(type(exc)):
                for recipe in ("fields", *_NEW):
                    record = self._try_recipe(recipe, exc, progress, room)
                    if record is not None:
                        return record
            return _failed(exc, room)
        finally:
            progress.within.discard(id(exc))

    def _record_group(self, exc: ExceptionGroup[Exception], progress: _Progress, room: int) -> dict[str, Any]:
        share = max(_TRACEBACK_CHARACTERS_MIN, room // len(exc.exceptions))
        record = _described(exc, room) | {"recipe": "group", "text": _clean(exc.message)}
        record["errors"] = [self._record(each, progress, share) for each in exc.exceptions]
        # A subclass that cannot be rebuilt still keeps its shape, which ``except*`` goes by.
        state = {name: value for name, value in _attributes(exc).items() if name not in ("message", "exceptions")}
        record["state"] = {}
        try:
            if not self._is_found(type(exc)):
                raise Fault("its class is not to be rebuilt")
            record["state"] = self._values_to_plain(state, progress, room)
            rebuilt = self._rebuild(record)
            if type(rebuilt) is type(exc) and _text(rebuilt) == _text(exc):
                return record
        except (Fault, CannotRebuild, CodecError):
            pass
        return record | {"type": _name(ExceptionGroup), "state": {}}

    def _try_recipe(self, recipe: str, exc: Exception, progress: _Progress, room: int) -> dict[str, Any] | None:
        cls = type(exc)
        record = _described(exc, room) | {"recipe": recipe}
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
                made = _NEW[recipe](cls, exc.args)
            before = _attributes(made)
            state = _attributes(exc)
            changed = {n: v for n, v in state.items() if n not in before or not is_same(before[n], v)}
            record["state"] = self._values_to_plain(changed, progress, room)
            return record if _is_equal(exc, self._rebuild(record)) else None
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

    # ---- decoding ----

    def _rebuild(self, record: Any) -> Exception:
        """Rebuild an exception from what is stored of it.

        Raises:
            CannotRebuild, CodecError: as ``decode``.
        """
        name, message, trace, notes, recipe = _read(record)
        try:
            if recipe == "failed":
                exc: Exception = StepFailed(message, type=name, traceback=trace)
            elif recipe == "group":
                exc = self._rebuild_group(record, self._find(name))
            else:
                exc = self._construct(record, recipe, self._find(name))
            if notes:
                exc.__dict__["__notes__"] = notes
            # Past whatever __setattr__ the class has; a frozen attrs class refuses it otherwise.
            BaseException.__setattr__(exc, "__cause__", StepTraceback(trace))
        except (CannotRebuild, CodecError):
            raise
        except Exception as error:
            problem = f"{name} cannot be rebuilt by its recipe {recipe!r}: {type(error).__name__}: {_text(error)}"
            raise CannotRebuild(problem, type=name) from error
        return exc

    def _rebuild_group(self, record: dict[str, Any], cls: type[Exception]) -> Exception:
        if not issubclass(cls, ExceptionGroup):
            raise TypeError(f"{cls.__qualname__} is no ExceptionGroup")
        errors = [self._rebuild(each) for each in _expect(record, "errors", list)]
        exc = cls.__new__(cls, _expect(record, "text", str), errors)
        self._restore(exc, _expect(record, "state", dict))
        return exc

    def _construct(self, record: dict[str, Any], recipe: str, cls: type[Exception]) -> Exception:
        exc: Exception
        if recipe == "fields":
            exc = self._codec.from_plain(record.get("fields"), cls)
            if "args" in record:
                exc.args = tuple(self._value_from_plain(value) for value in _expect(record, "args", list))
        elif recipe in _NEW:
            args = tuple(self._value_from_plain(value) for value in _expect(record, "args", list))
            exc = _NEW[recipe](cls, args)
        else:
            raise TypeError("the recipe is unknown")
        if type(exc) is not cls:
            raise TypeError(f"it became {_name(type(exc))}")
        self._restore(exc, _expect(record, "state", dict))
        return exc

    def _restore(self, exc: Exception, state: dict[str, Any]) -> None:
        # No property and no __setattr__ of the class is called: only slots, C fields and the instance's dict are set.
        slots = _slots(type(exc))
        for name, plain in state.items():
            if name.startswith("__") and name.endswith("__"):
                raise TypeError(f"{name} is no attribute of an error")
            value = self._value_from_plain(plain)
            if name in slots:
                slots[name].__set__(exc, value)
            else:
                exc.__dict__[name] = value

    def _value_from_plain(self, plain: Any) -> Any:
        if type(plain) is dict and len(plain) == 1:
            if "$error" in plain:
                return self._rebuild(plain["$error"])
            if "$record" in plain:
                return self._codec.from_plain(plain["$record"], FailureRecord)
        return self._codec.from_plain(plain, ANY_SCALARS)

    def _is_found(self, cls: type[Exception]) -> bool:
        try:
            return self._find(_name(cls)) is cls
        except CannotRebuild:
            return False

    def _find(self, name: str) -> type[Exception]:
        """Return the exception class of this name, if it is loaded and allowed; never import it."""
        if name in self._classes:
            return self._classes[name]
        parts = name.split(".")
        for count in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:count])
            loaded = sys.modules.get(module)
            if loaded is None:
                continue
            if module.partition(".")[0] not in _TRUSTED and module not in self._modules:
                break
            found: Any = loaded
            for part in parts[count:]:
                found = vars(found).get(part) if isinstance(found, type) or found is loaded else None
            if isinstance(found, type) and issubclass(found, Exception) and _name(found) == name:
                return found
            break
        raise CannotRebuild(
            f"the exception {name} is not loaded or not allowed here: import it, and name it in Engine(errors=...)",
            type=name,
        )


def describe(text: str) -> FailureRecord:
    """Return the type, text and traceback of a stored failure for people; rebuild nothing.

    Raises:
        CodecError: ``text`` is no failure.
    """
    name, message, trace, _, _ = _read(parse(text, where="failure"))
    return FailureRecord(type=name, message=message, traceback=trace)


@attrs.define
class _Progress:
    """How far the encoding of one failure has come."""

    count: int = 0
    within: set[int] = attrs.field(factory=set)  # ids of the exceptions around this one


# ---- what is read of an exception --------------------------------------------------------------------------------


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _clean(text: str) -> str:
    """Escape what is not Unicode text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as error:
        return f"<{type(error).__name__} in str() of {_name(type(exc))}>"


def _notes(exc: BaseException) -> list[str]:
    notes = getattr(exc, "__notes__", None)
    return [_clean(note) for note in notes if isinstance(note, str)] if isinstance(notes, list | tuple) else []


def _trace(exc: BaseException, room: int) -> str:
    try:
        lines = traceback.format_exception(exc) if _is_small(exc) else traceback.format_tb(exc.__traceback__)
        text = _clean("".join(lines))
    except Exception as error:  # of a __str__ or a __cause__ that is no exception
        text = f"<no traceback: {type(error).__name__}>\n"
    if len(text) <= room:
        return text
    tail = text[len(text) - room :]
    return "... (earlier frames are left out)\n" + tail[tail.find("\n") + 1 :]


def _is_small(exc: BaseException) -> bool:
    """Whether the exceptions that a full traceback shows are few; ``traceback`` itself has no bound for groups."""
    left: list[BaseException] = [exc]
    chained: set[int] = set()
    for _ in range(_EXCEPTIONS_MAX):
        if not left:
            return True
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left.extend(each.exceptions)
        for other in (each.__cause__, each.__context__):
            if other is not None and id(other) not in chained:
                chained.add(id(other))
                left.append(other)
    return not left


def _described(exc: BaseException, room: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "type": _clean(_name(type(exc))),
        "message": _clean(_text(exc)),
        "traceback": _trace(exc, room),
    }
    notes = _notes(exc)
    return record | {"notes": notes} if notes else record


def _failed(exc: BaseException, room: int, *, is_cut: bool = False) -> dict[str, Any]:
    """Return the record of what ``StepFailed`` will stand for."""
    record = _described(exc, room) | {"recipe": "failed"}
    if is_cut:
        record.pop("notes", None)
        record["type"] = record["type"][:room]
        if len(record["message"]) > room:
            record["message"] = record["message"][:room] + "... (cut)"
    return record


def _slots(cls: type) -> dict[str, Any]:
    """Return the descriptors of a class's slots and C fields, but for those of every exception."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            is_slot = isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType)
            if is_slot and not name.startswith("__") and (base, name) not in _LEFT_OUT:
                found[name] = member
    return found


def _attributes(exc: BaseException) -> dict[str, Any]:
    """Return all that an exception holds besides its args and notes."""
    found = {name: value for name, value in exc.__dict__.items() if name != "__notes__"}
    for name, member in _slots(type(exc)).items():
        try:
            found[name] = member.__get__(exc)
        except AttributeError:
            continue  # never set
    return found


def _is_equal(exc: Exception, rebuilt: Exception) -> bool:
    """Whether all of ``exc`` is in ``rebuilt``. Exceptions within it were proved by themselves."""
    mine, theirs = _attributes(exc), _attributes(rebuilt)
    return (
        type(exc) is type(rebuilt)
        and mine.keys() == theirs.keys()
        and len(exc.args) == len(rebuilt.args)
        and _text(exc) == _text(rebuilt)
        and all(
            is_same(a, b) or (isinstance(a, Exception) and isinstance(b, Exception))
            for a, b in [*((mine[name], theirs[name]) for name in mine), *zip(exc.args, rebuilt.args, strict=True)]
        )
    )


# ---- what is read of a record ------------------------------------------------------------------------------------


def _expect(record: dict[str, Any], key: str, cls: type) -> Any:
    value = record.get(key)
    if type(value) is not cls:
        raise CodecError(f"failure: no {cls.__name__} {key!r} in it", where="failure", path=f".{key}")
    return value


def _read(record: Any) -> tuple[str, str, str, list[str], str]:
    if type(record) is not dict:
        raise CodecError("failure: an object was expected", where="failure")
    notes = record.get("notes", [])
    if type(notes) is not list or not all(type(note) is str for note in notes):
        raise CodecError("failure: its notes are no list of strings", where="failure", path=".notes")
    name, message, trace, recipe = (_expect(record, key, str) for key in ("type", "message", "traceback", "recipe"))
    return name, message, trace, notes, recipe
