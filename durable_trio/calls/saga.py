"""Remembers which completed steps can be undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from durable_trio.policies import Retry
from durable_trio.rows import Key
from durable_trio.rules.compensation import in_order


@attrs.frozen(kw_only=True)
class Compensation:
    """How one completed step is undone: ``fn(result)``."""

    step: Key
    fn: Callable[[Any], Any]
    result: Any
    retry: Retry


@attrs.define(eq=False)
class Saga:
    """The compensations that the body has registered so far, by the seq of their steps' rows."""

    _registered: list[tuple[int, Compensation]] = attrs.field(factory=list, init=False)

    def register(self, seq: int, compensation: Compensation) -> None:
        """Have the step undone if the run does not complete."""
        self._registered.append((seq, compensation))

    def in_order(self) -> list[Compensation]:
        """Return what is to be undone, the last completed step first."""
        return in_order(self._registered)
