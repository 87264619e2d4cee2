"""Reading what was written when an annotation was another one: a union was wider or narrower, a class had another name.

Nothing here is needed for what the code of now writes, and none of it is tried unless reading that way has failed: so
it costs nothing, and what could be read before is still read as the same.

An object with ``$type`` was written by a member of a union; no other coder writes such a key. So where there is a
single class now, it takes its own name, or an alias of it. What has no ``$type`` was written before there was a union,
or by the member that needed none then: it is the one member's that takes it.
"""

from __future__ import annotations

import threading
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from durable_trio.aliases import alias_line, is_stored_name
from durable_trio.codec.annotations import label, resolve
from durable_trio.codec.coder import Coder
from durable_trio.codec.faults import Fault, type_name
from durable_trio.codec.sameness import is_same
from durable_trio.looks import PROGRAM, class_name, qualified_name

__all__ = ["Member", "class_of", "read_also_tagged", "read_by_any_member", "split"]


class Member(NamedTuple):
    """A member of a union, or a type that is one no more."""

    coder: Coder
    annotation: Any


def class_of(annotation: Any) -> type | None:
    """Return the class of an annotation, without its arguments; ``None`` if it has none."""
    resolved = resolve(annotation)
    found = typing.get_origin(resolved) or resolved
    if not isinstance(found, type):
        return None
    own = getattr(found, "__pydantic_generic_metadata__", None)  # Pydantic makes a class for each of its arguments
    return own["origin"] or found if own else found


