"""``Codec``: values to JSON text and back, by annotation.

It promises that nothing is changed silently. What it encodes, it decodes again and compares, type by type; the caller
goes on with the decoded value, so a first execution and its replay see the same.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import trio

from durable_trio import limits
from durable_trio.aliases import NO_ALIASES
from durable_trio.codec.annotations import UNANNOTATED, is_unannotated, label
from durable_trio.codec.coder import Coder
from durable_trio.codec.coders import Coders
from durable_trio.codec.extent import no_fields, room_left
from durable_trio.codec.faults import Fault, at, fault_of, type_name
from durable_trio.codec.fields import field_names
from durable_trio.codec.hooks import TypeHook, hooks_by_class
from durable_trio.codec.json_text import canonical, check_depth, check_strings, dump, load, may_be_deep, parse_own
from durable_trio.codec.plain import INTEGER_MAX, INTEGER_MIN, to_plain
from durable_trio.codec.sameness import check_same
from durable_trio.errors import CodecError, PayloadTooLarge
from durable_trio.looks import look, short

__all__ = ["Codec", "Encoded", "parse"]

# A value so many times too large is refused before its text is made; below that, the error tells the size.
_TOO_LARGE_TIMES: Final = 2
# Characters of an integer that is not tagged, at most.
_DIGITS_MAX: Final = len(str(INTEGER_MIN))


class Encoded(NamedTuple):
    """The JSON text that is stored, and the value decoded from it again."""

    text: str
    value: Any


class Codec:
    """Encodes and decodes values by their annotations.

    What a value's own code raises while it is converted is a ``CodecError``, whatever it is. So Ctrl-C, which must not
    be taken for that, is kept out of it.

    Args:
        payload_bytes_max: bytes of UTF-8 that one encoded value may have; default 4 MiB.
        types: how classes are stored that are not otherwise.
        aliases: which classes the tags of union members stand for, where their names are others now.
    """

    def __init__(
        self,
        *,
        payload_bytes_max: int = limits.PAYLOAD_BYTES_MAX,
        types: Iterable[TypeHook[Any]] = (),
        aliases: Mapping[str, type] = NO_ALIASES,
    ) -> None:
        self.payload_bytes_max = payload_bytes_max
        self._room = payload_bytes_max * _TOO_LARGE_TIMES
        self._coders = Coders(hooks_by_class(types), room=self._room, aliases=aliases)

    @functools.cached_property
    def own(self) -> Codec:
        """The codec of what this library writes of its own, and of what was accepted before under a larger limit."""
        own = Codec(payload_bytes_max=limits.STORED_BYTES_MAX)
        coders = self._coders
        own._coders = Coders(coders.hooks, room=own._room, aliases=coders.aliases) if coders.hooks else coders
        return own

    def compile(self, annotation: Any) -> None:
        """Compile what an annotation needs now. Then this codec may be used for it by several threads."""
        self._coders.get(annotation)

    @trio.lowlevel.enable_ki_protection
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
        # What many steps return, and signals say. Nothing of it can come back changed, so nothing has to be compared.
        if (
            (value is None or ((type(value) is int or type(value) is bool) and INTEGER_MIN <= value <= INTEGER_MAX))
            and (annotation is UNANNOTATED or annotation is type(value))
            and self.payload_bytes_max >= _DIGITS_MAX
        ):
            return Encoded(dump(value).decode(), value)
        try:
            if annotation is UNANNOTATED or is_unannotated(annotation):
                foreign: list[type] = []
                if room_left(value, self._room, foreign.append) < 0:
                    raise self._too_large(where)
                # Not with a class of the user's in it: orjson reads the value of an enum, and dies if that raises.
                encoded = None if foreign else self._encode_json(value)
                if encoded is not None:
                    return encoded
                coder = self._coders.get(UNANNOTATED)
            else:
                coder = self._coders.get(annotation)
                if not self._has_room(value, coder):
                    raise self._too_large(where)
            plain = coder.encode(value)
            raw = self._dump(plain, where)
            decoded = coder.decode(parse_own(raw))
            self._check_same(value, decoded, coder, plain)
            return Encoded(raw.decode(), decoded)
        except PayloadTooLarge:
            raise
        except BaseException as error:
            refused = _codec_error(error, where, annotation)
        raise refused from refused.__cause__  # out here, so that what the value has raised is not kept

    @trio.lowlevel.enable_ki_protection
    def decode(self, text: str, annotation: Any, *, where: str) -> Any:
        """Return the value that ``encode`` has written as ``text``; a new object each time.

        Raises:
            CodecError: ``text`` is no JSON, nested too deeply, or not of this annotation.
        """
        if text == "null" and (annotation is UNANNOTATED or annotation is Any):  # as ``encode``: what many signals say
            return None
        try:
            plain = load(text)
            if (annotation is UNANNOTATED or annotation is Any) and '"$' not in text:  # no tag in it
                return plain
            try:
                return self._coders.get(annotation).decode(plain)
            except Fault:
                return self._coders.lenient.get(annotation).decode(plain)
        except PayloadTooLarge:
            raise
        except BaseException as error:
            refused = _codec_error(error, where, annotation)
        raise refused from refused.__cause__  # out here, so that what the value has raised is not kept

    @trio.lowlevel.enable_ki_protection
    def encode_arguments(
        self,
        args: Sequence[object],
        annotations: Sequence[Any],
        *,
        where: str,
        digest_count: int | None = None,
        names: Sequence[str] = (),
    ) -> tuple[str, bytes]:
        """Encode positional arguments as one JSON array.

        Args:
            digest_count: how many of them the digest is of, from the first on; default all.
            names: of the parameters, for errors; the last is that of all further arguments.

        Returns:
            The text, and the SHA-256 of its canonical form: equal for arguments that are the same but for the order
            of dicts and sets.

        Raises:
            CodecError, PayloadTooLarge: as ``encode``; or there are more arguments than annotations.
        """
        annotation: Any = None
        index = -1
        try:
            if len(args) > len(annotations):
                raise _too_many(args, annotations)
            plain = []
            for index, annotation in enumerate(annotations[: len(args)]):
                coder = at(index, self._coders.get, annotation)
                if not at(index, self._has_room, args[index], coder):
                    raise self._too_large(where)
                plain.append(at(index, coder.encode, args[index]))
            raw = self._dump(plain, where)
            index = -1
            for index, item in enumerate(parse_own(raw)):
                annotation = annotations[index]
                coder = self._coders.get(annotation)
                decoded = at(index, coder.decode, item)
                at(index, self._check_same, args[index], decoded, coder, plain[index])
            return raw.decode(), hashlib.sha256(canonical(plain[:digest_count])).digest()
        except PayloadTooLarge:
            raise
        except BaseException as error:
            name = names[min(index, len(names) - 1)] if names and index >= 0 else None
            refused = _codec_error(error, where, annotation, name)
        raise refused from refused.__cause__  # out here, so that what the value has raised is not kept

    @trio.lowlevel.enable_ki_protection
    def decode_arguments(
        self, text: str, annotations_for: Callable[[int], Sequence[Any]], *, where: str, names: Sequence[str] = ()
    ) -> tuple[Any, ...]:
        """Return the arguments that ``encode_arguments`` has written as ``text``.

        Args:
            annotations_for: returns the annotations of so many arguments, or raises ``TypeError``.
            names: of the parameters, for errors; the last is that of all further arguments.

        Raises:
            CodecError: as ``decode``; or there are more arguments than annotations.
            TypeError: of ``annotations_for``.
        """
        annotation: Any = None
        index = -1
        try:
            plain = load(text)
            if type(plain) is not list:
                raise Fault(f"a list of arguments was expected, not {type_name(plain)}")
        except Fault as fault:
            raise _codec_error(fault, where, annotation) from None
        annotations = annotations_for(len(plain))
        try:
            if len(plain) > len(annotations):
                raise _too_many(plain, annotations)
            values = []
            for index, annotation in enumerate(annotations[: len(plain)]):
                coder = self._coders.get(annotation)
                try:
                    values.append(at(index, coder.decode, plain[index]))
                except Fault:
                    values.append(at(index, self._coders.lenient.get(annotation).decode, plain[index]))
            return tuple(values)
        except PayloadTooLarge:
            raise
        except BaseException as error:
            name = names[min(index, len(names) - 1)] if names and index >= 0 else None
            refused = _codec_error(error, where, annotation, name)
        raise refused from refused.__cause__  # out here, so that what the value has raised is not kept

    @trio.lowlevel.enable_ki_protection
    def to_plain(self, value: object, annotation: Any) -> Any:
        """Return the JSON value that stands for a part of a payload; ``write`` makes it text.

        Raises:
            Fault: it would not come back the same.
        """
        coder = self._coders.get(annotation)
        if not self._has_room(value, coder):
            raise Fault("longer than a payload may be")
        plain = coder.encode(value)
        self._check_same(value, coder.decode(plain), coder, plain)
        return plain

    @trio.lowlevel.enable_ki_protection
    def from_plain(self, plain: Any, annotation: Any) -> Any:
        """Undo ``to_plain``; raise ``Fault`` if that did not write ``plain``."""
        try:
            return self._coders.get(annotation).decode(plain)
        except Fault:
            return self._coders.lenient.get(annotation).decode(plain)

    def write(self, plain: Any, *, where: str) -> str:
        """Return the text of a payload that was put together from plain values.

        Raises:
            CodecError, PayloadTooLarge: as ``encode``.
        """
        try:
            return self._dump(plain, where).decode()
        except (Fault, RecursionError) as error:
            refused = _codec_error(error, where, UNANNOTATED)
            raise refused from refused.__cause__

    def _encode_json(self, value: object) -> Encoded | None:
        """Encode what is exact JSON without any tag; ``None`` where the slower way must look closer."""
        try:
            raw = dump(value)
        except TypeError:
            return None
        if b'"$' in raw or len(raw) > self.payload_bytes_max:
            return None
        if len(raw) > limits.PAYLOAD_DEPTH_MAX and may_be_deep(raw):
            return None
        decoded = parse_own(raw)
        try:
            check_same(value, decoded)
        except Fault:
            return None
        return Encoded(raw.decode(), decoded)

    def _dump(self, plain: Any, where: str) -> bytes:
        try:
            raw = dump(plain)
        except TypeError:
            check_strings(plain)
            raise Fault(f"nested deeper than {limits.PAYLOAD_DEPTH_MAX} levels") from None
        if len(raw) > self.payload_bytes_max:
            raise self._too_large(where, str(len(raw)))
        if len(raw) > limits.PAYLOAD_DEPTH_MAX and may_be_deep(raw):
            check_depth(raw.decode())
        return raw

    def _check_same(self, value: object, decoded: object, coder: Coder, plain: Any) -> None:
        """Raise ``Fault`` if a value has not come back the same.

        What has a hook is compared by its hook. So where there are hooks, the copy must be stored as the value is,
        which for all other types says the same: no two of their values are stored alike.
        """
        if self._coders.hooks:
            check_same(plain, coder.encode(decoded))
        else:
            check_same(value, decoded)

    def _field_names(self, cls: type) -> tuple[str, ...] | None:
        return None if cls in self._coders.hooks else field_names(cls)

    def _has_room(self, value: object, coder: Coder) -> bool:
        """Whether a value may be walked in full; see ``extent``."""
        if coder.is_flat or (coder.classes is not None and type(value) not in coder.classes):
            return True  # another class is refused at once, by its name
        return room_left(value, self._room, no_fields if coder.encode is to_plain else self._field_names) >= 0

    def _too_large(self, where: str, size: str = "") -> PayloadTooLarge:
        return PayloadTooLarge(
            f"{where} has {size or f'more than {self._room}'} bytes; "
            f"at most {self.payload_bytes_max} are stored in one payload. "
            "Store it elsewhere and pass a reference, or raise payload_bytes_max",
            where=where,
        )


def _too_many(args: Sequence[object], annotations: Sequence[Any]) -> Fault:
    return Fault(f"{len(args)} arguments, but only {len(annotations)} parameters")


def parse(text: str, *, where: str) -> Any:
    """Return the JSON value of a stored text as it stands there, tags and all, for people to read.

    Raises:
        CodecError: it is no JSON, or nested too deeply.
    """
    try:
        return load(text)
    except Fault as fault:
        raise _codec_error(fault, where, UNANNOTATED) from None


def _codec_error(error: BaseException, where: str, annotation: Any, parameter: str | None = None) -> CodecError:
    if type(error) is RecursionError:
        fault = Fault(f"nested deeper than {limits.PAYLOAD_DEPTH_MAX} levels, or in itself")
    else:
        fault = fault_of(error, "its own code has raised")
    name = look(label, annotation, instead=lambda _: short(annotation))
    hints = [f"parameter {parameter!r}"] if parameter is not None else []
    hints += [] if is_unannotated(annotation) else [f"annotated {name}"]
    hint = f" ({', '.join(hints)})" if hints else ""
    # A path into something nested without end is no help.
    path = fault.path if len(fault.path) <= 1000 else fault.path[:1000] + "..."
    refused = CodecError(f"{where}{path}: {fault.reason}{hint}", where=where, path=path, type=name)
    refused.__cause__ = fault.__cause__
    return refused
