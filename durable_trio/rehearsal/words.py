"""Verdicts in words, for people."""

from __future__ import annotations

from typing import Final

from durable_trio.rehearsal.records import Verdict

__all__ = ["verdict_text"]

_WORDS: Final = {
    Verdict.GOES_ON: ("goes on", "go on"),
    Verdict.DIVERGES: ("diverges", "diverge"),
    Verdict.DOES_NOT_FIT: ("does not fit", "do not fit"),
    Verdict.RAISES: ("raises", "raise"),
    Verdict.STALLS: ("stalls", "stall"),
    Verdict.UNKNOWN: ("unknown", "unknown"),
}


def verdict_text(verdict: Verdict, count: int = 1) -> str:
    """Return what one run, or so many, would do."""
    return _WORDS[verdict][count != 1]
