"""Which changes a workflow's code asks for (``ctx.patched``), as far as its compiled body tells.

For people alone, who are told why a run does not fit a code: nothing is decided by it. Followed are the functions that
the workflow was made of, those within them, and those of the project that they name.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from durable_trio.code.project import is_of_project, top_of
from durable_trio.code.values import Digests

__all__ = ["asks"]

_QUESTION: Final = "patched"
_ATTRIBUTES: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_NAMES: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"})
# More functions than anybody reads; a project's may name each other without end.
_FUNCTIONS_MAX: Final = 2000


def asks(function: Callable[..., Any], change_id: str) -> bool | None:
    """Return whether code asks for a change anywhere; ``None`` if it has questions whose ids are only made as it runs.

    Args:
        function: what the workflow was made of.
    """
    is_readable = True
    for asked in _questions_of(function):
        if asked == change_id:
            return True
        is_readable = is_readable and asked is not None
    return False if is_readable else None


def _questions_of(function: Callable[..., Any]) -> Iterator[str | None]:
    found: dict[int, types.FunctionType] = {}
    left: list[types.FunctionType] = []

    def take(each: types.FunctionType) -> None:
        if id(each) not in found and len(found) < _FUNCTIONS_MAX:
            found[id(each)] = each
            left.append(each)

    digests = Digests(take)
    digests.of(function)
    home = top_of(left[0].__globals__) if left else ""
    while left:
        each = left.pop()
        if not is_of_project(each.__globals__, home):
            continue
        digests.of_function(each)  # which tells of those in its closure and its defaults
        for code in _codes_of(each.__code__):
            for named in _functions_named(code, each.__globals__):
                take(named)
            yield from _questions_in(code, each)


def _codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes_of(constant)


def _functions_named(code: types.CodeType, names: Mapping[str, Any]) -> Iterator[types.FunctionType]:
    """Yield the functions that a piece of code names, also as attributes of modules and classes that it names."""
    named = [names[name] for name in code.co_names if name in names]
    for value in named:
        if type(value) is types.FunctionType:
            yield value
        elif type(value) is types.ModuleType or type.__subclasscheck__(type, type(value)):
            parts = type.__getattribute__(value, "__dict__") if isinstance(value, type) else vars(value)
            for part in (parts[name] for name in code.co_names if name in parts):
                function = part.__func__ if type(part) in (staticmethod, classmethod) else part
                if type(function) is types.FunctionType:
                    yield function


def _names_of(function: types.FunctionType) -> Mapping[str, Any]:
    """Return what the names of a function stand for that it does not set itself."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    with suppress(ValueError):  # one has no value yet
        return {**function.__globals__, **{name: cell.cell_contents for name, cell in cells}}
    return function.__globals__


def _questions_in(code: types.CodeType, function: types.FunctionType) -> Iterator[str | None]:
    if _QUESTION not in code.co_names:
        return
    names = _names_of(function)
    is_asked, first = False, None
    for instruction in dis.get_instructions(code):
        operation = instruction.opname
        if operation in _ATTRIBUTES and instruction.argval == _QUESTION:
            is_asked, first = True, None
        elif not is_asked:
            continue
        elif operation.startswith("CALL"):
            yield _text_of(first, names)
            is_asked = False
        elif operation.startswith(("BUILD_STRING", "BINARY_", "FORMAT_")):  # it is put together there
            yield None
            is_asked = False
        elif first is None and operation.startswith("LOAD_"):
            first = instruction


def _text_of(instruction: dis.Instruction | None, names: Mapping[str, Any]) -> str | None:
    if instruction is None:
        return None
    if instruction.opname in _NAMES:
        value = names.get(instruction.argval)
    else:
        value = instruction.argval if instruction.opname == "LOAD_CONST" else None
    return value if type(value) is str else None
