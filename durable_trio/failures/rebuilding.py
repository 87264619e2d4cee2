"""Records to exceptions: each by the recipe that it was stored with.

No property and no ``__setattr__`` of a class is called: only slots, C fields and the instance's dict are set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from durable_trio.codec import ANY_SCALARS, Codec
from durable_trio.codec.faults import Fault
from durable_trio.errors import CodecError, StepFailed
from durable_trio.failures.allowed import Allowed
from durable_trio.failures.errors import CannotRebuild, StepTraceback
from durable_trio.failures.stored import expect, read
from durable_trio.failures.visible import slots_of
from durable_trio.looks import attributes, bears_a_look, qualified_name, said
from durable_trio.records import FailureRecord

__all__ = ["CONSTRUCTORS", "Rebuilder"]

# The recipes that call the class with the exception's args.
CONSTRUCTORS: Final[dict[str, Callable[..., Any]]] = {
    "new": lambda cls, args: cls.__new__(cls, *args),
    "init": lambda cls, args: cls(*args),
}

Known = Mapping[int, tuple[dict[str, Any], Exception]]
_NONE: Final[Known] = {}


class _Around(NamedTuple):
    """What stands around a record: the exceptions that it is within, ``None`` for those that are not made yet."""

    made: list[Exception | None]
    known: Known


class Rebuilder:
    """Rebuilds exceptions of the classes that are allowed."""

    def __init__(self, codec: Codec, allowed: Allowed) -> None:
        self._codec = codec
        self._allowed = allowed

    def rebuild(self, record: Any, around: Sequence[Exception] = (), known: Known = _NONE) -> Exception:
        """Rebuild an exception from what is stored of it.

        Args:
            around: the exceptions that it is within, the innermost last; it may hold them.
            known: records within it that are rebuilt already, by their ids.

        Raises:
            CannotRebuild: its class is not loaded, not allowed, or does not take its fields any more.
            CodecError: it is no record.
        """
        return self._rebuild(record, _Around(list(around), known))

    def _rebuild(self, record: Any, around: _Around) -> Exception:
        known = around.known.get(id(record))
        if known is not None:
            return known[1]
        around.made.append(None)
        try:
            return self._rebuild_within(record, around)
        finally:
            around.made.pop()

    def _rebuild_within(self, record: Any, around: _Around) -> Exception:
        name, message, trace, notes, recipe = read(record)
        try:
            if recipe == "failed":
                exc: Exception = StepFailed(message, type=name, traceback=trace)
            elif recipe == "group":
                exc = self._rebuild_group(record, self._allowed.find(name), around)
            else:
                exc = self._construct(record, recipe, self._allowed.find(name), around)
            if notes:
                attributes(exc)["__notes__"] = notes
            # Past whatever __setattr__ the class has; a frozen attrs class refuses it otherwise.
            BaseException.__setattr__(exc, "__cause__", StepTraceback(trace))
        except (CannotRebuild, CodecError):
            raise
        except BaseException as error:  # of a constructor, say
            reason = f"{error.path}: {error.reason}" if type(error) is Fault else said(error)
            problem = (
                f"{name} does not take what is stored of it, by its recipe {recipe!r} ({reason.removeprefix(': ')}); "
                "let it take that again, so give an added field a default, and keep one that was removed"
            )
            raise CannotRebuild(problem, type=name) from error if bears_a_look(error) else None
        return exc

    def _rebuild_group(self, record: dict[str, Any], cls: type[Exception], around: _Around) -> Exception:
        if not issubclass(cls, ExceptionGroup):
            raise TypeError(f"{cls.__qualname__} is no ExceptionGroup")
        errors = [self._rebuild(each, around) for each in expect(record, "errors", list)]
        exc = cls.__new__(cls, expect(record, "text", str), errors)
        self._restore(exc, expect(record, "state", dict), around)
        return exc

    def _construct(self, record: dict[str, Any], recipe: str, cls: type[Exception], around: _Around) -> Exception:
        exc: Exception
        if recipe == "fields":
            exc = self._codec.from_plain(record.get("fields"), cls)
            if "args" in record:
                exc.args = tuple(self._value_from_plain(value, around) for value in expect(record, "args", list))
        elif recipe in CONSTRUCTORS:
            args = tuple(self._value_from_plain(value, around) for value in expect(record, "args", list))
            exc = CONSTRUCTORS[recipe](cls, args)
        else:
            raise TypeError("the recipe is unknown")
        if type(exc) is not cls:
            raise TypeError(f"it became {qualified_name(type(exc))}")
        self._restore(exc, expect(record, "state", dict), around)
        return exc

    def _restore(self, exc: Exception, state: dict[str, Any], around: _Around) -> None:
        around.made[-1] = exc
        slots = slots_of(type(exc))
        for name, plain in state.items():
            if name.startswith("__") and name.endswith("__"):
                raise TypeError(f"{name} is no attribute of an error")
            value = self._value_from_plain(plain, around)
            if name in slots:
                slots[name].__set__(exc, value)
            else:
                attributes(exc)[name] = value

    def _value_from_plain(self, plain: Any, around: _Around) -> Any:
        if type(plain) is dict and len(plain) == 1:
            if "$error" in plain:
                return self._rebuild(plain["$error"], around)
            if "$outer" in plain:
                return _outer(plain["$outer"], around.made)
            if "$record" in plain:
                return self._codec.from_plain(plain["$record"], FailureRecord)
        return self._codec.from_plain(plain, ANY_SCALARS)


def _outer(levels: object, around: Sequence[Exception | None]) -> Exception:
    """Return the exception so many levels around what is being read; the one that it belongs to is 0."""
    exc = around[-1 - levels] if type(levels) is int and 0 <= levels < len(around) else None
    if exc is None:
        raise TypeError("an exception holds one that is not around it, or not made yet")
    return exc
