"""``Failures``: exceptions to JSON text and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import trio

from durable_trio import limits
from durable_trio.aliases import NO_ALIASES
from durable_trio.codec import Codec, parse
from durable_trio.errors import PayloadTooLarge
from durable_trio.failures.allowed import Allowed
from durable_trio.failures.rebuilding import Rebuilder
from durable_trio.failures.recording import Recorder
from durable_trio.failures.visible import failed
from durable_trio.looks import look, qualified_name, text_of

__all__ = ["Failures"]

# A failure too large for a payload keeps so much of its texts; JSON may need six bytes for a character.
_CUT_SHARE: Final = 32
# However small a payload may be, so much says what has happened.
_CUT_CHARACTERS_MIN: Final = 1000
# A failure of this library's own must come back as itself, however small a payload may be.
_FAILURE_BYTES_MIN: Final = 16 * 1024


class Failures:
    """Encodes and decodes exceptions.

    Args:
        codec: converts their args and fields, and bounds the size.
        modules: names of modules whose exceptions are rebuilt, besides builtins, trio and durable_trio.
        classes: exception classes that are rebuilt wherever they are defined.
        aliases: which classes stored names stand for.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        modules: Iterable[str] = (),
        classes: Iterable[type[Exception]] = (),
        aliases: Mapping[str, type] = NO_ALIASES,
    ) -> None:
        self._codec = codec
        allowed = Allowed(modules, classes, aliases)
        self._rebuilder = Rebuilder(codec, allowed)
        self._recorder = Recorder(codec, allowed, self._rebuilder)

    def encode(self, exc: Exception, *, where: str) -> tuple[str, Exception]:
        """Return the JSON text of an exception, and the exception as ``decode`` will rebuild it.

        What cannot be rebuilt equal, or cannot bear a look, becomes ``StepFailed``; no exception is refused, whatever
        it does when it is looked at.

        Args:
            where: what failed, for errors.
        """
        room, most, less = limits.TRACEBACK_CHARACTERS_MAX, self._bytes_max, self._cut_room
        text = text_of(exc)  # asked for once: it may be large
        # Each is smaller than the one before, and the last two always fit. Any may raise what the exception does.
        attempts: tuple[Callable[[], str], ...] = (
            lambda: self._within_limit(self._recorder.record(exc, room, text_room=most, text=text), where),
            lambda: self._within_limit(failed(exc, room, text_room=most, text=text), where),
            lambda: self._write(failed(exc, min(room, less), text_room=less, text=text, keeps_notes=False), where),
            lambda: self._write(
                {"type": qualified_name(type(exc)), "message": "", "traceback": "", "recipe": "failed"}, where
            ),
        )
        for attempt in attempts:
            encoded = look(self._encoded, attempt, instead=lambda _: None)
            if encoded is not None:
                return encoded
        raise AssertionError("the last one always fits")

    def _encoded(self, attempt: Callable[[], str]) -> tuple[str, Exception]:
        text = attempt()
        return text, self.decode(text)

    def _write(self, record: dict[str, Any], where: str) -> str:
        return self._codec.own.write(record, where=where)

    def _within_limit(self, record: dict[str, Any], where: str) -> str:
        """Write a record if all in it that is the user's fits a payload; what this library adds does not count."""
        text = self._write(record, where)
        bytes_max = self._bytes_max
        if len(text) > bytes_max and len(self._write(_without_tracebacks(record), where).encode()) > bytes_max:
            raise PayloadTooLarge(f"{where} has more than {bytes_max} bytes of the user's", where=where)
        return text

    @property
    def _bytes_max(self) -> int:
        return max(_FAILURE_BYTES_MIN, self._codec.payload_bytes_max)

    @property
    def _cut_room(self) -> int:
        return max(_CUT_CHARACTERS_MIN, self._codec.payload_bytes_max // _CUT_SHARE)

    @trio.lowlevel.enable_ki_protection  # what the constructors raise is their own
    def decode(self, text: str) -> Exception:
        """Return the exception that ``encode`` has written as ``text``; a new object each time.

        Raises:
            CannotRebuild: its class is not loaded, not allowed, or does not take its fields any more.
            CodecError: ``text`` is no failure.
        """
        return self._rebuilder.rebuild(parse(text, where="failure"))


def _without_tracebacks(plain: Any) -> Any:
    """Return a record, or a part of one, without the tracebacks in it."""
    if type(plain) is list:
        return [_without_tracebacks(item) for item in plain]
    if type(plain) is not dict:
        return plain
    is_record = "recipe" in plain and "traceback" in plain
    return {key: "" if is_record and key == "traceback" else _without_tracebacks(item) for key, item in plain.items()}
