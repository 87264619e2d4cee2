"""Which runs are parked: in no column, but derived from what code lives (see ``stores.sqlite.parked``)."""

from __future__ import annotations

from typing import Final

__all__ = ["IS_PARKED", "OF_LIVING", "PROBLEM", "REFUSAL", "REFUSED"]

#: Of a run that some code has refused, and that nobody executes.
REFUSED: Final = "runs.refused <> '' AND runs.owner IS NULL AND runs.finished_at IS NULL"
#: Codes that some executor has, once for each that has them.
OF_LIVING: Final = "codes JOIN executor_codes ON executor_codes.code = codes.code"
# Whether one of them might still fit a run that was refused.
_IS_UNTRIED: Final = f"""
    EXISTS (
        SELECT 1 FROM {OF_LIVING} WHERE codes.workflow = runs.workflow AND codes.version = runs.version
            AND position(',' || codes.code || ',' IN runs.refused) = 0
    )
"""
#: Condition on ``runs``.
IS_PARKED: Final = f"(runs.problem IS NOT NULL AND runs.finished_at IS NULL OR {REFUSED} AND NOT {_IS_UNTRIED})"
_LAST_REFUSAL: Final = """
    (SELECT refusals.problem FROM refusals WHERE refusals.run = runs.run ORDER BY refused_at DESC, code DESC LIMIT 1)
"""
#: Why a run is parked: in place of the column, which says only what is damaged.
PROBLEM: Final = f"""
    CASE WHEN runs.refused = '' OR runs.problem IS NOT NULL THEN runs.problem WHEN {IS_PARKED} THEN {_LAST_REFUSAL} END
"""
#: The same of a run that is not damaged, as if it had no owner.
REFUSAL: Final = f"""
    CASE WHEN runs.refused <> '' AND runs.finished_at IS NULL AND NOT {_IS_UNTRIED} THEN {_LAST_REFUSAL} END
"""
