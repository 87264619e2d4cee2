"""Looks at users' objects that nothing of theirs comes out of.

Whatever looks at an object may run code of the user's: ``str()``, ``repr()``, an attribute, ``==``, ``len()``, a loop,
even ``isinstance``, which asks an object for its ``__class__``. That code may raise, also ``SystemExit``, recurse, or
return what it must not. So no other module looks at an object of the user's in the open: it asks here, goes by the
object's real type (``is_a``), or has its whole look guarded (``look``).

What an object raises when it is looked at says something of the object and no more: also a ``KeyboardInterrupt`` or
``SystemExit`` of it ends nothing. Ctrl-C itself cannot come inside a look.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Final, TypeVar, cast

import trio

__all__ = [
    "PROGRAM",
    "attributes",
    "bears_a_look",
    "class_name",
    "clean",
    "defines_equality",
    "exact_bool",
    "exact_number",
    "exact_text",
    "is_a",
    "is_async",
    "is_awaitable",
    "leaves",
    "look",
    "members_of",
    "message_of",
    "module_name",
    "program_name",
    "qualified_name",
    "said",
    "short",
    "stored_module",
    "text_of",
    "traceback_of",
]

T = TypeVar("T")
T_exc = TypeVar("T_exc", bound=BaseException)

#: What the program's own module is called while it runs, and in a process that ``multiprocessing`` has spawned of it.
PROGRAM: Final = ("__main__", "__mp_main__")

# What ``short`` shows of a value.
_SHORT_CHARACTERS_MAX: Final = 80
# Exceptions in a group, counted as often as they are met: twenty groups, each twice in the next, hold a million.
_MEMBERS_MAX: Final = 100_000

# Python's own getters, which no class of the user's can put another in place of.
_BASE: Final = vars(BaseException)
_attributes: Final = _BASE["__dict__"].__get__
_traceback: Final = _BASE["__traceback__"].__get__
_message: Final = vars(BaseExceptionGroup)["message"].__get__
_args: Final = _BASE["args"].__get__
_members: Final = vars(BaseExceptionGroup)["exceptions"].__get__
# By their ids, because a class may make of its hash what it likes.
_PLAIN_CLASSES: Final = {
    id(cls) for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, Exception)
} - {id(ExceptionGroup)}
_class_qualname: Final = vars(type)["__qualname__"].__get__
_class_mro: Final = vars(type)["__mro__"].__get__
_class_attributes: Final = vars(type)["__dict__"].__get__
_class_module: Final = vars(type)["__module__"].__get__


@trio.lowlevel.enable_ki_protection  # so that what is caught here is the object's own
def look(at: Callable[..., T], *args: Any, instead: Callable[[BaseException], T]) -> T:
    """Return ``at(*args)``, or what ``instead``, which must look at nothing itself, makes of whatever that raises."""
    try:
        return at(*args)
    except BaseException as error:
        return instead(error)


def is_a(value: object, cls: type | tuple[type, ...]) -> bool:
    """Whether a value is an instance of a class, by its real type alone, as ``except`` goes by it."""
    if type(cls) is tuple:
        return any(is_a(value, each) for each in cls)
    return type.__subclasscheck__(cast(type, cls), type(value))


def exact_text(text: str) -> str:
    """Return a ``str`` as one of no subclass.

    Raises:
        TypeError: it is none, whatever it says of itself.
    """
    return text if type(text) is str else str.__str__(text)


def exact_number(value: Any) -> Any:
    """Return an ``int`` or ``float`` as one of no subclass, which may do what it likes; anything else as it is."""
    cls = type(value)
    if cls is int or cls is float or cls is bool or not is_a(value, (int, float)):
        return value
    return int.__int__(value) if is_a(value, int) else float.__float__(value)


def exact_bool(value: Any, *, what: str) -> bool:
    """Return whether a value counts as true.

    Raises:
        TypeError: it does not tell.
    """
    found = look(bool, value, instead=lambda _: None)
    if found is None:
        raise TypeError(f"{what} must be True or False, not {short(value)}")
    return found


def clean(text: str) -> str:
    """Escape what is not Unicode text."""
    return text.encode("utf-8", "backslashreplace").decode()


# ---- classes ---------------------------------------------------------------------------------------------------------


def class_name(cls: type) -> str:
    """Return the name of a class, as it stands in its module."""
    return exact_text(_class_qualname(cls))


def program_name() -> str:
    """Return the name by which the program's own module would be imported; ``"__main__"`` if nothing tells one.

    By ``python -m`` it has one; of a file it is the stem.
    """
    return look(_program_name, instead=lambda _: PROGRAM[0])


def _program_name() -> str:
    main = vars(sys.modules[PROGRAM[0]])
    spec, file = main.get("__spec__"), main.get("__file__")
    if spec is not None and spec.name not in PROGRAM:
        return exact_text(spec.name)
    return (PurePath(file).stem if file is not None else "") or PROGRAM[0]


def stored_module(name: str) -> str:
    """Return a module's name as it is stored and shown: that of the program is the one it has for who imports it."""
    return program_name() if name in PROGRAM else name


def module_name(cls: type) -> str:
    """Return the name of a class's module as it is in this process."""
    return look(lambda: exact_text(_class_module(cls)), instead=lambda _: "?")


def qualified_name(cls: type) -> str:
    """Return the name of a class with its module, as it is stored and shown: the same in every process."""
    return f"{stored_module(module_name(cls))}.{class_name(cls)}"


