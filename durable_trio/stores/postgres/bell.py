"""What one thread rings and another waits for as for a socket: a pipe, which every system has."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

__all__ = ["Bell"]

_READ_BYTES: Final = 4096


class Bell:
    """Rung any number of times, it is silent again once it is read empty.

    ``descriptor`` is readable while it rings.
    """

    def __init__(self) -> None:
        self.descriptor, self._writer = os.pipe()
        for each in (self.descriptor, self._writer):
            os.set_blocking(each, False)

    def ring(self) -> None:
        """Ring, from any thread. It does not wait for anybody."""
        with suppress(BlockingIOError):  # it has been ringing for long
            os.write(self._writer, b"!")

    def silence(self) -> None:
        """Read it empty."""
        with suppress(BlockingIOError):
            while os.read(self.descriptor, _READ_BYTES):
                pass

    def close(self) -> None:
        """Close both ends."""
        os.close(self.descriptor)
        os.close(self._writer)
