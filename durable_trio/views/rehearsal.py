"""What ``rehearse`` prints with ``--json``, and how an earlier one of these is read again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from durable_trio.rehearsal.records import Rehearsal, RehearsalGroup, Verdict

__all__ = ["RehearseDocument", "baseline_of", "rehearse_document"]

# Where a line of code has moved to, it is the same place.
_LINE: Final = re.compile(r":\d+ in ")

# Workflow, version, verdict and cause.
Identity = tuple[str, int | None, str, str]
Baseline = Mapping[Identity, int]


@attrs.frozen(kw_only=True)
class RehearsalGroupDocument:
    """Runs of one version with the same verdict for the same reason; of ``executing`` ones somebody was executing
    meanwhile. ``version`` is ``null`` where it is not known yet.

    ``count_before``: how many an earlier rehearsal has found, if there is one to compare with.
    """

    workflow: str
    version: int | None
    verdict: Verdict
    cause: str
    count: int
    count_before: int | None
    executing: int
    run_ids: tuple[str, ...]
    example: str


@attrs.frozen(kw_only=True)
class RehearseDocument:
    """What ``rehearse`` prints. ``is_clean``: all runs go on; or nothing is worse than in an earlier rehearsal."""

    app: str
    database: str
    count: int
    counts: Mapping[str, int]
    is_clean: bool
    groups: tuple[RehearsalGroupDocument, ...]


def rehearse_document(app: str, database: str, found: Rehearsal, before: Baseline | None) -> RehearseDocument:
    """Return what a rehearsal has found, as it is printed."""
    groups = tuple(_group(group, before) for group in found.groups)
    counts = {verdict.value: 0 for verdict in Verdict}
    for group in groups:
        counts[group.verdict.value] += group.count
    return RehearseDocument(
        app=app,
        database=database,
        count=found.count,
        counts=counts,
        is_clean=not any(_is_worse(group) for group in groups),
        groups=groups,
    )


def _group(group: RehearsalGroup, before: Baseline | None) -> RehearsalGroupDocument:
    identity = _identity(group.workflow, group.version, group.verdict, group.cause)
    count_before = None if before is None else before.get(identity, 0)
    return RehearsalGroupDocument(**attrs.asdict(group, recurse=False), count_before=count_before)


def _is_worse(group: RehearsalGroupDocument) -> bool:
    return group.verdict is not Verdict.GOES_ON and group.count > (group.count_before or 0)


def _identity(workflow: str, version: int | None, verdict: str, cause: str) -> Identity:
    return workflow, version, str(verdict), _LINE.sub(" in ", cause)


def baseline_of(document: Any) -> Baseline:
    """Return how many runs of each cause an earlier document has.

    Raises:
        ValueError: it is no such document.
    """
    try:
        found: dict[Identity, int] = {}
        for group in document["groups"]:
            identity = _identity(group["workflow"], group["version"], group["verdict"], group["cause"])
            found[identity] = found.get(identity, 0) + int(group["count"])
        return found
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no {error}" if isinstance(error, KeyError) else "it has another form") from error
