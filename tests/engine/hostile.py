"""Objects of users that do their worst when they are looked at, by fault and by the method that has it.

A hostile object is of a class of its own, one of whose special methods, properties or other hooks has a fault: it
raises, recurses, lies, blocks. Its class is *armed* once it is made, so that making it is no user's mistake.
"""

from __future__ import annotations

import enum
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import attrs

Fault = Callable[..., Any]
Make = Callable[[str], tuple[Any, Any]]
#: The module of the workflows, whose exceptions come back as themselves.
HOME = "tests.engine.hostile_places"


class WorseError(Exception):
    """What a fault raises: an exception that is hostile itself."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"do not ask for {name}")

    def __repr__(self) -> str:
        raise SystemExit("do not look")

    __str__ = __repr__


def _raising(error: Callable[[], BaseException]) -> Fault:
    def fault(*_: Any, **__: Any) -> Any:
        raise error()

    return fault


def _recurse(*args: Any, **options: Any) -> Any:
    return _recurse(*args, **options)


def _block(*_: Any, **__: Any) -> Any:
    time.sleep(0.0005)
    raise TimeoutError("it took too long")


def _iterate(*_: Any, **__: Any) -> Iterator[int]:
    """An answer without end, to whoever goes through it."""
    while True:
        yield 1


FAULTS: dict[str, Fault] = {
    "raises": _raising(lambda: RuntimeError("it is closed")),
    "raises KeyError": _raising(lambda: KeyError("name")),
    "raises AttributeError": _raising(lambda: AttributeError("name")),
    "raises SystemExit": _raising(lambda: SystemExit(3)),
    "raises KeyboardInterrupt": _raising(KeyboardInterrupt),
    "raises GeneratorExit": _raising(GeneratorExit),
    "raises what is hostile": _raising(WorseError),
    "raises MemoryError": _raising(MemoryError),
    "raises StopIteration": _raising(StopIteration),
    "recurses": _recurse,
    "blocks": _block,
    "lies": lambda *_, **__: 5,
    "lies with an object": lambda *_, **__: object(),
    "has no end": _iterate,
}

# Calling and awaiting is no look: code that is run may end the program.
_RUN = frozenset({"__call__", "__await__"})
_ENDS = frozenset({"raises SystemExit", "raises KeyboardInterrupt", "raises GeneratorExit"})

# What Python, trio or this library may call of any object, as a method or as a property.
METHODS = (
    *("__getattribute__", "__getattr__", "__setattr__", "__dir__", "__str__", "__repr__", "__format__"),
    *("__eq__", "__lt__", "__hash__", "__bool__", "__len__", "__iter__", "__getitem__"),
    *("__index__", "__int__", "__call__", "__reduce__", "__reduce_ex__", "__del__", "__await__"),
)
OF_BUILT_INS = (
    *("__getattribute__", "__str__", "__repr__", "__format__", "__eq__", "__lt__", "__hash__", "__bool__", "__len__"),
    *("__iter__", "__getitem__", "__index__", "__int__", "__float__", "__add__", "__rmul__", "encode"),
)
PROPERTIES = ("__class__", "__dict__", "__module__")
OF_EXCEPTIONS = ("__traceback__", "__cause__", "__context__", "__suppress_context__", "__notes__", "args")
METHODS_OF_EXCEPTIONS = ("with_traceback", "add_note", "__setstate__")
OF_GROUPS = ("exceptions", "message")
METHODS_OF_GROUPS = ("split", "subgroup", "derive")
OF_METACLASSES = (
    *("__getattribute__", "__getattr__", "__eq__", "__hash__", "__repr__", "__instancecheck__", "__bool__", "__len__"),
    *("__iter__", "__mro_entries__"),
)  # not __subclasscheck__: up to Python 3.11 catching an exception calls it, and what it raises is raised instead
PROPERTIES_OF_METACLASSES = ("__name__", "__module__", "__annotations__", "__doc__", "__members__")


_BUILT_INS: tuple[tuple[type, Any], ...] = (
    (str, "text"),
    (int, 1),
    (float, 1.5),
    (bytes, b"x"),
    (dict, {"a": 1}),
    (list, [1]),
    (set, {1}),
    (pathlib.PurePosixPath, "/tmp"),
)


def _found(name: str, cls: Any) -> Any:
    """Have a class found by its name, so that an exception of it may come back as itself."""
    vars(sys.modules[HOME])[name] = cls
    return cls


class Armed:
    """Whether the faults of one class are at work."""

    def __init__(self) -> None:
        self.is_on = False


def _method(armed: Armed, base: type, name: str, fault: Fault) -> Any:
    """Return a method with a fault, that is the base's while it is not armed."""
    usual = next((vars(each)[name] for each in base.__mro__ if name in vars(each)), None)

    def method(self: Any, *args: Any, **options: Any) -> Any:
        if armed.is_on:
            return fault(self, *args, **options)
        if usual is None:
            raise AttributeError(args[0] if args else name)
        return usual(self, *args, **options)

    return method