def split(plain: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the tag of an object, and the rest of it."""
    rest = dict(plain)
    return rest.pop("$type"), rest


def read_also_tagged(coder: Coder, annotation: Any, aliases: Mapping[str, type]) -> Callable[[Any], Any]:
    """Return how a type reads what it has written, also as a member of a union that there is no more."""
    member, read = Member(coder, annotation), coder.decode

    def decode(plain: Any) -> Any:
        tagged = _tagged(plain)
        if tagged is None:
            return read(plain)
        tag, rest = split(tagged)
        if not _is_meant(tag, member, aliases):
            raise _unknown(tag, rest, [member], aliases, coder.name)
        return read(_untagged(coder, rest))

    return decode


def read_by_any_member(
    name: str, members: Sequence[Member], read: Callable[[Any], Any], aliases: Mapping[str, type]
) -> Callable[[Any], Any]:
    """Return how a union reads what it has written, and what was written before it was this union."""

    def decode(plain: Any) -> Any:
        if type(plain) is not dict and type(plain) is not list:
            return decide(plain)
        with _ATTEMPTS as attempts:
            return attempts.once(decide, plain)

    def decide(plain: Any) -> Any:
        try:
            return read(plain)
        except Fault as fault:
            refused = fault
        tagged = _tagged(plain)
        if tagged is None:
            return _read_by_one([(member, plain) for member in members], refused)
        tag, rest = split(tagged)
        meant = [member for member in members if _is_meant(tag, member, aliases)]
        if not meant:
            raise _unknown(tag, rest, members, aliases, name)
        return _read_by_one([(member, _untagged(member.coder, rest)) for member in meant], refused)

    return decode


class _Attempts(threading.local):
    """What unions have made of the parts of one value: each is tried once, not again for each member around it.

    Else a union within itself would try two members at each level, and both at each level below.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._made: dict[tuple[int, int], tuple[Any, Any, Fault | None]] = {}  # with what has these ids, kept for them

    def __enter__(self) -> _Attempts:
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._made.clear()

    def once(self, decide: Callable[[Any], Any], plain: Any) -> Any:
        """Return what ``decide`` makes of a list or an object, or raise the fault that it has raised."""
        key_of, key = (decide, plain), (id(decide), id(plain))
        if key not in self._made:
            try:
                self._made[key] = key_of, decide(plain), None
            except Fault as fault:
                self._made[key] = key_of, None, Fault(fault.reason, *fault.segments)
                raise
        _, value, refused = self._made[key]
        if refused is not None:
            raise Fault(refused.reason, *refused.segments)  # who lets it out adds to its segments
        return value


_ATTEMPTS: Final = _Attempts()


def _tagged(plain: Any) -> dict[str, Any] | None:
    """Return the object with a tag that a part of a value is; ``None`` if it is none."""
    if type(plain) is not dict:
        return None
    inner = plain.get("$dict")  # of what was written by hand, where nobody knew the classes, as in a shell
    found = inner if type(inner) is dict else plain
    return found if "$type" in found else None


def _is_meant(tag: Any, member: Member, aliases: Mapping[str, type]) -> bool:
    """Whether a tag is a name of this type: by an alias, or by its own, bare or with its module.

    Of ``list[int]`` only ``list`` is asked for: the types within it may have become others, too. A word of a
    ``Literal`` may have been stored as one of its class, and that as one of a ``Literal``.
    """
    if type(tag) is not str:
        return False
    cls = class_of(member.annotation)
    outer = tag.partition("[")[0]
    for name in (tag, outer):
        if name in aliases:
            return class_of(aliases[name]) is cls
    names = {label(member.annotation).partition("[")[0]}
    if member.coder.is_literal:
        names.update(map(class_name, member.coder.classes or ()))
    elif cls is not None:
        names.update((qualified_name(cls), f"{PROGRAM[0]}.{class_name(cls)}"))
    return outer in names or (outer == "Literal" and member.coder.allowed is None)


def _untagged(coder: Coder, rest: dict[str, Any]) -> Any:
    """Return what a member had written before it was given its tag."""
    return rest["value"] if coder.allowed is None and rest.keys() == {"value"} else rest


def _read_by_one(found: Sequence[tuple[Member, Any]], refused: Fault) -> Any:
    """Return the value of the one member that takes what was written.

    Raises:
        Fault: ``refused`` if none does; or there are several, and they make different values of it.
    """
    taken, faults = [], [refused]
    for member, plain in found:
        try:
            taken.append((member, member.coder.decode(plain), plain))
        except Fault as fault:
            faults.append(fault)
    if not taken:
        # The member that has come farthest is meant; unless there are several.
        most = max(len(each.segments) for each in faults)
        farthest = {(each.reason, each.path): each for each in faults if len(each.segments) == most}
        raise refused if len(farthest) > 1 else farthest.popitem()[1]
    if not _agree(taken):
        # A date can be read as a datetime, which would never be written like that. Fields may have been added since.
        taken = [each for each in taken if each[0].coder.allowed is not None or _writes(*each)] or taken
    if not _agree(taken):
        names = " and ".join(member.coder.name for member, _, _ in taken)
        plain = taken[0][2]
        hint = "; let only one of them, by a field that it must have" if type(plain) is dict else ""
        raise Fault(f"{type_name(plain)} without $type is taken by {names}{hint}")
    return taken[0][1]


def _agree(taken: Sequence[tuple[Member, Any, Any]]) -> bool:
    return all(is_same(taken[0][1], value) for _, value, _ in taken[1:])


def _writes(member: Member, value: Any, plain: Any) -> bool:
    try:
        return is_same(member.coder.encode(value), plain)
    except Fault:
        return False


def _takes(coder: Coder, rest: dict[str, Any]) -> bool:
    try:
        coder.decode(_untagged(coder, rest))
    except Fault:
        return False
    return True


def _unknown(
    tag: Any, rest: dict[str, Any], members: Sequence[Member], aliases: Mapping[str, type], name: str
) -> Fault:
    """Return the fault of a tag that no member has; if one member takes the fields, it may be that one."""
    text = f"$type {str(tag)[:80]!r} is none of {name}"
    if type(tag) is not str:
        return Fault(text)
    outer = tag.partition("[")[0]
    alias = aliases.get(tag, aliases.get(outer))
    if alias is not None:
        return Fault(f"{text}; aliases say that it is {qualified_name(alias)}")
    if not is_stored_name(outer):
        return Fault(text)
    classes = [class_of(member.annotation) for member in members if _takes(member.coder, rest)]
    if len(classes) == 1 and classes[0] is not None:
        now = class_name(classes[0]).rpartition(".")[2]
        return Fault(f"{text}; if it is called {now} now, say so: {alias_line(outer, now)}")
    return Fault(f"{text}; put it back, or say what it is called now: {alias_line(outer, '...')}")
