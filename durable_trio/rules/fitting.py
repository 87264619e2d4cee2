"""Which runs an executor may take: those of a version that it has code of, and that this code has not refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set

from durable_trio.rows import NO_VERSION, ServedCode

__all__ = ["Fitting"]


class Fitting:
    """What the codes of one executor fit, as far as that is known before a run is replayed."""

    def __init__(self, codes: Iterable[ServedCode]) -> None:
        self._codes = {(each.workflow, each.version): each.code for each in codes}
        self._newest: dict[str, int] = {}
        for workflow, version in self._codes:
            self._newest[workflow] = max(version, self._newest.get(workflow, version))

    @property
    def workflows(self) -> tuple[str, ...]:
        """The workflows that there is any code of."""
        return tuple(self._newest)

    def version(self, workflow: str, version: int) -> int:
        """Return the version that a run has once it is claimed: its own, or the newest of whoever claims it."""
        return self._newest.get(workflow, NO_VERSION) if version == NO_VERSION else version

    def fits(self, workflow: str, version: int, refused: Set[int]) -> bool:
        """Return whether the executor may take a run that these codes have refused."""
        code = self._codes.get((workflow, self.version(workflow, version)))
        return code is not None and code not in refused
