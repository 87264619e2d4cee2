"""Rehearses the unfinished runs of a store, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from durable_trio.rehearsal.judged import Groups, Judged
from durable_trio.rehearsal.keeping import Code
from durable_trio.rehearsal.records import Rehearsal, Verdict
from durable_trio.rehearsal.stage import AT_ONCE, Stage
from durable_trio.stores.code_questions import ListCodes
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished, Unfinished

__all__ = ["rehearse", "rehearse_runs"]

# Runs that are read in one transaction.
_PAGE_RUNS: Final = 64


async def rehearse(code: Code, *, workflow: str | None, sample: int | None) -> Rehearsal:
    """Rehearse all unfinished runs; see ``engine.rehearse``."""
    groups = Groups()
    runs = await code.writer.ask_patiently(ListUnfinished(workflow=workflow, sample=sample))

    def told(run: int, judged: Judged | None) -> None:
        if judged is not None:
            groups.add(judged)

    await rehearse_runs(code, runs, told)
    return groups.rehearsal()


async def rehearse_runs(
    code: Code,
    runs: Sequence[int],
    told: Callable[[int, Judged | None], None],
    *,
    at_once: int = AT_ONCE,
    begins: Callable[[Unfinished], None] | None = None,
) -> None:
    """Rehearse some runs, and tell each verdict; ``None`` of those that have ended meanwhile, or are a script's.

    Args:
        begins: told of each run before it begins.

    *Cancellation:* those in hand leave, and nothing is told of them.
    """
    code.served.were_seen(await code.writer.ask_patiently(ListCodes()))
    again: list[int] = []
    doubted: set[int] = set()

    def take(found: Unfinished, judged: Judged | None) -> None:
        # Somebody was executing it, so it may have been about to end in this very way: then it has ended by now.
        is_doubtful = judged is not None and judged.verdict is Verdict.RAISES and judged.is_executing
        if is_doubtful and found.row.run not in doubted:
            doubted.add(found.row.run)
            again.append(found.row.run)
        else:
            told(found.row.run, judged)

    stage = Stage(code, take, at_once=at_once)
    async with stage.open():
        left = list(runs)
        while left:
            position = 0
            while position < len(left):
                asked = left[position : position + _PAGE_RUNS]
                page = await code.writer.ask_patiently(LoadUnfinished(asked))
                position += page.taken
                there = {found.row.run for found in page.runs}
                for run in asked[: page.taken]:
                    if run not in there:
                        told(run, None)
                for found in page.runs:
                    if begins is not None:
                        begins(found)
                    await stage.rehearse(found)
            await stage.settle()
            left, again[:] = list(again), []
