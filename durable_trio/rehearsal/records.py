"""What a rehearsal has found, as users get it."""

from __future__ import annotations

import enum

import attrs

__all__ = ["Rehearsal", "RehearsalGroup", "Verdict"]


class Verdict(enum.StrEnum):
    """What a run would do under the code that it was rehearsed with."""

    GOES_ON = "goes_on"
    DIVERGES = "diverges"
    DOES_NOT_FIT = "does_not_fit"
    RAISES = "raises"
    STALLS = "stalls"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class RehearsalGroup:
    """Runs of one workflow and version with the same verdict for the same reason.

    ``version`` is that of the runs, ``None`` where it is not known yet: such runs are rehearsed with the newest.
    ``cause`` is what they have in common, with numbers of keys left out; ``example`` is the whole text about the first
    of ``run_ids``, of which there are at most three. Of ``executing`` runs somebody was executing meanwhile: these were
    judged by what they had recorded until then.
    """

    workflow: str
    version: int | None
    verdict: Verdict
    cause: str
    count: int
    executing: int
    run_ids: tuple[str, ...]
    example: str


@attrs.frozen(kw_only=True)
class Rehearsal:
    """What the unfinished runs of a store would do under an engine's code, grouped by cause, the largest group first.

    ``goes_on``: the code does what the run has recorded; ``cause`` says what comes next, and which way it has taken at
    each ``ctx.patched``. Nothing is promised of what is not recorded yet.
    ``diverges``: it does something else. The run would be parked.
    ``does_not_fit``: arguments, a recorded value or an exception cannot be read by it. The run would be parked.
    ``raises``: the body ends with an exception that no recorded outcome has raised. The run would fail.
    ``stalls``: the body does not come to its next call by itself.
    ``unknown``: the engine does not know the workflow. The run would wait.
    """

    goes_on: tuple[RehearsalGroup, ...] = ()
    diverges: tuple[RehearsalGroup, ...] = ()
    does_not_fit: tuple[RehearsalGroup, ...] = ()
    raises: tuple[RehearsalGroup, ...] = ()
    stalls: tuple[RehearsalGroup, ...] = ()
    unknown: tuple[RehearsalGroup, ...] = ()

    @property
    def groups(self) -> tuple[RehearsalGroup, ...]:
        """All groups, those that go on last."""
        return self.diverges + self.does_not_fit + self.raises + self.stalls + self.unknown + self.goes_on

    @property
    def count(self) -> int:
        """How many runs were rehearsed."""
        return sum(group.count for group in self.groups)

    @property
    def all_go_on(self) -> bool:
        """Whether the code can be deployed, as far as can be told."""
        return not (self.diverges or self.does_not_fit or self.raises or self.stalls or self.unknown)
