"""``Failures``: exceptions to JSON text and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from durable_trio import limits
from durable_trio.codec import Codec, parse
from durable_trio.errors import CodecError
from durable_trio.failures.allowed import Allowed
from durable_trio.failures.errors import CannotRebuild
from durable_trio.failures.rebuilding import Rebuilder
from durable_trio.failures.recording import Recorder
from durable_trio.failures.visible import failed

__all__ = ["Failures"]

# A failure too large for a payload keeps so much of its texts; JSON may need six bytes for a character.
_CUT_SHARE: Final = 32


class Failures:
    """Encodes and decodes exceptions.

    Args:
        codec: converts their args and fields, and bounds the size.
        modules: names of modules whose exceptions are rebuilt, besides builtins, trio and durable_trio.
        classes: exception classes that are rebuilt wherever they are defined.
    """

    def __init__(self, codec: Codec, *, modules: Iterable[str] = (), classes: Iterable[type[Exception]] = ()) -> None:
        self._codec = codec
        allowed = Allowed(modules, classes)
        self._rebuilder = Rebuilder(codec, allowed)
        self._recorder = Recorder(codec, allowed, self._rebuilder)

    def encode(self, exc: Exception, *, where: str) -> tuple[str, Exception]:
        """Return the JSON text of an exception, and the exception as ``decode`` will rebuild it.

        What cannot be rebuilt equal becomes ``StepFailed``; no exception is refused.

        Args:
            where: what failed, for errors.
        """
        # Each is smaller than the one before; the last one fits any limit that leaves room for a sentence.
        attempts: tuple[Callable[[], dict[str, Any]], ...] = (
            lambda: self._recorder.record(exc, limits.TRACEBACK_CHARACTERS_MAX),
            lambda: failed(exc, limits.TRACEBACK_CHARACTERS_MAX),
            lambda: failed(exc, self._codec.payload_bytes_max // _CUT_SHARE, is_cut=True),
        )
        for attempt in attempts:
            try:
                text = self._codec.write(attempt(), where=where)
                return text, self.decode(text)
            except (CodecError, CannotRebuild, RecursionError):
                continue
        text = self._codec.write({"type": "", "message": "", "traceback": "", "recipe": "failed"}, where=where)
        return text, self.decode(text)

    def decode(self, text: str) -> Exception:
        """Return the exception that ``encode`` has written as ``text``; a new object each time.

        Raises:
            CannotRebuild: its class is not loaded, not allowed, or does not take its fields any more.
            CodecError: ``text`` is no failure.
        """
        return self._rebuilder.rebuild(parse(text, where="failure"))
