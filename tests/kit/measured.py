"""Coverage pauses while a test repeats what it has done.

The hundredth replay of a program passes no line that the first three have not, and takes half as long again while each
line is noted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unmeasured() -> Iterator[None]:
    """Note no lines inside the block. Where coverage is not asked for this is nothing."""
    coverage = sys.modules.get("coverage")
    measuring = None if coverage is None else coverage.Coverage.current()
    if measuring is None:
        yield
        return
    measuring.stop()
    try:
        yield
    finally:
        measuring.start()