def _property(armed: Armed, base: type, name: str, fault: Fault) -> Any:
    usual: Any = base.__dict__.get(name) or getattr(base, name, None)

    def read(self: Any) -> Any:
        if armed.is_on:
            return fault(self)
        if name == "__class__":
            return type(self)
        return usual.__get__(self) if hasattr(usual, "__get__") else usual

    def write(self: Any, value: Any) -> None:
        if armed.is_on:
            fault(self, value)
        elif hasattr(usual, "__set__"):
            usual.__set__(self, value)

    return property(read, write)


@attrs.frozen(repr=False)
class Hostile:
    """One hostile object to come: its kind, where its fault is, what the fault is."""

    kind: str
    place: str
    fault: str
    make: Make
    """Returns the object, of a class of that name, and the type by which it is annotated, if by any."""

    def __str__(self) -> str:
        return f"{self.kind} whose {self.place} {self.fault}"


def _exception(base: type, place: str, fault: str, *, is_property: bool) -> Make:
    def make(name: str) -> tuple[Any, Any]:
        armed = Armed()
        hook = (_property if is_property else _method)(armed, base, place, FAULTS[fault])
        cls = _found(name, type(name, (base,), {place: hook, "__module__": HOME}))
        if issubclass(cls, BaseExceptionGroup):
            error: Any = cls("several", [ValueError("one"), KeyError("two")])
        else:
            error = cls("the disk is on fire")
        armed.is_on = True
        return error, None

    return make


def _with_metaclass(base: type, place: str, fault: str, *, is_property: bool) -> Make:
    def make(name: str) -> tuple[Any, Any]:
        armed = Armed()
        hook = (_property if is_property else _method)(armed, type, place, FAULTS[fault])
        meta = type("Meta", (type,), {place: hook})
        cls = _found(name, meta(name, (base,), {"__module__": HOME}))
        value = cls("of a hostile class") if issubclass(base, BaseException) else cls()
        armed.is_on = True
        return value, cls

    return make


def _with_fields(place: str, fault: str, *, is_property: bool) -> Make:
    """A value of an attrs class with a hook of its own."""

    def make(name: str) -> tuple[Any, Any]:
        armed = Armed()
        hook = (_property if is_property else _method)(armed, object, place, FAULTS[fault])
        body: dict[str, Any] = {"__annotations__": {"number": int, "lines": list[int]}, "lines": attrs.Factory(list)}
        cls: Any = attrs.define(slots=False, eq=place not in ("__eq__", "__hash__"))(
            type("HostileValue", (), {**body, place: hook, "__module__": __name__})
        )
        value = cls(number=1)
        armed.is_on = True
        return value, cls

    return make


def _with_helper(place: str, fault: str) -> Make:
    """A value of an attrs class that has a fault in what attrs calls, or in a field that is loaded when it is read."""

    def make(name: str) -> tuple[Any, Any]:
        armed = Armed()

        def strike(*args: Any) -> Any:
            return FAULTS[fault]() if armed.is_on else args[-1]

        cls: Any
        if place == "validator":
            cls = attrs.make_class("HostileValue", {"number": attrs.field(type=int, validator=strike)})
        elif place == "converter":
            cls = attrs.make_class("HostileValue", {"number": attrs.field(type=int, converter=strike)})
        elif place == "__attrs_post_init__":
            cls = attrs.make_class("HostileValue", {"number": attrs.field(type=int)}, (PostInit,))
            cls.strike = strike
        else:
            cls = attrs.make_class("HostileValue", {"number": attrs.field(type=int), "lines": attrs.field(type=list)})
            usual = cls.__getattribute__

            def read(self: Any, name: str) -> Any:
                return FAULTS[fault]() if name == "lines" and armed.is_on else usual(self, name)

            cls = type("HostileValue", (cls,), {"__getattribute__": read, "__slots__": ()})
            cls = attrs.define(cls)
            value = cls(1, [])
            armed.is_on = True
            return value, cls
        value = cls(1)
        armed.is_on = True
        return value, cls

    return make