# ---- values ----------------------------------------------------------------------------------------------------------


def short(value: object) -> str:
    """Show a value in a message; a long one is cut."""
    text = look(lambda: exact_text(repr(value)), instead=lambda _: f"<{qualified_name(type(value))}>")
    return text if len(text) <= _SHORT_CHARACTERS_MAX else text[: _SHORT_CHARACTERS_MAX - 3] + "..."


def defines_equality(value: object) -> bool:
    """Whether ``==`` of a value says more than whether it is the same object."""
    return any("__eq__" in _class_attributes(base) for base in _class_mro(type(value))[:-1])


# ---- functions and what they return ----------------------------------------------------------------------------------


def is_async(fn: object) -> bool:
    """Whether calling ``fn`` gives an awaitable, as far as it tells; not of one that does not let itself be asked."""
    if type(fn) is types.FunctionType:  # nothing of the user's is asked
        return inspect.iscoroutinefunction(fn)
    return look(_is_async, fn, instead=lambda _: False)


def _is_async(fn: object) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def is_awaitable(value: object) -> bool:
    """Whether a value can be awaited, by its real type alone."""
    cls = type(value)
    if cls is types.GeneratorType:
        return bool(cast(types.GeneratorType[Any, Any, Any], value).gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return any("__await__" in _class_attributes(base) for base in _class_mro(cls))


# ---- exceptions ------------------------------------------------------------------------------------------------------


def text_of(exc: BaseException) -> str:
    """Return ``str(exc)``, or what went wrong with it."""
    return look(
        lambda: exact_text(str(exc)),
        instead=lambda error: f"<{class_name(type(error))} in str() of {qualified_name(type(exc))}>",
    )


def said(exc: BaseException) -> str:
    """Return type and text of an exception, in one line for people."""
    return f"{class_name(type(exc))}: {text_of(exc)}"


def attributes(exc: BaseException) -> dict[Any, Any]:
    """Return the attributes of an exception that are its own, and not those that its class makes up."""
    return cast("dict[Any, Any]", _attributes(exc))


def traceback_of(exc: BaseException) -> Any:
    """Return the real traceback of an exception."""
    return _traceback(exc)


def members_of(group: BaseExceptionGroup[T_exc]) -> tuple[T_exc, ...]:
    """Return the real exceptions in a group."""
    return cast("tuple[T_exc, ...]", _members(group))


def message_of(group: BaseExceptionGroup[Any]) -> str:
    """Return the real message of a group."""
    return exact_text(_message(group))


def leaves(exc: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, however deep, each once; or the exception, if it is no group."""
    found: dict[int, BaseException] = {}
    seen: set[int] = set()
    left = [exc]
    while left:
        each = left.pop()
        if not is_a(each, BaseExceptionGroup):
            found.setdefault(id(each), each)
        elif id(each) not in seen:  # a group may be in others many times over
            seen.add(id(each))
            left.extend(reversed(_members(each)))
    return list(found.values())


def bears_a_look(exc: BaseException) -> bool:
    """Whether an exception can be handled as trio, ``contextlib``, ``traceback`` and ``logging`` handle them.

    They get its attributes and its ``repr()``, in places where nobody expects that to raise: inside trio's own loop it
    ends the process. Its ``str()`` they know to be wary of.
    """
    # The first also where there is no room on the stack to look: RecursionError itself comes that way.
    return _is_plain(exc) or look(_bears_a_look, exc, instead=lambda _: False)


def _is_plain(exc: BaseException) -> bool:
    """Whether nothing of an exception is the user's: its class is Python's own, and what ``repr()`` shows is text."""
    return id(type(exc)) in _PLAIN_CLASSES and all(type(arg) is str or type(arg) is int for arg in _args(exc))


def _bears_a_look(exc: BaseException) -> bool:
    cls = type(exc)
    if exc.__class__ is not cls or not all(type(name) is str for name in (cls.__module__, cls.__qualname__)):
        return False
    if any(isinstance(exc, asked) is not is_a(exc, asked) for asked in (trio.Cancelled, BaseExceptionGroup)):
        return False  # the first has a metaclass, which asks the class of the exception for its hash
    for name in ("__cause__", "__context__", "__suppress_context__", "__notes__"):
        getattr(exc, name, None)
    if is_a(exc, BaseExceptionGroup):
        if not _is_small(exc):
            return False
        group = cast(BaseExceptionGroup[Any], exc)
        parts = group.split(trio.Cancelled)
        if type(group.exceptions) is not tuple or type(parts) is not tuple:
            return False
        if len(parts) != 2 or not all(part is None or is_a(part, BaseExceptionGroup) for part in parts):
            return False
        if not all(map(_bears_a_look, leaves(exc))):
            return False
    # ``contextlib`` sets it. That a frozen class refuses is a failure as any other; more must not come of it.
    with contextlib.suppress(Exception):
        exc.__traceback__ = exc.__traceback__
    return exc.with_traceback(exc.__traceback__) is exc and is_a(repr(exc), str)


def _is_small(exc: BaseException) -> bool:
    """Whether whoever walks through a group, once for each time that one is in another, comes to an end."""
    left = [exc]
    for _ in range(_MEMBERS_MAX):
        if not left:
            return True
        each = left.pop()
        if is_a(each, BaseExceptionGroup):
            left.extend(_members(each))
    return not left
