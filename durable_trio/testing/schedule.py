"""Trio's scheduling order, chosen by a test.

Trio shuffles the tasks that are runnable at once, so that nobody comes to rely on their order. A test that wants the
same shuffle again, or a certain one, uses the hook that trio and pytest-trio have for this. The hook is private to
trio; a test of this library fails as soon as it is gone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import trio

Order = Literal["oldest first", "newest first"]


class _Fixed(random.Random):
    """Leaves the batch as it is, or reverses it; trio has sorted it by age and takes it from its end."""

    def __init__(self, order: Order) -> None:
        super().__init__(0)
        self._reverses = order == "oldest first"

    def shuffle(self, x: Any) -> None:
        if self._reverses:
            x.reverse()


@contextmanager
def scheduling(choice: int | Order) -> Iterator[None]:
    """Have trio schedule by a seed, or by the age of tasks, inside the block; put it around ``trio.run``.

    The same seed gives the same order only while the program makes no use of threads or real time.

    Raises:
        RuntimeError: this version of trio has no such hook.
    """
    module = cast(Any, trio)._core._run
    if not isinstance(getattr(module, "_r", None), random.Random) or not hasattr(
        module, "_ALLOW_DETERMINISTIC_SCHEDULING"
    ):
        raise RuntimeError("this version of trio has no hook for its scheduling order")
    before = module._r, module._ALLOW_DETERMINISTIC_SCHEDULING
    module._r = random.Random(choice) if isinstance(choice, int) else _Fixed(choice)
    module._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        module._r, module._ALLOW_DETERMINISTIC_SCHEDULING = before
