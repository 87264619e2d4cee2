"""What a check has found, in words."""

from __future__ import annotations

from collections.abc import Iterable

import attrs


@attrs.frozen
class Finding:
    """One sentence that holds if there are no problems."""

    text: str
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether it holds."""
        return not self.problems


def finding(text: str, problems: Iterable[str]) -> Finding:
    """Return a finding."""
    return Finding(text, tuple(problems))


def counted(count: int, noun: str) -> str:
    """Return "1 kill", "1,200 kills"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
