"""What a callable says of itself: its annotations and parameters, through whatever is wrapped around the function."""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import inspect
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any, Final

from durable_trio.codec import UNANNOTATED

__all__ = ["function_behind", "is_method_of_a_class", "resolved_annotations", "return_annotation"]

# Wrappers around wrappers that are looked through; one that wraps itself is not worth more.
_WRAPPERS_MAX: Final = 50
# As annotations these would say no more than none does.
_JSON_TYPES: Final = (object, type(None), bool, int, float, str, list, dict)
# What functions are annotated to give, for as long as they live: one that is made at each call may hold what it likes.
_ANNOTATIONS: Final[weakref.WeakKeyDictionary[types.FunctionType, Any]] = weakref.WeakKeyDictionary()
_BUILT_IN: Final = (types.WrapperDescriptorType, types.MethodWrapperType, types.BuiltinFunctionType)


def resolved_annotations(function: Callable[..., object]) -> dict[str, Any]:
    """Return the annotations of a function, names in them resolved; those for which that fails are left out."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # one unresolvable name must not cost the others
        found: dict[str, Any] = {}
        names = getattr(function, "__globals__", {})
        for key, value in getattr(function, "__annotations__", {}).items():
            alone = types.SimpleNamespace(__annotations__={key: value})
            with contextlib.suppress(Exception):
                found |= typing.get_type_hints(alone, names, include_extras=True)
        return found


def function_behind(fn: Any) -> Any:
    """Return the function that is called in the end, or a class; else the last that can be seen of it."""
    for _ in range(_WRAPPERS_MAX):
        inner = _behind(fn)
        if inner is None:
            break
        fn = inner
    return fn


def return_annotation(fn: Any) -> Any:
    """Return the type of what a callable gives: a class gives its instances, an awaitable's is what it gives."""
    # What wraps a function leaves its mark in its dict: most steps are found to be plain by that alone.
    if type(fn) is types.FunctionType and not fn.__dict__:
        try:  # as ``_is_annotated`` does: each step passes here
            is_annotated = bool(fn.__annotations__)
        except Exception:
            is_annotated = True
        return _annotation_of(fn) if is_annotated else UNANNOTATED
    found = fn if type(fn) is types.FunctionType and _is_annotated(fn) else function_behind(fn)
    if inspect.isfunction(found):
        return _annotation_of(found) if _is_annotated(found) else UNANNOTATED
    if isinstance(found, type):
        return UNANNOTATED if found in _JSON_TYPES else found
    if isinstance(found, typing.NewType) or typing.get_origin(found) is not None:
        return found
    return UNANNOTATED


def is_method_of_a_class(function: Any) -> bool:
    """Return whether a function was written for the objects of a class, as far as it can be told."""
    owner = getattr(function_behind(function), "__qualname__", "").rpartition(".")[0]
    if not owner or owner.endswith("<locals>"):
        return False
    names = list(inspect.signature(function).parameters)
    if not names or names[0] in ("self", "cls"):
        return bool(names)
    annotations = resolved_annotations(function_behind(function))
    return len(names) > 1 and not _is_context(names[0], annotations) and _is_context(names[1], annotations)


def _is_context(name: str, annotations: dict[str, Any]) -> bool:
    annotation = annotations.get(name)
    return name in ("ctx", "context") if annotation is None else getattr(annotation, "__name__", "") == "Context"


def _is_annotated(function: types.FunctionType) -> bool:
    try:
        return bool(function.__annotations__)
    except Exception:  # evaluated now, from Python 3.14 on
        return True


def _behind(fn: Any) -> Any:
    """Return what a wrapper calls; ``None`` if it is none."""
    if inspect.isfunction(fn):
        if _is_annotated(fn):
            return None
        partial = getattr(fn, "__partialmethod__", None) or getattr(fn, "_partialmethod", None)
        return getattr(fn, "__wrapped__", None) if partial is None else partial.func
    if isinstance(fn, functools.partial):
        return fn.func
    if isinstance(fn, types.MethodType | staticmethod | classmethod):
        return fn.__func__
    if isinstance(fn, type | typing.NewType) or typing.get_origin(fn) is not None:
        return None
    try:
        wrapped = getattr(fn, "__wrapped__", None)
    except Exception:  # it is the user's object, and need not say anything
        wrapped = None
    if callable(wrapped):
        return wrapped
    call = getattr(type(fn), "__call__", None)  # noqa: B004  # its annotations are wanted, not whether it is there
    return None if isinstance(call, _BUILT_IN) else call


def _annotation_of(function: types.FunctionType) -> Any:
    try:
        return _ANNOTATIONS[function]
    except KeyError:
        pass
    annotation = resolved_annotations(function).get("return", UNANNOTATED)
    if typing.get_origin(annotation) in (collections.abc.Awaitable, collections.abc.Coroutine):
        annotation = typing.get_args(annotation)[-1]
    _ANNOTATIONS[function] = annotation
    return annotation
