"""Coders of unions and literals.

A tag, ``{"$type": "Card", ...}``, says which member a value was where JSON alone could not tell.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from durable_trio.codec.annotations import label, resolve
from durable_trio.codec.changed import Member, read_by_any_member, split
from durable_trio.codec.coder import KINDS, Coder, Compiler
from durable_trio.codec.faults import Fault, type_name, unquoted
from durable_trio.codec.leaves import float_coder
from durable_trio.codec.sameness import is_same
from durable_trio.looks import stored_module

__all__ = ["literal_coder", "union_coder"]


def literal_coder(coders: Compiler, annotation: Any, values: tuple[Any, ...]) -> Coder:
    """Return the coder of some values and no others."""
    parts = [(value, coders.get(type(value))) for value in values]

    def encode(value: Any) -> Any:
        for known, part in parts:
            if type(known) is type(value) and known == value:
                return part.encode(value)
        raise Fault(f"{unquoted(value)} is not in {label(annotation)}")

    def decode(plain: Any) -> Any:
        for known, part in parts:
            if is_same(part.encode(known), plain):
                return known
        raise Fault(f"{unquoted(plain)} is not in {label(annotation)}")

    kinds = frozenset().union(*(part.kinds for _, part in parts))
    return Coder(label(annotation), kinds, frozenset(map(type, values)), encode, decode, is_flat=True, is_literal=True)


def union_coder(coders: Compiler, annotation: Any, arguments: Iterable[Any]) -> Coder:
    """Return the coder of what is of any of these annotations."""
    coder = coders.started(annotation, "dict", frozenset())
    annotations = _flatten(arguments)
    members = [coders.get(member) for member in annotations]
    if float in annotations:
        place = annotations.index(float)
        if any("int" in member.kinds for member in members[:place] + members[place + 1 :]):
            members[place] = float_coder(takes_int=False)  # an int is the other one's
    coder.is_flat = all(member.is_flat for member in members)
    names = _names(members, annotations, coders.aliases)
    coder.kinds = frozenset().union(*(member.kinds for member in members))
    takes_all = any(member.classes is None for member in members)
    coder.classes = None if takes_all else frozenset().union(*(member.classes or () for member in members))
    untagged = _untagged(members)
    if len(untagged) < len(members):
        coder.kinds |= {"dict"}  # of the tags
    by_kind = {kind: member for member in untagged for kind in member.kinds}
    by_name = dict(zip(names, members, strict=True))
    by_tag = by_name | _aliased(members, annotations, coders.aliases)
    by_class: dict[type, list[tuple[Coder, str | None]]] = {}
    fallback = [(member, None) for member in members if member.classes is None]
    for name, member in by_name.items():
        for cls in member.classes or ():
            by_class.setdefault(cls, []).append((member, None if member in untagged else name))
    for candidates in by_class.values():
        candidates.sort(key=lambda pair: pair[1] is not None)
        candidates.extend(fallback)

    def encode(value: Any) -> Any:
        reason = Fault(f"{type_name(value)} is no {coder.name}")
        candidates = by_class.get(type(value), fallback)
        for member, tag in candidates:
            try:
                plain = member.encode(value)
            except Fault as fault:
                reason = fault if len(candidates) == 1 else reason
                continue
            if tag is None:
                return plain
            return {"$type": tag, **plain} if member.allowed is not None else {"$type": tag, "value": plain}
        raise reason

    def decode(plain: Any) -> Any:
        if type(plain) is dict:
            if "$dict" in plain and "dict" not in by_kind and type(plain["$dict"]) is dict:
                plain = plain["$dict"]  # the tag was written by hand, where nobody knew the classes, as in a shell
            if "$type" in plain:
                return _decode_tagged(coder.name, by_tag, plain)
            kind = "int" if "$int" in plain else "float" if "$float" in plain else "dict"
        else:
            kind = KINDS[type(plain)]
        member = by_kind.get(kind)
        if member is None and kind == "dict":
            # Written without a tag, when the annotation was no union yet, or by hand: only if the fields leave no
            # doubt, by their names or by a word that only one member takes in one of them.
            fits = [m for m in members if m.allowed is not None and m.required <= plain.keys() <= m.allowed]
            if len(fits) > 1:
                fits = [m for m in fits if _has_literals(m, plain)]
            member = fits[0] if len(fits) == 1 else None
        if member is None:
            raise Fault(f"{type_name(plain)} without $type is no {coder.name}")
        return member.decode(plain)

    coder.encode = encode
    pairs = list(map(Member, members, annotations))
    coder.decode = read_by_any_member(coder.name, pairs, decode, coders.aliases) if coders.is_lenient else decode
    return coder


def _has_literals(member: Coder, plain: dict[str, Any]) -> bool:
    """Whether an object has one of the words of a member, and no other in their places."""
    found = [(part, plain[name]) for name, part in member.literals.items() if name in plain]
    for part, word in found:
        try:
            part.decode(word)
        except Fault:
            return False
    return bool(found)


def _flatten(arguments: Iterable[Any]) -> list[Any]:
    """Return a union's members, once each, with nested unions dissolved and literals in one."""
    members: list[Any] = []
    literals: list[Any] = []
    for argument in map(resolve, arguments):
        origin = typing.get_origin(argument)
        if origin in (typing.Union, types.UnionType):
            members += [member for member in _flatten(typing.get_args(argument)) if member not in members]
        elif origin is typing.Literal:
            literals += typing.get_args(argument)
        elif argument not in members:
            members.append(argument)
    return [*members, typing.Literal[tuple(literals)]] if literals else members


