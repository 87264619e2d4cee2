"""How long another process is waited for, where this one may have been stopped together with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

# Each part of a wait counts once, however long it takes. Twice as many as a process has heartbeats in such a time: to
# have been stopped costs one part, and to hear from it afterwards two more.
PARTS: Final = 8


@attrs.define(eq=False)
class Patience:
    """Seconds that another process is given. Only those count in which this process itself ran.

    The others say nothing of it: whoever stops this process (Ctrl-Z, a debugger, a container that is paused, a machine
    that is) mostly stops the other one with it, and both go on at the same time.
    """

    seconds: float
    left: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.left = self.seconds

    async def lasts_until(self, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait for something, and tell whether it has come in the time that was left.

        Args:
            wait: called for each part of the time, and cancelled at its end: it must lose nothing by that.
        """
        part = self.seconds / PARTS
        while self.left > 0:
            began_at = trio.current_time()
            with trio.move_on_after(min(part, self.left)) as scope:
                await wait()
            self.left -= min(part, trio.current_time() - began_at)
            if not scope.cancelled_caught:
                return True
        return False
