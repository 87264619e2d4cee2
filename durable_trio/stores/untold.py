"""What is to be told of runs whose executor has died, as one text: with its death, until that is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress

from durable_trio.rows import UntoldRow

__all__ = ["untold_in", "untold_text"]


def untold_text(untold: Iterable[UntoldRow]) -> str:
    """Return the text that is stored."""
    return json.dumps([(each.event, each.run_id, each.token) for each in untold])


def untold_in(text: object) -> Iterator[UntoldRow]:
    """Yield what a stored text says; of a damaged one, what comes before the damage."""
    with suppress(ValueError, TypeError):
        for event, run_id, token in json.loads(text):  # type: ignore[arg-type]  # it may be damaged
            yield UntoldRow(event=str(event), run_id=str(run_id), token=int(token))
