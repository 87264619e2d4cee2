"""Annotations to coders: which coder an annotation gets, compiled once."""

from __future__ import annotations

import contextlib
import enum
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import cattrs

from durable_trio.aliases import NO_ALIASES
from durable_trio.codec.annotations import ANY_MEMBERS, ANY_SCALARS, UNANNOTATED, label, resolve
from durable_trio.codec.changed import read_also_tagged
from durable_trio.codec.classes import class_coder, new_converter, typed_dict_coder
from durable_trio.codec.coder import ALL_KINDS, Coder
from durable_trio.codec.containers import dict_coder, fixed_tuple_coder, items_coder
from durable_trio.codec.faults import Fault
from durable_trio.codec.fields import is_model
from durable_trio.codec.hooks import TypeHook, hook_coder
from durable_trio.codec.leaves import enum_coder, exact_coder, float_coder, int_coder, text_coder
from durable_trio.codec.models import model_coder
from durable_trio.codec.plain import from_plain, to_plain
from durable_trio.codec.scalars import SCALARS
from durable_trio.codec.unions import literal_coder, union_coder

__all__ = ["Coders"]

# Annotations are as many as the program has; those of classes made at run time must not add up.
_CODERS_MAX: Final = 4096
_UNIONS: Final = (typing.Union, types.UnionType)


class Coders:
    """Compiles annotations, each once.

    Args:
        hooks: of classes that are not compiled.
        room: bytes that the text of a value with a hook may have.
        aliases: the classes that names in what is stored stand for.
        is_lenient: also read what was written when an annotation was another one; see ``changed``.
        converter: of classes with fields.
    """

    def __init__(
        self,
        hooks: Mapping[type, TypeHook[Any]],
        *,
        room: int,
        aliases: Mapping[str, type] = NO_ALIASES,
        is_lenient: bool = False,
        converter: cattrs.Converter | None = None,
    ) -> None:
        self.hooks = hooks
        self.aliases = aliases
        self.is_lenient = is_lenient
        self._room = room
        self._coders: dict[Any, Coder] = {}
        if converter is not None:
            self._converter = converter

    @functools.cached_property
    def _converter(self) -> cattrs.Converter:
        """Made when the first class with fields is met, for that takes a millisecond; many an engine meets none."""
        return new_converter()

    @functools.cached_property
    def lenient(self) -> Coders:
        """The same, and lenient."""
        return Coders(self.hooks, room=self._room, aliases=self.aliases, is_lenient=True, converter=self._converter)

    def get(self, annotation: Any) -> Coder:
        """Return the coder of an annotation, compiled if it is new; raise ``Fault`` if it is not supported."""
        try:
            found = self._coders.get(annotation)
        except TypeError:  # an annotation that cannot be hashed
            return self._compiled(resolve(annotation))
        if found is None:
            if len(self._coders) >= _CODERS_MAX:
                self._coders.clear()
            count = len(self._coders)
            try:
                found = self._coders[annotation] = self._compiled(resolve(annotation))
            except BaseException:
                while len(self._coders) > count:  # those that were begun since, and may contain this one
                    self._coders.popitem()
                raise
        return found

    def started(self, annotation: Any, kind: str, classes: frozenset[type]) -> Coder:
        """Return a coder without functions, known already to the types within it."""
        coder = Coder(label(annotation), frozenset({kind}), classes)
        with contextlib.suppress(TypeError):  # an annotation that cannot be hashed
            self._coders[annotation] = coder
        return coder

    def _compiled(self, annotation: Any) -> Coder:
        coder = self._compile(annotation)
        is_class = not isinstance(annotation, type(UNANNOTATED)) and typing.get_origin(annotation) not in _UNIONS
        if self.is_lenient and is_class:
            coder.decode = read_also_tagged(coder, annotation, self.aliases)
        return coder

    def _compile(self, annotation: Any) -> Coder:
        origin = typing.get_origin(annotation) or annotation
        arguments = typing.get_args(annotation)
        if annotation is UNANNOTATED:
            return Coder("Any", ALL_KINDS, None, to_plain, from_plain)
        if annotation is ANY_SCALARS:
            return union_coder(self, annotation, ANY_MEMBERS)
        if origin in _UNIONS:
            return union_coder(self, annotation, arguments)
        if origin is typing.Literal:
            return literal_coder(self, annotation, arguments)
        if not isinstance(origin, type):
            raise Fault(f"{label(annotation)} is no type that can be stored")
        return self._class(annotation, origin, arguments)

    def _class(self, annotation: Any, cls: type, arguments: tuple[Any, ...]) -> Coder:
        if cls in self.hooks:
            return hook_coder(label(annotation), self.hooks[cls], room=self._room)
        if cls is int:
            return int_coder()
        if cls is float:
            return float_coder(takes_int=True)
        if cls in (type(None), bool, str):
            return exact_coder(cls)
        if cls in SCALARS:
            return text_coder(cls.__name__, cls, *SCALARS[cls])
        if issubclass(cls, PurePath):
            return text_coder(cls.__name__, type(cls()), str, cls)
        if issubclass(cls, enum.Enum):
            return enum_coder(cls)
        if cls is dict:
            return dict_coder(self, annotation, *(arguments or (str, UNANNOTATED)))
        if cls in (list, set, frozenset):
            return items_coder(self, annotation, cls, arguments[0] if arguments else UNANNOTATED)
        if cls is tuple:
            if arguments[-1:] != (Ellipsis,) and annotation not in (tuple, typing.Tuple):  # noqa: UP006
                return fixed_tuple_coder(self, annotation, arguments)
            return items_coder(self, annotation, cls, arguments[0] if arguments else UNANNOTATED)
        if issubclass(cls, dict) and hasattr(cls, "__total__"):
            return typed_dict_coder(self, annotation, cls)
        if is_model(cls):
            return model_coder(self, annotation, cls)
        return class_coder(self, self._converter, annotation, cls)
