"""Values to JSON text and back, by annotation: the one place that knows cattrs and orjson.

``Codec`` promises that nothing is changed silently. What it encodes, it decodes again and compares, type by type; the
caller goes on with the decoded value, so a first execution and its replay see the same. An annotation is compiled once
to a ``Coder``, a pair of functions. cattrs writes those of classes; the rest is converted here, because cattrs' own
hooks coerce (``int("1")``, ``bool("x")``), and a durable value must not be coerced.

The stored text is for people too: classes are objects with their fields, instants are ISO 8601. A union says which
member a value was, ``{"$type": "Card", ...}``, only where JSON alone could not tell.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final, NamedTuple
from uuid import UUID

import attrs
import cattrs
import orjson
from cattrs.gen import make_dict_structure_fn_from_attrs, make_dict_unstructure_fn_from_attrs

from durable_trio import limits
from durable_trio.digest import (
    INTEGER_MAX,
    INTEGER_MIN,
    SCALARS,
    Fault,
    check_same,
    digest_of,
    escape,
    float_from_plain,
    float_to_plain,
    from_plain,
    int_from_plain,
    int_to_plain,
    is_same,
    segment,
    to_plain,
    type_name,
    unescape,
)
from durable_trio.errors import CodecError, PayloadTooLarge

__all__ = ["ANY_SCALARS", "UNANNOTATED", "Codec", "Encoded", "parse"]


class _Marker(enum.Enum):
    UNANNOTATED = "no annotation"
    ANY_SCALARS = "any value of the standard library's types"


# Exact JSON types only. ``typing.Any``, ``object`` and ``inspect.Parameter.empty`` mean the same.
UNANNOTATED: Final = _Marker.UNANNOTATED
# JSON types, the scalars below, and list, tuple, set, frozenset and dict of them: self-describing, by tags.
ANY_SCALARS: Final = _Marker.ANY_SCALARS

# orjson would turn these into strings and objects, and nobody could tell afterwards.
_EXACT: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
# Annotations are as many as the program has; those of classes made at run time must not add up.
_CODERS_MAX: Final = 4096


class Encoded(NamedTuple):
    """The JSON text that is stored, and the value decoded from it again."""

    text: str
    value: Any


class Codec:
    """Encodes and decodes values by their annotations.

    Args:
        payload_bytes_max: bytes of UTF-8 that one encoded value may have; default 4 MiB.
    """

    def __init__(self, *, payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX) -> None:
        self.payload_bytes_max = payload_bytes_max
        self._coders = _Coders()

    def encode(self, value: object, annotation: Any, *, where: str) -> Encoded:
        """Encode ``value`` by ``annotation``, exactly.

        Args:
            where: what the value is, for errors: ``"step 'pay#0': result"``.

        Returns:
            The text, and a fresh value decoded from it, which is the same as ``value`` at every level.

        Raises:
            CodecError: the value would come back changed, or its type or annotation is not supported.
            PayloadTooLarge: its text is longer than ``payload_bytes_max``.
        """
        try:
            if annotation is UNANNOTATED or _is_unannotated(annotation):
                encoded = self._encode_json(value)
                if encoded is not None:
                    return encoded
            coder = self._coders.get(annotation)
            raw = self._dump(coder.encode(value), where)
            decoded = coder.decode(orjson.loads(raw))
            check_same(value, decoded)
            return Encoded(raw.decode(), decoded)
        except (Fault, RecursionError) as error:
            raise _codec_error(error, where, annotation) from error.__cause__

    def decode(self, text: str, annotation: Any, *, where: str) -> Any:
        """Return the value that ``encode`` has written as ``text``; a new object each time.

        Raises:
            CodecError: ``text`` is no JSON, nested too deeply, or not of this annotation.
        """
        try:
            plain = _load(text)
            if annotation is UNANNOTATED and '"$' not in text:  # no tag in it
                return plain
            return self._coders.get(annotation).decode(plain)
        except (Fault, RecursionError) as error:
            raise _codec_error(error, where, annotation) from error.__cause__

    def encode_arguments(self, args: Sequence[object], annotations: Sequence[Any], *, where: str) -> tuple[str, bytes]:
        """Encode positional arguments as one JSON array.

        Returns:
            The text, and the SHA-256 of its canonical form: equal for arguments that are the same but for the order
            of dicts and sets.

        Raises:
            CodecError, PayloadTooLarge: as ``encode``; or there are more arguments than annotations.
        """
        annotation: Any = None
        try:
            plain = []
            for index, annotation in self._paired(args, annotations):
                plain.append(_at(f"[{index}]", self._coders.get(annotation).encode, args[index]))
            raw = self._dump(plain, where)
            for index, item in enumerate(orjson.loads(raw)):
                annotation = annotations[index]
                decoded = _at(f"[{index}]", self._coders.get(annotation).decode, item)
                _at(f"[{index}]", check_same, args[index], decoded)
            return raw.decode(), digest_of(_canonical(plain))
        except (Fault, RecursionError) as error:
            raise _codec_error(error, where, annotation) from error.__cause__

    def decode_arguments(self, text: str, annotations: Sequence[Any], *, where: str) -> tuple[Any, ...]:
        """Return the arguments that ``encode_arguments`` has written as ``text``.

        There may be fewer than annotations: a function that has grown a parameter with a default still reads them.

        Raises:
            CodecError: as ``decode``; or there are more arguments than annotations.
        """
        annotation: Any = None
        try:
            plain = _load(text)
            if type(plain) is not list:
                raise Fault(f"a list of arguments was expected, not {type_name(plain)}")
            values = []
            for index, annotation in self._paired(plain, annotations):
                values.append(_at(f"[{index}]", self._coders.get(annotation).decode, plain[index]))
            return tuple(values)
        except (Fault, RecursionError) as error:
            raise _codec_error(error, where, annotation) from error.__cause__

    def to_plain(self, value: object, annotation: Any) -> Any:
        """Return the JSON value that stands for a part of a payload; ``write`` makes it text.

        Raises:
            Fault: it would not come back the same.
        """
        coder = self._coders.get(annotation)
        plain = coder.encode(value)
        check_same(value, coder.decode(plain))
        return plain

    def from_plain(self, plain: Any, annotation: Any) -> Any:
        """Undo ``to_plain``; raise ``Fault`` if that did not write ``plain``."""
        return self._coders.get(annotation).decode(plain)

    def write(self, plain: Any, *, where: str) -> str:
        """Return the text of a payload that was put together from plain values.

        Raises:
            CodecError, PayloadTooLarge: as ``encode``.
        """
        try:
            return self._dump(plain, where).decode()
        except (Fault, RecursionError) as error:
            raise _codec_error(error, where, UNANNOTATED) from error.__cause__

    def _paired(self, args: Sequence[object], annotations: Sequence[Any]) -> Iterable[tuple[int, Any]]:
        if len(args) > len(annotations):
            raise Fault(f"{len(args)} arguments, but only {len(annotations)} parameters")
        return enumerate(annotations[: len(args)])

    def _encode_json(self, value: object) -> Encoded | None:
        """Encode what is exact JSON without any tag; ``None`` where the slower way must look closer."""
        try:
            raw = orjson.dumps(value, option=_EXACT)
        except TypeError:
            return None
        if b'"$' in raw or len(raw) > self.payload_bytes_max or _may_be_deep(raw):
            return None
        decoded = orjson.loads(raw)
        return Encoded(raw.decode(), decoded) if is_same(value, decoded) else None

    def _dump(self, plain: Any, where: str) -> bytes:
        try:
            raw = orjson.dumps(plain, option=_EXACT)
        except TypeError:
            _check_strings(plain)
            raise Fault(f"nested deeper than {limits.PAYLOAD_DEPTH_MAX} levels") from None
        if len(raw) > self.payload_bytes_max:
            raise PayloadTooLarge(
                f"{where} has {len(raw)} bytes; at most {self.payload_bytes_max} are stored in one payload. "
                "Store it elsewhere and pass a reference, or raise payload_bytes_max",
                where=where,
            )
        if _may_be_deep(raw):
            _check_depth(raw.decode())
        return raw


def parse(text: str, *, where: str) -> Any:
    """Return the JSON value of a stored text as it stands there, tags and all, for people to read.

    Raises:
        CodecError: it is no JSON, or nested too deeply.
    """
    try:
        return _load(text)
    except Fault as fault:
        raise _codec_error(fault, where, UNANNOTATED) from None


def _codec_error(error: Fault | RecursionError, where: str, annotation: Any) -> CodecError:
    if isinstance(error, RecursionError):
        error = Fault(f"nested deeper than {limits.PAYLOAD_DEPTH_MAX} levels, or in itself")
    name = _label(annotation)
    hint = "" if _is_unannotated(annotation) else f" (annotated {name})"
    # A path into something nested without end is no help.
    path = error.path if len(error.path) <= 1000 else error.path[:1000] + "..."
    return CodecError(f"{where}{path}: {error.reason}{hint}", where=where, path=path, type=name)


# ---- JSON text ---------------------------------------------------------------------------------------------------


def _canonical(plain: Any) -> bytes:
    return orjson.dumps(plain, option=_EXACT | orjson.OPT_SORT_KEYS)


def _load(text: str) -> Any:
    """Parse a text from anywhere: of bounded depth, without keys that occur twice or integers cut to floats."""
    try:
        raw = text.encode()
        if _may_be_deep(raw):
            _check_depth(text)
        plain = orjson.loads(raw)
        # What this codec has written is found to be so at once; anything else gets the second look.
        if orjson.dumps(plain) != raw:
            json.loads(text, object_pairs_hook=_unique, parse_int=_bounded)
    except ValueError as error:
        raise Fault(f"no JSON text: {error}") from None
    return plain


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Fault("an object has the same key twice")
    return found


def _bounded(text: str) -> int:
    if len(text) > len(str(INTEGER_MAX)) or not INTEGER_MIN <= int(text) <= INTEGER_MAX:
        raise Fault("an integer is longer than 64 bits and not tagged")
    return int(text)


def _may_be_deep(raw: bytes) -> bool:
    return raw.count(b"[") + raw.count(b"{") > limits.PAYLOAD_DEPTH_MAX


_STRINGS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKETS: Final = re.compile(r"[^][{}]+")


def _check_depth(text: str) -> None:
    # Take away the innermost pairs of brackets, layer by layer. No stack, and each pass is one fast scan.
    left = _NO_BRACKETS.sub("", _STRINGS.sub("", text)).replace("{", "[").replace("}", "]")
    for _ in range(limits.PAYLOAD_DEPTH_MAX):
        left = left.replace("[]", "")
    if left.count("[") > limits.PAYLOAD_DEPTH_MAX or "[]" in left:
        raise Fault(f"nested deeper than {limits.PAYLOAD_DEPTH_MAX} levels")


def _check_strings(plain: Any) -> None:
    """Find the string that is not Unicode text."""
    if type(plain) is str:
        try:
            plain.encode()
        except UnicodeEncodeError as error:
            raise Fault(f"str with the lone surrogate {plain[error.start]!a} at {error.start}") from None
    elif type(plain) is list:
        for index, item in enumerate(plain):
            _at(f"[{index}]", _check_strings, item)
    elif type(plain) is dict:
        for key, item in plain.items():
            _at(segment(key), _check_strings, key)
            _at(segment(key), _check_strings, item)


def _at(place: str, convert: Callable[..., Any], *args: Any) -> Any:
    try:
        return convert(*args)
    except Fault as fault:
        fault.segments.append(place)
        raise


def _each(convert: Callable[[Any], Any], items: Any) -> list[Any]:
    converted: list[Any] = []
    append = converted.append
    try:
        for item in items:
            append(convert(item))
    except Fault as fault:
        fault.segments.append(f"[{len(converted)}]")
        raise
    return converted


# ---- annotations -------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Coder:
    """How the values of one annotation are converted.

    ``kinds`` are the kinds of JSON values it may write, ``classes`` the exact classes of values it takes (``None``:
    any JSON type). ``required`` and ``allowed`` are the fields of what is written as an object with fields.
    Both functions raise ``Fault``, and nothing else but ``RecursionError``.
    """

    name: str
    kinds: frozenset[str]
    classes: frozenset[type] | None
    encode: Callable[[Any], Any] = None  # type: ignore[assignment]  # until its parts are compiled
    decode: Callable[[Any], Any] = None  # type: ignore[assignment]
    required: frozenset[str] = frozenset()
    allowed: frozenset[str] | None = None

    def __attrs_post_init__(self) -> None:
        if self.encode is None:
            # A type within itself takes these before its functions exist.
            self.encode = lambda value: self.encode(value)
            self.decode = lambda plain: self.decode(plain)


_KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "list",
}
_ALL_KINDS: Final = frozenset({*_KINDS.values(), "dict"})
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
_WRAPPERS: Final = (
    *(typing.Annotated, typing.Required, typing.NotRequired, typing.Final),
    getattr(typing, "ReadOnly", typing.Final),  # new in Python 3.13
)
# As values, for a type checker takes what it can subscript for annotations.
_LIST, _TUPLE, _DICT, _SET, _FROZENSET = typing.cast("tuple[Any, ...]", (list, tuple, dict, set, frozenset))
_ANY_MEMBERS: Final[tuple[Any, ...]] = (
    *(None, bool, int, float, str, bytes, Decimal, UUID, datetime, date, time, timedelta, Path),
    *(PurePosixPath, PureWindowsPath, _LIST[ANY_SCALARS], _TUPLE[ANY_SCALARS, ...], _DICT[ANY_SCALARS, ANY_SCALARS]),
    *(_SET[ANY_SCALARS], _FROZENSET[ANY_SCALARS]),
)


def _is_unannotated(annotation: Any) -> bool:
    return (
        annotation is UNANNOTATED or annotation is Any or annotation is inspect.Parameter.empty or annotation is object
    )


def _resolve(annotation: Any) -> Any:
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
    if _is_unannotated(annotation):
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


def _field_types(annotation: Any, cls: type) -> dict[str, Any]:
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


def _label(annotation: Any) -> str:
    """Name an annotation, the same in every version of Python: names are stored as tags of unions."""
    annotation = _resolve(annotation)
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(sorted(map(_label, arguments)))
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, _Marker):
        return "Any"
    name = "None" if annotation is type(None) else getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(_label, arguments))}]" if arguments else name


class _Coders:
    """Compiles annotations, each once."""

    def __init__(self) -> None:
        self._coders: dict[Any, _Coder] = {}
        self._converter = cattrs.Converter(detailed_validation=False)
        self._converter.register_structure_hook_factory(lambda t: type(t) is _Coder, lambda t: t.decode)
        self._converter.register_unstructure_hook_factory(lambda t: type(t) is _Coder, lambda t: t.encode)

    def get(self, annotation: Any) -> _Coder:
        """Return the coder of an annotation, compiled if it is new; raise ``Fault`` if it is not supported."""
        try:
            found = self._coders.get(annotation)
        except TypeError:  # an annotation that cannot be hashed
            return self._compile(_resolve(annotation))
        if found is None:
            if len(self._coders) >= _CODERS_MAX:
                self._coders.clear()
            try:
                found = self._coders[annotation] = self._compile(_resolve(annotation))
            except BaseException:
                self._coders.clear()  # also of those that were to contain this one
                raise
        return found

    def _started(self, annotation: Any, kind: str, classes: frozenset[type]) -> _Coder:
        """Return a coder without functions, known already to the types within it."""
        coder = _Coder(_label(annotation), frozenset({kind}), classes)
        with contextlib.suppress(TypeError):  # an annotation that cannot be hashed
            self._coders[annotation] = coder
        return coder

    def _compile(self, annotation: Any) -> _Coder:
        origin = typing.get_origin(annotation) or annotation
        arguments = typing.get_args(annotation)
        if annotation is UNANNOTATED:
            return _Coder("Any", _ALL_KINDS, None, to_plain, from_plain)
        if annotation is ANY_SCALARS:
            return self._union(annotation, _ANY_MEMBERS)
        if origin in (typing.Union, types.UnionType):
            return self._union(annotation, arguments)
        if origin is typing.Literal:
            return self._literal(annotation, arguments)
        if not isinstance(origin, type):
            raise Fault(f"{_label(annotation)} is no type that can be stored")
        return self._class(annotation, origin, arguments)

    def _class(self, annotation: Any, cls: type, arguments: tuple[Any, ...]) -> _Coder:
        if cls is int or cls is float:
            functions = (int_to_plain, int_from_plain) if cls is int else (float_to_plain, float_from_plain)
            return _Coder(cls.__name__, frozenset({_KINDS[cls]}), frozenset({cls}), *functions)
        if cls in (type(None), bool, str):
            check = _exactly(cls)
            return _Coder(_label(cls), frozenset({_KINDS[cls]}), frozenset({cls}), check, check)
        if cls in SCALARS:
            return _text_coder(cls.__name__, cls, *SCALARS[cls])
        if issubclass(cls, PurePath):
            return _text_coder(cls.__name__, type(cls()), str, cls)
        if issubclass(cls, enum.Enum):
            return _enum_coder(cls)
        if cls is dict:
            return self._dict(annotation, *(arguments or (str, UNANNOTATED)))
        if cls in (list, set, frozenset):
            return self._items(annotation, cls, arguments[0] if arguments else UNANNOTATED)
        if cls is tuple:
            if arguments[-1:] != (Ellipsis,) and annotation not in (tuple, typing.Tuple):  # noqa: UP006
                return self._fixed_tuple(annotation, arguments)
            return self._items(annotation, cls, arguments[0] if arguments else UNANNOTATED)
        if issubclass(cls, dict) and hasattr(cls, "__total__"):
            return self._typed_dict(annotation, cls)
        return self._fields(annotation, cls)

    def _items(self, annotation: Any, cls: type, item: Any) -> _Coder:
        coder = self._started(annotation, "list", frozenset({cls}))
        part = self.get(item)
        is_set = cls is set or cls is frozenset

        def encode(value: Any) -> list[Any]:
            if type(value) is not cls:
                raise Fault(f"{type_name(value)} is no {coder.name}")
            items = _each(part.encode, value)
            return sorted(items, key=_canonical) if is_set else items

        def decode(plain: Any) -> Any:
            if type(plain) is not list:
                raise Fault(f"a list was expected, not {type_name(plain)}")
            items = _each(part.decode, plain)
            if cls is list:
                return items
            try:
                value = cls(items)
            except TypeError as error:
                raise Fault(str(error)) from None
            if len(value) != len(items):
                raise Fault("an item of a set is there twice")
            return value

        coder.encode, coder.decode = encode, decode
        return coder

    def _fixed_tuple(self, annotation: Any, arguments: tuple[Any, ...]) -> _Coder:
        coder = self._started(annotation, "list", frozenset({tuple}))
        parts = [self.get(item) for item in arguments]

        def pairs(items: Any) -> Iterable[Any]:
            return zip(parts, items, strict=True)

        def encode(value: Any) -> list[Any]:
            if type(value) is not tuple or len(value) != len(parts):
                raise Fault(f"{type_name(value)} is no {coder.name}")
            return _each(lambda pair: pair[0].encode(pair[1]), pairs(value))

        def decode(plain: Any) -> tuple[Any, ...]:
            if type(plain) is not list or len(plain) != len(parts):
                raise Fault(f"a list of {len(parts)} was expected, not {type_name(plain)}")
            return tuple(_each(lambda pair: pair[0].decode(pair[1]), pairs(plain)))

        coder.encode, coder.decode = encode, decode
        return coder

    def _dict(self, annotation: Any, key: Any, item: Any) -> _Coder:
        coder = self._started(annotation, "dict", frozenset({dict}))
        keys, values = self.get(str if _resolve(key) is UNANNOTATED else key), self.get(item)
        to_key, from_key = keys.encode, keys.decode
        if keys.kinds != {"str"}:
            to_key, from_key = (
                lambda name: _key_to_text(keys.encode(name)),
                lambda text: keys.decode(_key_from_text(text)),
            )

        def encode(value: Any) -> dict[str, Any]:
            if type(value) is not dict:
                raise Fault(f"{type_name(value)} is no {coder.name}")
            name: Any = None
            try:
                plain = {}
                for name, entry in value.items():
                    plain[to_key(name)] = values.encode(entry)
            except Fault as fault:
                fault.segments.append(segment(name))
                raise
            return escape(plain)

        def decode(plain: Any) -> dict[Any, Any]:
            plain = unescape(plain)
            name: Any = None
            try:
                value = {}
                for name, entry in plain.items():
                    value[from_key(name)] = values.decode(entry)
            except Fault as fault:
                fault.segments.append(segment(name))
                raise
            except TypeError as error:
                raise Fault(str(error), segment(name)) from None
            if len(value) != len(plain):
                raise Fault("a key is there twice")
            return value

        coder.encode, coder.decode = encode, decode
        return coder

    def _typed_dict(self, annotation: Any, cls: Any) -> _Coder:
        coder = self._started(annotation, "dict", frozenset({dict}))
        hints = _field_types(annotation, cls)
        parts = {name: self.get(hint) for name, hint in hints.items()}
        # __required_keys__ alone is wrong where annotations are strings.
        optional = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
        required = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Required}
        coder.required, coder.allowed = frozenset(cls.__required_keys__ - optional | required), frozenset(parts)
        if any(name.startswith("$") for name in parts):
            raise Fault(f"{coder.name} has a key that begins with '$'")

        def encode(value: Any) -> dict[str, Any]:
            if type(value) is not dict:
                raise Fault(f"{type_name(value)} is no {coder.name}")
            _check_fields(coder, value)
            return {name: _at(segment(name), parts[name].encode, item) for name, item in value.items()}

        def decode(plain: Any) -> dict[str, Any]:
            _check_fields(coder, plain)
            return {name: _at(segment(name), parts[name].decode, item) for name, item in plain.items()}

        coder.encode, coder.decode = encode, decode
        return coder

    def _fields(self, annotation: Any, cls: Any) -> _Coder:
        fields = _fields_of(cls)
        coder = self._started(annotation, "dict", frozenset({cls}))
        hints = _field_types(annotation, cls)
        # cattrs reads these as the fields of a class; their "types" are the coders of the fields.
        shadow = attrs.make_class(
            "Fields",
            {
                field.name: attrs.field(
                    type=_located(field.name, self.get(hints.get(field.name, UNANNOTATED))),
                    kw_only=True,
                    alias=field.alias,
                    default=attrs.NOTHING if field.is_required else None,
                )
                for field in fields
            },
        )
        coder.allowed = frozenset(field.name for field in fields)
        coder.required = frozenset(field.name for field in fields if field.is_required)
        build = _constructor(cls, [field for field in fields if not field.is_init])
        unstructure = make_dict_unstructure_fn_from_attrs(
            list(attrs.fields(shadow)), build, self._converter, _cattrs_use_linecache=False
        )
        structure = make_dict_structure_fn_from_attrs(
            list(attrs.fields(shadow)), build, self._converter, _cattrs_use_linecache=False
        )

        def encode(value: Any) -> dict[str, Any]:
            if type(value) is not cls:
                raise Fault(f"{type_name(value)} is no {coder.name}")
            try:
                return unstructure(value)
            except AttributeError as error:
                raise Fault(str(error)) from error

        def decode(plain: Any) -> Any:
            _check_fields(coder, plain)
            try:
                return structure(plain, cls)
            except (Fault, RecursionError):
                raise
            except Exception as error:
                raise Fault(f"{coder.name} does not take these fields: {type(error).__name__}: {error}") from error

        coder.encode, coder.decode = encode, decode
        return coder

    def _literal(self, annotation: Any, values: tuple[Any, ...]) -> _Coder:
        parts = [(value, self.get(type(value))) for value in values]

        def encode(value: Any) -> Any:
            for known, part in parts:
                if type(known) is type(value) and known == value:
                    return part.encode(value)
            raise Fault(f"{type_name(value)} {str(value)[:80]!r} is not in {_label(annotation)}")

        def decode(plain: Any) -> Any:
            for known, part in parts:
                if is_same(part.encode(known), plain):
                    return known
            raise Fault(f"{str(plain)[:80]!r} is not in {_label(annotation)}")

        kinds = frozenset().union(*(part.kinds for _, part in parts))
        return _Coder(_label(annotation), kinds, frozenset(map(type, values)), encode, decode)

    def _union(self, annotation: Any, arguments: Iterable[Any]) -> _Coder:
        coder = self._started(annotation, "dict", frozenset())
        annotations = _flatten(arguments)
        members = [self.get(member) for member in annotations]
        names = _names(members, annotations)
        coder.kinds = frozenset().union(*(member.kinds for member in members))
        takes_all = any(member.classes is None for member in members)
        coder.classes = None if takes_all else frozenset().union(*(member.classes or () for member in members))
        untagged = _untagged(members)
        if len(untagged) < len(members):
            coder.kinds |= {"dict"}  # of the tags
        by_kind = {kind: member for member in untagged for kind in member.kinds}
        by_name = dict(zip(names, members, strict=True))
        by_class: dict[type, list[tuple[_Coder, str | None]]] = {}
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
                if "$type" in plain:
                    return _decode_tagged(coder.name, by_name, plain)
                kind = "int" if "$int" in plain else "float" if "$float" in plain else "dict"
            else:
                kind = _KINDS[type(plain)]
            member = by_kind.get(kind)
            if member is None and kind == "dict":
                # Written without a tag, when the annotation was no union yet: only if the fields leave no doubt.
                fits = [m for m in members if m.allowed is not None and m.required <= plain.keys() <= m.allowed]
                member = fits[0] if len(fits) == 1 else None
            if member is None:
                raise Fault(f"{type_name(plain)} without $type is no {coder.name}")
            return member.decode(plain)

        coder.encode, coder.decode = encode, decode
        return coder


# ---- parts of coders ---------------------------------------------------------------------------------------------


def _located(name: str, part: _Coder) -> Any:
    """Return the coder of a field, whose faults name the field."""
    to_json, from_json, place = part.encode, part.decode, f".{name}"

    def encode(value: Any) -> Any:
        try:
            return to_json(value)
        except Fault as fault:
            fault.segments.append(place)
            raise

    def decode(plain: Any, _: Any) -> Any:
        try:
            return from_json(plain)
        except Fault as fault:
            fault.segments.append(place)
            raise

    return _Coder(part.name, part.kinds, part.classes, encode, typing.cast(Any, decode))


class _Field(NamedTuple):
    name: str
    alias: str  # its parameter
    is_required: bool
    is_init: bool


def _fields_of(cls: Any) -> list[_Field]:
    if attrs.has(cls):
        return [
            _Field(f.name, f.alias or f.name, f.default is attrs.NOTHING and f.init, f.init) for f in attrs.fields(cls)
        ]
    if dataclasses.is_dataclass(cls):
        none = dataclasses.MISSING
        return [
            _Field(f.name, f.name, f.default is none and f.default_factory is none and f.init, f.init)
            for f in dataclasses.fields(cls)
        ]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return [_Field(name, name, name not in cls._field_defaults, True) for name in cls._fields]
    raise Fault(f"{cls.__module__}.{cls.__qualname__} is no type that can be stored; use attrs or a dataclass")


def _constructor(cls: Any, late: list[_Field]) -> Any:
    """Return a function that makes an instance from fields, also from those that ``__init__`` does not take."""

    def build(**values: Any) -> Any:
        kept = [(field.name, values.pop(field.alias)) for field in late if field.alias in values]
        instance = cls(**values)
        for name, value in kept:
            object.__setattr__(instance, name, value)  # frozen classes too
        return instance

    return build


def _check_fields(coder: _Coder, plain: Any) -> None:
    if type(plain) is not dict:
        raise Fault(f"an object with the fields of {coder.name} was expected, not {type_name(plain)}")
    keys = plain.keys()
    if not coder.required <= keys:
        raise Fault(f"{coder.name} lacks the field {min(coder.required - keys)!r}")
    if coder.allowed is not None and not keys <= coder.allowed:
        raise Fault(f"{coder.name} has no field {min(map(segment, keys - coder.allowed))[1:-1]}")


def _exactly(cls: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {_label(cls)}")
        return value

    return check


def _text_coder(name: str, cls: type, write: Callable[[Any], str], read: Callable[[str], Any]) -> _Coder:
    def encode(value: Any) -> str:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {name}")
        return write(value)

    def decode(plain: Any) -> Any:
        if type(plain) is not str:
            raise Fault(f"{name} as a string was expected, not {type_name(plain)}")
        try:
            return read(plain)
        except Exception as error:
            raise Fault(f"{plain[:80]!r} is no {name}") from error

    return _Coder(name, frozenset({"str"}), frozenset({cls}), encode, decode)


def _enum_coder(cls: Any) -> _Coder:
    members = list(cls.__members__.values())
    is_flag = issubclass(cls, enum.Flag)
    # By value where JSON has it exactly, else by name.
    by_value = is_flag or all(type(member.value) in (str, int, bool) for member in members)
    kinds = {"int"} if is_flag else {_KINDS[type(member.value)] for member in members} if by_value else {"str"}

    def encode(value: Any) -> Any:
        if type(value) is not cls:
            raise Fault(f"{type_name(value)} is no {cls.__name__}")
        return to_plain(value.value if by_value else value.name)

    def decode(plain: Any) -> Any:
        try:
            plain = from_plain(plain)
            member = cls(plain) if by_value else cls[plain]
        except Exception:
            raise Fault(f"{str(plain)[:80]!r} is no {cls.__name__}") from None
        if by_value and member.value == plain and type(member.value) is not type(plain):
            raise Fault(f"{type_name(plain)} {str(plain)[:80]} is no {cls.__name__}")
        return member

    return _Coder(cls.__name__, frozenset(kinds), frozenset({cls}), encode, decode)


# What could be the JSON text of a key that is no string.
_JSON_KEY: Final = re.compile(r'["\[{0-9-]|(?:null|true|false)?\Z')


def _key_to_text(plain: Any) -> str:
    """Return the key of an object for a key that need not be a string: its JSON, or a string that is none."""
    return plain if type(plain) is str and not _JSON_KEY.match(plain) else _canonical(plain).decode()


def _key_from_text(text: str) -> Any:
    if not _JSON_KEY.match(text):
        return text
    plain = _load(text)
    if _key_to_text(plain) != text:
        raise Fault(f"key {text[:80]!r} is not in its canonical form")
    return plain


def _flatten(arguments: Iterable[Any]) -> list[Any]:
    """Return a union's members, once each, with nested unions dissolved and literals in one."""
    members: list[Any] = []
    literals: list[Any] = []
    for argument in map(_resolve, arguments):
        origin = typing.get_origin(argument)
        if origin in (typing.Union, types.UnionType):
            members += [member for member in _flatten(typing.get_args(argument)) if member not in members]
        elif origin is typing.Literal:
            literals += typing.get_args(argument)
        elif argument not in members:
            members.append(argument)
    return [*members, typing.Literal[tuple(literals)]] if literals else members


