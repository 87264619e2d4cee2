"""What annotations say: wrappers stripped, aliases and type variables replaced, names for people and tags."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import types
import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final
from uuid import UUID

from durable_trio.codec.faults import Fault

__all__ = [
    "ANY_MEMBERS",
    "ANY_SCALARS",
    "UNANNOTATED",
    "field_types",
    "is_unannotated",
    "label",
    "own_annotation",
    "resolve",
]


class _Marker(enum.Enum):
    UNANNOTATED = "no annotation"
    ANY_SCALARS = "any value of the standard library's types"


# Exact JSON types only. ``typing.Any``, ``object`` and ``inspect.Parameter.empty`` mean the same.
UNANNOTATED: Final = _Marker.UNANNOTATED
# JSON types, scalars, paths, and list, tuple, set, frozenset and dict of them: self-describing, by tags.
ANY_SCALARS: Final = _Marker.ANY_SCALARS

# Which built-in classes a value of an abstract annotation may have.
_ABSTRACT: Final[dict[Any, tuple[Any, ...]]] = {
    collections.abc.Sequence: (list, tuple),
    collections.abc.Iterable: (list, tuple),
    collections.abc.Collection: (list, tuple),
    collections.abc.MutableSequence: (list,),
    collections.abc.Set: (set, frozenset),
    collections.abc.MutableSet: (set,),
    collections.abc.Mapping: (dict,),
    collections.abc.MutableMapping: (dict,),
}
_JSON_TYPES: Final = (bool, int, float, str, list, dict)
_WRAPPERS: Final = (
    *(typing.Annotated, typing.Required, typing.NotRequired, typing.Final),
    getattr(typing, "ReadOnly", typing.Final),  # new in Python 3.13
)
# As values, for a type checker takes what it can subscript for annotations.
_LIST, _TUPLE, _DICT, _SET, _FROZENSET = typing.cast("tuple[Any, ...]", (list, tuple, dict, set, frozenset))
ANY_MEMBERS: Final[tuple[Any, ...]] = (
    *(None, bool, int, float, str, bytes, Decimal, UUID, datetime, date, time, timedelta, Path),
    *(PurePosixPath, PureWindowsPath, _LIST[ANY_SCALARS], _TUPLE[ANY_SCALARS, ...], _DICT[ANY_SCALARS, ANY_SCALARS]),
    *(_SET[ANY_SCALARS], _FROZENSET[ANY_SCALARS]),
)


def is_unannotated(annotation: Any) -> bool:
    """Whether an annotation says nothing."""
    return (
        annotation is UNANNOTATED or annotation is Any or annotation is inspect.Parameter.empty or annotation is object
    )


def own_annotation(value: object) -> Any:
    """Return by which annotation a value is converted where none is given: JSON's as they are, others by their class.

    What is inside a list or a dict has none.
    """
    cls = type(value)
    return UNANNOTATED if value is None or any(cls is each for each in _JSON_TYPES) else cls


def resolve(annotation: Any) -> Any:
    """Strip what wraps a type: ``Annotated``, ``NewType``, aliases, type variables."""
    while True:
        origin = typing.get_origin(annotation)
        if origin in _WRAPPERS:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeVar):
            annotation = annotation.__bound__ or typing.Union[annotation.__constraints__ or (Any,)]  # noqa: UP007
        elif hasattr(origin, "__value__") and hasattr(origin, "__type_params__"):
            annotation = _substitute(
                origin.__value__, dict(zip(origin.__type_params__, annotation.__args__, strict=True))
            )
        elif hasattr(annotation, "__value__") and hasattr(annotation, "__type_params__"):
            annotation = annotation.__value__
        else:
            break
    if annotation is None:
        return type(None)
    if is_unannotated(annotation):
        return UNANNOTATED
    if origin in _ABSTRACT or (isinstance(annotation, type) and annotation in _ABSTRACT):
        return _concrete(origin or annotation, typing.get_args(annotation))
    return annotation


def _concrete(abstract: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the built-in classes that may stand for an abstract one."""
    if abstract in (collections.abc.Mapping, collections.abc.MutableMapping):
        return _DICT[arguments] if arguments else dict
    item = arguments[0] if arguments else UNANNOTATED
    choices = tuple(cls[item, ...] if cls is tuple else cls[item] for cls in _ABSTRACT[abstract])
    return typing.Union[choices]  # noqa: UP007 - a tuple of members


def _substitute(annotation: Any, variables: dict[Any, Any]) -> Any:
    if isinstance(annotation, typing.TypeVar):
        return variables.get(annotation, annotation)
    parameters = getattr(annotation, "__parameters__", ())
    if not variables or not parameters or isinstance(annotation, type):
        return annotation
    return annotation[tuple(variables.get(parameter, parameter) for parameter in parameters)]


def _variables(annotation: Any, found: dict[Any, dict[Any, Any]]) -> dict[Any, dict[Any, Any]]:
    """Tell for a class and each of its bases what its type variables stand for."""
    origin = typing.get_origin(annotation) or annotation
    if isinstance(origin, type) and origin not in found:
        mine = dict(zip(getattr(origin, "__parameters__", ()), typing.get_args(annotation), strict=False))
        found[origin] = mine
        for base in origin.__dict__.get("__orig_bases__", origin.__bases__):
            if typing.get_origin(base) is not typing.Generic:
                _variables(_substitute(base, mine), found)
    return found


def field_types(annotation: Any, cls: type) -> dict[str, Any]:
    """Return the types of a class's annotated fields, in terms of no type variable that is known."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        try:  # a class within a function that names itself
            hints = typing.get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
        except NameError as error:
            raise Fault(f"an annotation of {cls.__qualname__} cannot be resolved: {error}") from None
    variables = _variables(annotation, {})
    for owner in reversed(cls.__mro__):
        if variables.get(owner):
            for name in inspect.get_annotations(owner):
                if name in hints:
                    hints[name] = _substitute(hints[name], variables[owner])
    return hints


def label(annotation: Any, within: frozenset[Any] = frozenset()) -> str:
    """Name an annotation, the same in every version of Python: names are stored as tags of unions.

    ``within`` are the aliases that are being named: one that comes again inside itself is named by its own name.
    """
    alias = annotation if hasattr(annotation, "__value__") else typing.get_origin(annotation)
    if hasattr(alias, "__value__"):
        if alias in within:
            return str(alias.__name__)
        within |= {alias}
    annotation = resolve(annotation)
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(sorted(label(argument, within) for argument in arguments))
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, _Marker):
        return "Any"
    name = "None" if annotation is type(None) else getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(label(argument, within) for argument in arguments)}]" if arguments else name
