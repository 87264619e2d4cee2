"""Errors for options of another name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_options(what: str, given: Iterable[str], known: Iterable[str], *, arguments: str = "") -> None:
    """Raise ``TypeError`` for an option that is not known; the message offers the nearest one.

    Args:
        arguments: what might have been meant as an argument instead, such as "arguments of the function".
    """
    names = list(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if arguments:
                hint += f"; {arguments} are given by position"
            raise TypeError(f"{what} has no option {name!r}{hint}")