def _names(members: list[_Coder], annotations: list[Any]) -> list[str]:
    names = [member.name for member in members]
    for index, annotation in enumerate(annotations):
        if [member.name for member in members].count(names[index]) > 1:
            names[index] = (
                f"{getattr(annotation, '__module__', '')}.{getattr(annotation, '__qualname__', names[index])}"
            )
    if len(set(names)) != len(names):
        raise Fault(f"members of a union have the same name: {', '.join(names)}")
    return names


def _untagged(members: list[_Coder]) -> list[_Coder]:
    """Choose the members that need no tag: alone with their kinds of JSON, or the one that is JSON's own."""
    found = []
    for member in members:
        others = [other for other in members if other is not member and other.kinds & member.kinds]
        is_alone = _is_native(member) and not any(_is_native(other) or other.classes is None for other in others)
        if member.classes is None or not others or is_alone:
            found.append(member)
    return found


def _is_native(coder: _Coder) -> bool:
    """Whether a coder writes the JSON type of the very class it takes."""
    return (
        coder.classes is not None
        and coder.allowed is None
        and coder.kinds == {_KINDS.get(cls, "dict" if cls is dict else "") for cls in coder.classes}
    )


def _decode_tagged(name: str, by_name: dict[str, _Coder], plain: dict[str, Any]) -> Any:
    rest = dict(plain)
    tag = rest.pop("$type")
    member = by_name.get(tag) if type(tag) is str else None
    if member is None:
        raise Fault(f"$type {str(tag)[:80]!r} is none of {name}")
    if member.allowed is not None:
        return member.decode(rest)
    if rest.keys() != {"value"}:
        raise Fault(f"an object with $type {tag} has exactly one other key, 'value'")
    return member.decode(rest["value"])
