"""What those who answer share: a connection, on which all that is asked for one answer is of one instant."""

from __future__ import annotations

from typing import Any, Final

import attrs

from durable_trio.stores.postgres.wire import Answer, Request, Wire

__all__ = ["Asking", "text"]

#: In place of a NUL, which no text has in the database. Nor has any name this one.
_NO_CHARACTER: Final = "\uffff"
_BEGIN: Final = Request("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_END: Final = Request("ROLLBACK")


@attrs.frozen
class Asking:
    """A connection to ask on. ``lock_class``: of the locks by which executors are seen to be there.

    The first statements begin a transaction, which whoever has made this ends: an answer of several round trips is of
    one instant. What needs one round trip alone is asked with ``only``, which leaves nothing to end.
    """

    wire: Wire
    lock_class: int

    def execute(self, text: str, *values: Any) -> Answer:
        """Ask with one statement: a round trip."""
        return self.exchange((text, values))[0]

    def exchange(self, *requests: tuple[str, tuple[Any, ...]]) -> list[Answer]:
        """Ask with several statements in one round trip."""
        asked = [Request(*each) for each in requests]
        if self.wire.is_in_transaction:
            return self.wire.exchange(asked)
        return self.wire.exchange([_BEGIN, *asked])[1:]

    def only(self, *requests: tuple[str, tuple[Any, ...]]) -> list[Answer]:
        """Ask with these statements and with nothing else: one round trip in all."""
        asked = [Request(*each) for each in requests]
        if len(asked) == 1:
            return self.wire.exchange(asked)
        return self.wire.exchange([_BEGIN, *asked, _END])[1:-1]


def text(value: str) -> str:
    """Return a text to look for, such that one which cannot be stored is found nowhere."""
    return value.replace("\0", _NO_CHARACTER)