def _names(members: list[Coder], annotations: list[Any], aliases: Mapping[str, type]) -> list[str]:
    """Return the tags of a union's members: their names, with the module where the name alone is not the member's."""
    bare = [member.name for member in members]
    names = list(bare)
    for index, annotation in enumerate(annotations):
        if bare.count(names[index]) > 1 or aliases.get(names[index], annotation) is not annotation:
            module = stored_module(getattr(annotation, "__module__", ""))
            names[index] = f"{module}.{getattr(annotation, '__qualname__', names[index])}"
    if len(set(names)) != len(names):
        raise Fault(f"members of a union have the same name: {', '.join(names)}")
    return names


def _aliased(members: list[Coder], annotations: list[Any], aliases: Mapping[str, type]) -> dict[str, Coder]:
    """Return the members that are known by other names, too."""
    pairs = zip(members, annotations, strict=True)
    return {name: member for member, annotation in pairs for name, cls in aliases.items() if annotation is cls}


def _untagged(members: list[Coder]) -> list[Coder]:
    """Choose the members that need no tag: alone with their kinds of JSON, or the one that is JSON's own."""
    found = []
    for member in members:
        others = [other for other in members if other is not member and other.kinds & member.kinds]
        is_alone = _is_native(member) and not any(_is_native(other) or other.classes is None for other in others)
        if member.classes is None or not others or is_alone:
            found.append(member)
    return found


def _is_native(coder: Coder) -> bool:
    """Whether a coder writes the JSON type of the very class it takes."""
    return (
        coder.classes is not None
        and coder.allowed is None
        and coder.kinds == {KINDS.get(cls, "dict" if cls is dict else "") for cls in coder.classes}
    )


def _decode_tagged(name: str, by_tag: dict[str, Coder], plain: dict[str, Any]) -> Any:
    tag, rest = split(plain)
    member = by_tag.get(tag) if type(tag) is str else None
    if member is None:
        raise Fault(f"$type {str(tag)[:80]!r} is none of {name}")
    if member.allowed is not None:
        return member.decode(rest)
    if rest.keys() != {"value"}:
        raise Fault(f"an object with $type {tag} has exactly one other key, 'value'")
    return member.decode(rest["value"])
