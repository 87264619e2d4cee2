"""Where a run was when its time to live was over: stored with the row that says so, and told by whoever tells it. Pure.

What it was at longest comes first; of many only the first ones are kept, and how many more there were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import attrs

from durable_trio.clock import to_datetime
from durable_trio.records import StepKind

__all__ = ["Expiry", "Place", "expiry", "expiry_from", "expiry_of"]

# An error is a line that people read.
_PLACES_MAX: Final = 3
_WAITS: Final = {
    StepKind.SLEEP: "the timer",
    StepKind.SIGNAL: "the wait for signal",
    StepKind.CHILD: "the start of child",
    StepKind.CHILD_END: "the wait for child",
}


@attrs.frozen(kw_only=True)
class Place:
    """A call that was open: a step or a wait. ``name``: of the signal or the child; ``since``: None if not begun."""

    kind: StepKind
    key: str
    name: str
    since: datetime | None

    @property
    def text(self) -> str:
        """What it was, without since when."""
        wait = _WAITS.get(self.kind)
        return f"{self.kind.value} {self.key!r}" if wait is None else f"{wait} {self.name!r}"


@attrs.frozen(kw_only=True)
class Expiry:
    """Where a run was. ``more``: open calls that are not among ``places``; ``after``: the last thing it had done."""

    places: tuple[Place, ...]
    more: int = 0
    after: str | None = None

    def to_text(self) -> str:
        """Return it as JSON, as it is stored."""
        return json.dumps({"open": self.documents(), "more": self.more, "after": self.after})

    def documents(self) -> list[dict[str, Any]]:
        """Return the open calls for programs."""
        return [
            {
                "kind": place.kind.value,
                "key": place.key,
                "name": place.name,
                "since": None if place.since is None else place.since.isoformat(),
            }
            for place in self.places
        ]

    def sentence(self) -> str:
        """Return it in words, to stand after a semicolon."""
        if not self.places:
            return "it was at no step and no wait" + ("" if self.after is None else f", after {self.after!r}")
        return f"it was {', '.join(map(_phrase, self.places))}" + (f", and at {self.more} more" if self.more else "")


def _phrase(place: Place) -> str:
    if place.since is None:
        return f"before {place.text}"
    return f"at {place.text} since {place.since:%Y-%m-%d %H:%M:%S} UTC"


def expiry(calls: Iterable[tuple[StepKind, str, str, int | None]], after: str | None) -> Expiry:
    """Return where a run is.

    Args:
        calls: those that are open: kind, key, name, and since when (microseconds), if they have begun.
        after: the key of the last thing it has done, if any.
    """
    found = [
        Place(kind=kind, key=key, name=name, since=None if since is None else to_datetime(since))
        for kind, key, name, since in sorted(calls, key=lambda call: (call[3] is None, call[3], call[1]))
    ]
    items = [place for place in found if place.kind is not StepKind.MAP]  # a map is where its items are
    places = items or found
    return Expiry(places=tuple(places[:_PLACES_MAX]), more=max(0, len(places) - _PLACES_MAX), after=after)


def expiry_of(text: str | None) -> Expiry | None:
    """Return what is stored; ``None`` of a run that has expired under an earlier version, or if it cannot be read."""
    try:
        return expiry_from(json.loads(text or "null"))
    except ValueError:
        return None


def expiry_from(value: Any) -> Expiry | None:
    """Return what the value of such a row says; ``None`` as ``expiry_of``."""
    try:
        places = [
            Place(
                kind=StepKind(one["kind"]),
                key=str(one["key"]),
                name=str(one["name"]),
                since=None if one["since"] is None else datetime.fromisoformat(one["since"]),
            )
            for one in value["open"]
        ]
        return Expiry(places=tuple(places), more=int(value["more"]), after=value["after"])
    except (KeyError, TypeError, ValueError):
        return None
