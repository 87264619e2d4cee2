"""How the codes that have refused a run are written with it. Pure."""

from __future__ import annotations

from durable_trio.limits import REFUSALS_MAX

__all__ = ["codes_in", "is_too_much", "refused_text"]


def is_too_much(codes: set[int]) -> bool:
    """Return whether so many codes have refused a run that it is parked until somebody resumes it."""
    return len(codes) > REFUSALS_MAX


def refused_text(codes: set[int]) -> str:
    """Return how codes that have refused a run are stored with it: '' or ',3,17,'."""
    return f",{','.join(map(str, sorted(codes)))}," if codes else ""


def codes_in(refused: str) -> set[int]:
    """Return the codes of what ``refused_text`` has written; of anything else those that can be read."""
    return {int(part) for part in refused.split(",") if part.isascii() and part.isdigit() and len(part) < 19}
