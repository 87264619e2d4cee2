"""Errors for options of another name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from itertools import takewhile

# Options that something else takes, and what that is.
_ELSEWHERE = {"max_recoveries": "@workflow", "ttl": "@workflow and of a start", "tags": "@workflow and of a start"}
_ELSEWHERE |= {"signals": "@workflow", "workflows": "Engine", "concurrency": "Engine", "retry": "ctx.step"}


def check_options(what: str, given: Iterable[str], known: Iterable[str], *, arguments: str = "") -> None:
    """Raise ``TypeError`` for an option that is not known; the message offers the nearest one.

    Args:
        arguments: what might have been meant as an argument instead, such as "arguments of the function".
    """
    names = list(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names)
            # Of those that are near, the one that begins like it: "retries" is meant for "retry", not for "returns".
            nearest = max(close, key=partial(_common_length, name), default=None)
            hint = f"; did you mean {nearest!r}?" if nearest is not None else ""
            if name in _ELSEWHERE:
                hint = f"; it is one of {_ELSEWHERE[name]}"
            if arguments:
                hint += f"; {arguments} are given by position"
            raise TypeError(f"{what} has no option {name!r}{hint}")


def _common_length(one: str, two: str) -> int:
    """Return how many characters two names have in common at their beginnings."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))
