"""Digests of what a function is made of: its compiled body, and the values that it was given where it was made.

The same in every process: constants are written by their kind, so that ``1``, ``1.0`` and ``True`` are three; sets are
sorted; no address, path, line or name of a module is in it. Of an object that is no plain value only the type counts.
"""

from __future__ import annotations

import decimal
import enum
import functools
import hashlib
import types
import uuid
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from typing import Any, Final

__all__ = ["Digests"]

# Written as Python writes them, exactly.
_PLAIN: Final = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, type(...)),
        *(decimal.Decimal, uuid.UUID, date, timedelta),
    }
)
_ORDERED: Final = frozenset({list, tuple})
_SETS: Final = frozenset({set, frozenset})
_CLOCKS: Final = frozenset({datetime, time})
_class_qualname: Final = vars(type)["__qualname__"].__get__
_CACHED: Final = type(functools.cache(int))
_AGAIN: Final = b"again"


class Digests:
    """Makes digests. Parts that are shared are made once; what holds itself comes to an end.

    Args:
        found: told of each function that is met, also of one that was met before. In the digest of whatever has it,
            only its name and body count: so the digests of all that are met make up the whole, in any order.
    """

    def __init__(self, found: Callable[[types.FunctionType], None]) -> None:
        self._found = found
        self._made: dict[int, tuple[object, bytes]] = {}

    def of_function(self, function: types.FunctionType) -> bytes:
        """Return the digest of a function with its defaults and closure."""
        cells = [_content(cell) for cell in function.__closure__ or ()]
        return _joined(
            "function",
            [
                self._of_code(function.__code__),
                self.of(function.__defaults__),
                self.of(function.__kwdefaults__),
                *(self.of(value) if is_set else _AGAIN for is_set, value in cells),
            ],
        )

    def of(self, value: Any) -> bytes:
        """Return the digest of any value."""
        if type(value) in _PLAIN:
            return _joined(type(value).__qualname__, [_text(repr(value))])
        known = self._made.get(id(value))
        if known is not None:
            return known[1]
        self._made[id(value)] = value, _AGAIN  # kept, so that no other has its id
        made = self._of_parts(value)
        self._made[id(value)] = value, made
        return made

    def _of_parts(self, value: Any) -> bytes:
        cls = type(value)
        kind = _class_qualname(cls)
        if cls in _CLOCKS:
            return _joined(kind, [_text(value.isoformat())])  # a time zone of the user's may show its address
        if cls in _ORDERED:
            return _joined(kind, map(self.of, value))
        if cls in _SETS:
            return _joined(kind, sorted(map(self.of, value)))
        if cls is dict:
            return _joined(kind, sorted(self.of(key) + self.of(item) for key, item in value.items()))
        if cls is slice:
            return _joined(kind, map(self.of, (value.start, value.stop, value.step)))
        if cls is types.CodeType:
            return self._of_code(value)
        if cls is types.FunctionType:
            self._found(value)
            return _joined(kind, [_text(value.__qualname__), self._of_code(value.__code__)])
        if cls is types.MethodType:
            return _joined(kind, [self.of(value.__func__), _text(type(value.__self__).__qualname__)])
        if cls is functools.partial:
            return _joined(kind, map(self.of, (value.func, value.args, value.keywords)))
        if cls is _CACHED:
            return self.of(value.__wrapped__)
        if type.__subclasscheck__(enum.Enum, cls):
            return _joined("enum", [_text(kind), _text(str(object.__getattribute__(value, "__dict__").get("_name_")))])
        if type.__subclasscheck__(type, cls):
            return _joined("class", [_text(_class_qualname(value))])
        if cls is types.BuiltinFunctionType:
            return _joined("name", [_text(value.__qualname__)])
        return _joined("object", [_text(kind)])

    def _of_code(self, code: types.CodeType) -> bytes:
        # Neither its file and lines nor its place in them.
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        parts = [code.co_code, code.co_exceptiontable, _text(code.co_name), _text(repr((names, counts)))]
        return _joined("code", [*parts, *map(self.of, code.co_consts)])


def _content(cell: types.CellType) -> tuple[bool, Any]:
    try:
        return True, cell.cell_contents
    except ValueError:  # it has none yet
        return False, None


def _text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _joined(kind: str, parts: Iterable[bytes]) -> bytes:
    """Return the digest of a kind of value and its parts, each told from the next by its length."""
    digest = hashlib.sha256(kind.encode("utf-8", "backslashreplace"))
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
