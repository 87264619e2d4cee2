"""Forgets which codes have refused runs that sleep, where nobody has these codes any more.

Runs that the same codes have refused are a group of their own, in claims and in lists, and each group costs them a
seek. A claim forgets codes that are dead; but what sleeps for months is not claimed, and keeps those of the deploy in
whose middle it fell asleep: with a deploy a day there would be hundreds of groups.
"""

from __future__ import annotations

from typing import Final

from durable_trio.stores.code_questions import ListRefusedSets, ListServed
from durable_trio.stores.contract import ForgetDeadCodes
from durable_trio.stores.writer import Writer

__all__ = ["forget_dead_codes"]

# Transactions of one look: the rest is for the next one.
_PIECES_MAX: Final = 20


async def forget_dead_codes(writer: Writer, *, now: int) -> None:
    """Forget them, piece by piece, and some of many only.

    Left alone are runs that no living code may fit. They are parked, and people are told by which refusal.

    Raises:
        StoreError: it could not be done.
    """
    sets = await writer.ask_patiently(ListRefusedSets())
    if not sets:  # nearly always
        return
    living: dict[tuple[str, int], set[int]] = {}
    for each in await writer.ask_patiently(ListServed()):
        living.setdefault((each.code.workflow, each.code.version), set()).add(each.code.code)
    pieces = 0
    for refused in sets:
        alive = living.get((refused.workflow, refused.version), set())
        if refused.codes <= alive or alive <= refused.codes:
            continue
        after = None
        while pieces < _PIECES_MAX:
            pieces += 1
            piece = ForgetDeadCodes(
                workflow=refused.workflow, version=refused.version, codes=refused.codes, after=after, now=now
            )
            after = await writer.write(piece)
            if after is None:
                break
