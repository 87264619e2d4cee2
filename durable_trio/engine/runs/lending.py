"""Places of runs in memory, lent while a run's own code waits for another run.

A step may run another workflow and wait for its result. If the step's run kept its place meanwhile, and no other were
free, both would wait for ever. So whoever waits for a run, in a step, in a body or in an inline block, lends the place
of the run that it belongs to, in whichever engine of this process that has it. Who opens an inline block waits for that
run, too. How many may be lent is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

__all__ = ["LENDER", "lending_place"]

#: Of the run whose code this is: lends its place inside the block.
LENDER: ContextVar[Callable[[], AbstractContextManager[None]] | None] = ContextVar("durable_trio_lender", default=None)


def lending_place() -> AbstractContextManager[None]:
    """Lend the place of the run whose code is calling, if it is that of one, inside the block."""
    lend = LENDER.get()
    return nullcontext() if lend is None else lend()
