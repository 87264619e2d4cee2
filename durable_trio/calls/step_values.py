"""What the functions of steps publish, while they are executing.

It is written beside the turns, for no code of the body knows of it. Its position is where the body is by then: what the
body has published before has an earlier one, and is not written again over it at replay; what it publishes afterwards
has a later one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import trio

from durable_trio.clock import Clock
from durable_trio.turns.state import RunState

__all__ = ["StepValues"]


@attrs.define(eq=False)
class StepValues:
    """Of each key the newest value, handed to the store one commit after the other, so that none are heaped up.

    Args:
        positions: of the published values in the store, by their keys.
    """

    _state: RunState
    _clock: Clock
    _positions: dict[str, tuple[int, int]]
    _waiting: dict[str, str] = attrs.Factory(dict)
    _committed: trio.Event = attrs.Factory(trio.Event)  # what is waiting now
    _on_the_way: int = 0

    def publish(self, key: str, text: str) -> trio.Event:
        """Take a value; return what is set once it, or a newer one in its stead, is committed."""
        self._waiting[key] = text
        committed = self._committed
        if not self._on_the_way:
            self.flush()
        return committed

    def superseded(self, key: str) -> None:
        """The body publishes something under that key: what waits there is older."""
        self._waiting.pop(key, None)

    def flush(self) -> None:
        """Hand on what is waiting: before the outcome of the step, say."""
        waiting, self._waiting = tuple(self._waiting.items()), {}
        committed, self._committed = self._committed, trio.Event()
        if not waiting:  # or the body has published something newer
            committed.set()
            return
        position = self._state.position
        self._positions.update((key, position) for key, _ in waiting)
        self._on_the_way += 1
        done = partial(self._done, committed)
        self._state.port.advance(done, published=waiting, position=position)

    def _done(self, committed: trio.Event, outcome: Any) -> None:
        self._on_the_way -= 1
        if outcome is True:
            committed.set()
            if not self._on_the_way:
                self.flush()
        self._state.check(outcome)
