"""Which runs are parked: in no column, but derived from what code lives.

A run that some code does not fit is refused by it, and due at once for all others (``Refuse``). It is *parked* while no
executor lives whose code it has not been refused by. So nothing is written when the last fitting executor goes, and
nothing when a new one comes: whoever asks, asks of this instant.

A run whose row is damaged is parked, too: that is written (``problem``), for no code mends it.
"""

from __future__ import annotations

from typing import Final

from durable_trio.rows import NO_VERSION
from durable_trio.stores.sqlite.layout import CODES_CHARACTERS, COUNT_MAX
from durable_trio.stores.sqlite.tables import REFUSED

__all__ = ["IS_PARKED", "IS_UNGROUPED", "OF_LIVING", "PROBLEM"]

#: Codes that some executor has, once for each that has them.
OF_LIVING: Final = "codes JOIN executor_codes ON executor_codes.code = codes.code"
# Whether one of them might still fit a run that was refused.
_IS_UNTRIED: Final = f"""
    EXISTS (
        SELECT 1 FROM {OF_LIVING} WHERE codes.workflow = runs.workflow AND codes.version = runs.version
            AND instr(runs.refused, ',' || codes.code || ',') = 0
    )
"""
#: Condition on ``runs``.
IS_PARKED: Final = f"(problem IS NOT NULL AND finished_at IS NULL OR {REFUSED} AND NOT {_IS_UNTRIED})"
#: Whether it cannot be read of a run which code may take it. What SQLite compares as text ends at the first NUL, so it
#: is asked for the length as bytes, too.
IS_UNGROUPED: Final = f"""
    (
        typeof(version) <> 'integer' OR version NOT BETWEEN {NO_VERSION} AND {COUNT_MAX} OR typeof(refused) <> 'text'
        OR refused GLOB '*[^{CODES_CHARACTERS}]*' OR length(refused) <> length(CAST(refused AS BLOB))
    )
"""
#: Why a run is parked: in place of the column, which says only what is damaged.
PROBLEM: Final = f"""
    CASE WHEN refused = '' OR problem IS NOT NULL THEN problem WHEN {IS_PARKED} THEN (
        SELECT refusals.problem FROM refusals WHERE refusals.run = runs.run ORDER BY refused_at DESC, code DESC LIMIT 1
    ) END
"""
