"""Records to exceptions: each by the recipe that it was stored with.

No property and no ``__setattr__`` of a class is called: only slots, C fields and the instance's dict are set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from durable_trio.codec import ANY_SCALARS, Codec
from durable_trio.errors import CodecError, StepFailed
from durable_trio.failures.allowed import Allowed
from durable_trio.failures.errors import CannotRebuild, StepTraceback
from durable_trio.failures.stored import expect, read
from durable_trio.failures.visible import qualified_name, slots_of, text_of
from durable_trio.records import FailureRecord

__all__ = ["CONSTRUCTORS", "Rebuilder"]

# The recipes that call the class with the exception's args.
CONSTRUCTORS: Final[dict[str, Callable[..., Any]]] = {
    "new": lambda cls, args: cls.__new__(cls, *args),
    "init": lambda cls, args: cls(*args),
}


class Rebuilder:
    """Rebuilds exceptions of the classes that are allowed."""

    def __init__(self, codec: Codec, allowed: Allowed) -> None:
        self._codec = codec
        self._allowed = allowed

    def rebuild(self, record: Any) -> Exception:
        """Rebuild an exception from what is stored of it.

        Raises:
            CannotRebuild: its class is not loaded, not allowed, or does not take its fields any more.
            CodecError: it is no record.
        """
        name, message, trace, notes, recipe = read(record)
        try:
            if recipe == "failed":
                exc: Exception = StepFailed(message, type=name, traceback=trace)
            elif recipe == "group":
                exc = self._rebuild_group(record, self._allowed.find(name))
            else:
                exc = self._construct(record, recipe, self._allowed.find(name))
            if notes:
                exc.__dict__["__notes__"] = notes
            # Past whatever __setattr__ the class has; a frozen attrs class refuses it otherwise.
            BaseException.__setattr__(exc, "__cause__", StepTraceback(trace))
        except (CannotRebuild, CodecError):
            raise
        except Exception as error:
            problem = f"{name} cannot be rebuilt by its recipe {recipe!r}: {type(error).__name__}: {text_of(error)}"
            raise CannotRebuild(problem, type=name) from error
        return exc

    def _rebuild_group(self, record: dict[str, Any], cls: type[Exception]) -> Exception:
        if not issubclass(cls, ExceptionGroup):
            raise TypeError(f"{cls.__qualname__} is no ExceptionGroup")
        errors = [self.rebuild(each) for each in expect(record, "errors", list)]
        exc = cls.__new__(cls, expect(record, "text", str), errors)
        self._restore(exc, expect(record, "state", dict))
        return exc

    def _construct(self, record: dict[str, Any], recipe: str, cls: type[Exception]) -> Exception:
        exc: Exception
        if recipe == "fields":
            exc = self._codec.from_plain(record.get("fields"), cls)
            if "args" in record:
                exc.args = tuple(self._value_from_plain(value) for value in expect(record, "args", list))
        elif recipe in CONSTRUCTORS:
            args = tuple(self._value_from_plain(value) for value in expect(record, "args", list))
            exc = CONSTRUCTORS[recipe](cls, args)
        else:
            raise TypeError("the recipe is unknown")
        if type(exc) is not cls:
            raise TypeError(f"it became {qualified_name(type(exc))}")
        self._restore(exc, expect(record, "state", dict))
        return exc

    def _restore(self, exc: Exception, state: dict[str, Any]) -> None:
        slots = slots_of(type(exc))
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
                return self.rebuild(plain["$error"])
            if "$record" in plain:
                return self._codec.from_plain(plain["$record"], FailureRecord)
        return self._codec.from_plain(plain, ANY_SCALARS)
