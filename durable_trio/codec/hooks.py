"""``TypeHook``: how the values of a class of the user's become JSON and come back, where the codec does not know it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

import attrs

from durable_trio.codec.coder import ALL_KINDS, Coder
from durable_trio.codec.extent import no_fields, room_left
from durable_trio.codec.faults import Fault, fault_of, type_name
from durable_trio.codec.plain import from_plain, to_plain
from durable_trio.codec.scalars import SCALARS
from durable_trio.looks import defines_equality, is_a, qualified_name, short

__all__ = ["TypeHook", "hook_coder", "hooks_by_class"]

T = TypeVar("T")

# These are stored as they are, and the codec goes by their exact classes.
_OWN: Final = frozenset({object, type(None), bool, int, float, str, list, dict, tuple, set, frozenset, *SCALARS})


@attrs.frozen
class TypeHook(Generic[T]):
    """How a class is stored that is not otherwise: for ``Engine(types=[…])``.

    ``TypeHook(Money, lambda money: str(money), Money.parse)`` has what is annotated ``Money`` stored as that string,
    wherever values are converted by an annotation: arguments, results, signals, items, and in fields and containers.
    It comes before what would be done with the class without it.

    Keep what is stored readable: runs outlive the code that wrote them, so ``decode`` must take what any earlier
    ``encode`` has given. Both are called on the event loop, often, and again at replay: they must be quick, and do
    nothing but convert. Each value is decoded again at once, and the copy is what the program goes on with; if that is
    of another class, not equal (where the class defines ``==``), or would be stored differently, it is refused.

    Args:
        cls: the class, as it stands in annotations. Values of subclasses are taken too, and must come back as such;
            as a member of a union only those of the class itself.
        encode: gives exact JSON for a value: ``None bool int float str``, lists, dicts with keys that are ``str``.
        decode: gives the value for what ``encode`` has given.

    Raises:
        TypeError: ``cls`` is no class, or the others are no functions.
        ValueError: the class is one that is stored as it is: JSON's own, containers, ``datetime`` and its like.

    *Errors:* whatever ``encode`` or ``decode`` raise is a ``CodecError`` that names the place in the value.
    """

    cls: type[T] = attrs.field()
    encode: Callable[[T], Any] = attrs.field()
    decode: Callable[[Any], T] = attrs.field()

    @cls.validator
    def _check_class(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not is_a(value, type):
            raise TypeError(f"TypeHook takes a class first, not {short(value)}")
        if any(value is own for own in _OWN):
            raise ValueError(f"{qualified_name(value)} is stored as it is and takes no TypeHook")

    @encode.validator
    @decode.validator
    def _check_function(self, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not callable(value):
            raise TypeError(f"TypeHook: {attribute.name} must be a function, not {short(value)}")


def hooks_by_class(hooks: Iterable[TypeHook[Any]]) -> dict[type, TypeHook[Any]]:
    """Return hooks by their classes.

    Raises:
        TypeError: one is none.
        ValueError: two are for the same class.
    """
    found: dict[type, TypeHook[Any]] = {}
    for hook in hooks:
        if not is_a(hook, TypeHook):
            raise TypeError(f"types must be TypeHooks, as TypeHook(Money, encode, decode), not {short(hook)}")
        if found.setdefault(hook.cls, hook) is not hook:
            raise ValueError(f"types has two hooks for {qualified_name(hook.cls)}")
    return found


def hook_coder(name: str, hook: TypeHook[Any], *, room: int) -> Coder:
    """Return the coder of a class that has a hook; ``room``: bytes that the text of one value may have."""

    def encode(value: Any) -> Any:
        if not is_a(value, hook.cls):
            raise Fault(f"{type_name(value)} is no {name}")
        plain = write(value)
        again = decode(plain)
        if type(again) is not type(value):
            raise Fault(f"{type_name(value)} would come back as {type_name(again)}, by its TypeHook")
        if defines_equality(value) and not _is_equal(value, again):
            raise Fault(f"{type_name(value)} would come back as another value, by its TypeHook")
        return plain

    def write(value: Any) -> Any:
        try:
            found = hook.encode(value)
        except BaseException as error:
            fault = fault_of(error, f"encode of the TypeHook of {name} has raised")
            raise fault from fault.__cause__
        # Counted before it is walked through: it may share its parts without end.
        if room_left(found, room, no_fields) < 0:
            raise Fault(f"encode of the TypeHook of {name} gives more than can be stored")
        try:
            return to_plain(found)
        except Fault as fault:
            fault.segments.clear()
            fault.reason = f"encode of the TypeHook of {name} must give JSON: {fault.reason}"
            raise

    def decode(plain: Any) -> Any:
        try:
            value = hook.decode(from_plain(plain))
        except BaseException as error:
            fault = fault_of(error, f"decode of the TypeHook of {name} has raised")
            raise fault from fault.__cause__
        if not is_a(value, hook.cls):
            raise Fault(f"decode of the TypeHook of {name} has returned {type_name(value)}")
        return value

    return Coder(name, ALL_KINDS, frozenset({hook.cls}), encode, decode)


def _is_equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except BaseException as error:
        fault = fault_of(error, "comparing it has raised")
    raise fault from fault.__cause__
