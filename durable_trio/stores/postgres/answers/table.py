"""Which function answers which question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.runs import find_run
from durable_trio.stores.questions import FindRun

__all__ = ["ANSWERS", "Asking"]

ANSWERS: Final[dict[type, Callable[[Asking, Any], Any]]] = {FindRun: find_run}
