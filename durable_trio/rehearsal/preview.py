"""A look ahead, when a server begins with code that its store has not seen before: what of it would be refused.

It is told once, by the server that has brought the code, and costs a sample of runs: some tenths of a second of the
loop, in small pieces. Runs that are due are claimed meanwhile, and go on or do not; this tells of those that wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from durable_trio.logger import Logger
from durable_trio.rehearsal.judged import Groups, Judged
from durable_trio.rehearsal.keeping import Code
from durable_trio.rehearsal.records import RehearsalGroup, Verdict
from durable_trio.rehearsal.rehearse import rehearse_runs
from durable_trio.rehearsal.words import verdict_text
from durable_trio.stores.unfinished_questions import ListUnfinished
from durable_trio.unseen import visible
from durable_trio.workflows import version_text

__all__ = ["Preview"]

_LOGGER: Final = Logger("durable_trio.runs")
#: Runs that are rehearsed, of all workflows together.
_SAMPLE_RUNS: Final = 200
# The loop is for what is executed.
_AT_ONCE: Final = 4
# Of a version that it has not, the code refuses no run: others may serve it, and where nobody does ``serve`` says so.
_LEFT_OUT: Final = (Verdict.GOES_ON, Verdict.UNKNOWN)
# Causes that are told.
_TOLD_MAX: Final = 3


class Preview:
    """Tells what new code would refuse.

    Args:
        new_since: gives the workflows whose code the store has not seen before this server, and since when it has.
    """

    def __init__(self, code: Code, new_since: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
        self._code = code
        self._new_since = new_since
        self._is_told = False

    async def tell(self) -> None:
        """Rehearse a sample, and tell of it if it does not go on; nothing if that was done."""
        if self._is_told:
            return
        self._is_told = True
        groups = Groups()
        new = await self._new_since()
        for name, since in new.items():
            share = max(1, _SAMPLE_RUNS // len(new))
            which = ListUnfinished(workflow=name, created_before=since, sample=share)
            runs = await self._code.writer.ask_patiently(which)

            def told(_: int, judged: Judged | None) -> None:
                if judged is not None:
                    groups.add(judged)

            await rehearse_runs(self._code, runs, told, at_once=_AT_ONCE)
        found = groups.rehearsal()
        refused = [group for group in found.groups if group.verdict not in _LEFT_OUT]
        if refused:
            count = sum(group.count for group in refused)
            more = f"; and {len(refused) - _TOLD_MAX} more causes" if len(refused) > _TOLD_MAX else ""
            _LOGGER.warning(
                "new code: of a sample of %d unfinished runs %d would not go on: %s%s. 'durable-trio rehearse' tells "
                "of all runs",
                found.count,
                count,
                "; ".join(map(_told, refused[:_TOLD_MAX])),
                more,
                extra={"event": "rehearsal", "runs": found.count, "refused": count},
            )


def _told(group: RehearsalGroup) -> str:
    verdict = verdict_text(group.verdict, group.count)
    whose = visible(version_text(group.workflow, group.version))
    return f"{group.count} of {whose} {verdict} ({visible(group.cause)}; {visible(group.run_ids[0])})"