class PostInit:
    strike: ClassVar[Fault]

    def __attrs_post_init__(self) -> None:
        type(self).strike(None)


def _enum(place: str, fault: str, *, is_property: bool) -> Make:
    def make(name: str) -> tuple[Any, Any]:
        armed = Armed()
        hook = (_property if is_property else _method)(armed, enum.Enum, place, FAULTS[fault])
        if place in ("value", "name"):
            hook = enum.property(hook.fget)
        if place == "_missing_":
            hook = classmethod(hook)
        body = enum.EnumMeta.__prepare__("HostileEnum", (enum.Enum,))
        body[place] = hook
        body["RED"] = "red"
        body["__module__"] = __name__
        cls: Any = enum.EnumMeta("HostileEnum", (enum.Enum,), body)
        value = cls.RED
        armed.is_on = True
        return value, cls

    return make


def _built_in(base: type, given: Any, place: str, fault: str, *, is_property: bool) -> Make:
    """A value of a subclass of a built-in class, which says that it is one."""

    def make(name: str) -> tuple[Any, Any]:
        armed = Armed()
        hook = (_property if is_property else _method)(armed, base, place, FAULTS[fault])
        cls = type(f"Hostile{base.__name__.title()}", (base,), {place: hook, "__module__": __name__})
        value = cls(given)
        armed.is_on = True
        return value, base

    return make


def _cases(kind: str, places: Iterator[tuple[str, bool]], make: Callable[..., Any]) -> Iterator[Hostile]:
    for place, is_property in places:
        for fault in FAULTS:
            if not (place in _RUN and fault in _ENDS):
                yield Hostile(kind, place, fault, make(place, fault, is_property=is_property))


def _hooks(methods: tuple[str, ...], properties: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    yield from ((name, False) for name in methods)
    yield from ((name, True) for name in properties)


def errors() -> Iterator[Hostile]:
    """Yield hostile exceptions: each hook with each fault, of a plain one, a group, and a class with a metaclass."""

    def plain(place: str, fault: str, *, is_property: bool) -> Any:
        return _exception(Exception, place, fault, is_property=is_property)

    def group(place: str, fault: str, *, is_property: bool) -> Any:
        return _exception(ExceptionGroup, place, fault, is_property=is_property)

    def of_metaclass(place: str, fault: str, *, is_property: bool) -> Any:
        return _with_metaclass(Exception, place, fault, is_property=is_property)

    of_all = (*METHODS, *METHODS_OF_EXCEPTIONS), (*PROPERTIES, *OF_EXCEPTIONS)
    yield from _cases("an exception", _hooks(*of_all), plain)
    yield from _cases("a group", _hooks(METHODS_OF_GROUPS, OF_GROUPS), group)
    yield from _cases("an exception by metaclass", _hooks(OF_METACLASSES, PROPERTIES_OF_METACLASSES), of_metaclass)


def values() -> Iterator[Hostile]:
    """Yield hostile values: of classes with fields, enums, and subclasses of what JSON has."""

    def of_metaclass(place: str, fault: str, *, is_property: bool) -> Any:
        return _with_metaclass(object, place, fault, is_property=is_property)

    yield from _cases("a value", _hooks(METHODS, PROPERTIES), _with_fields)
    yield from _cases("a value by metaclass", _hooks(OF_METACLASSES, PROPERTIES_OF_METACLASSES), of_metaclass)
    yield from _cases("an enum", _hooks((*METHODS, "_missing_"), (*PROPERTIES, "value", "name")), _enum)
    for place in ("validator", "converter", "__attrs_post_init__", "lazy field"):
        for fault in FAULTS:
            yield Hostile("a value", place, fault, _with_helper(place, fault))
    for place, is_property in _hooks(OF_BUILT_INS, ("__class__",)):  # all classes with one hook are one kind
        for base, given in _BUILT_INS:
            for fault in FAULTS:
                make = _built_in(base, given, place, fault, is_property=is_property)
                yield Hostile("a built-in value", place, f"{fault} ({base.__name__})", make)
