"""Says how history and code differ, so that a person sees at once what was changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from durable_trio.rows import HistoryRow

_CONTEXT_ROWS = 4


def explain(
    delivered: Sequence[HistoryRow],
    expected: HistoryRow | None,
    waiting: Iterable[tuple[str, str]],
    *,
    ended: bool,
) -> str:
    """Return history and code side by side.

    Args:
        delivered: rows that matched, in order.
        expected: the row that the code did not ask for.
        waiting: (kind, key) of the durable calls in which the code waits now.
        ended: whether the body has ended.
    """
    left: list[str] = []
    right: list[str] = []
    skipped = len(delivered) - _CONTEXT_ROWS
    if skipped > 0:
        left.append(f"… {skipped} rows before")
        right.append("… the same")
    for row in delivered[-_CONTEXT_ROWS:]:
        left.append(f"  {_shown(row)}")
        right.append(f"  {_shown(row)}")
    calls = [f"> {kind} {key}" for kind, key in waiting]
    if ended:
        calls.append("> (the body has ended)")
    elif not calls:
        calls.append("> (no durable call)")
    left.append(f"> {_shown(expected)}" if expected is not None else "> (no more rows)")
    right.append(calls[0])
    for call in calls[1:]:
        left.append("")
        right.append(call)
    width = max(len("history"), *(len(line) for line in left))
    lines = [f"{'history':<{width}} | code"]
    lines += [f"{a:<{width}} | {b}".rstrip() for a, b in zip(left, right, strict=True)]
    return "\n".join(lines)


def _shown(row: HistoryRow) -> str:
    # The name of an answer of ``ctx.patched`` begins with a blank, as no other does.
    return f"{row.kind} {row.key._replace(name=row.key.name.strip())}"
