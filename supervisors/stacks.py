"""The stacks of all threads that ``faulthandler`` writes, found among other lines."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["main_first", "stack_in", "without_stack"]

_THREAD_LINE: Final = re.compile(r"(Thread|Current thread) 0x[0-9a-f]+ .*most recent call first")
_STACK_LINE: Final = re.compile(r"  File |(Thread|Current thread) 0x|  \.\.\.")


def stack_in(said: str) -> str:
    """Return the stacks that were written last; empty if none were."""
    lines = said.splitlines()
    first, end = _find(lines)
    return "\n".join(lines[first:end]).strip("\n")


def main_first(stack: str) -> str:
    """Return stacks with that of the main thread first, which ``faulthandler`` writes last: the newest come first."""
    threads: list[list[str]] = []
    for line in stack.splitlines():
        if line.startswith(("Thread ", "Current thread ")):
            threads.append([])
        if threads and line:
            threads[-1].append(line)
    return "\n\n".join("\n".join(lines) for lines in threads[-1:] + threads[:-1])


def without_stack(said: str) -> str:
    """Return the lines that are no part of the stacks that were written last."""
    lines = said.splitlines(keepends=True)
    first, end = _find([line.rstrip("\n") for line in lines])
    return "".join(lines[:first] + lines[end:])


def _find(lines: list[str]) -> tuple[int, int]:
    last = next((number for number in reversed(range(len(lines))) if _THREAD_LINE.match(lines[number])), None)
    if last is None:
        return 0, 0
    first, end = last, last + 1
    while first > 0 and (not lines[first - 1] or _STACK_LINE.match(lines[first - 1])):
        first -= 1
    while end < len(lines) and _STACK_LINE.match(lines[end]):
        end += 1
    return first, end
