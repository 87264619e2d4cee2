"""What ``versions`` prints with ``--json``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs

from durable_trio.records import VersionRecord

__all__ = ["VersionsDocument", "versions_document"]


@attrs.frozen(kw_only=True)
class CodeDocument:
    """Code of a version of a workflow: the ids of the living executors that have it, and how many runs it refuses."""

    number: int
    fingerprint: str
    first_seen_at: datetime
    executors: tuple[int, ...]
    refused: int


@attrs.frozen(kw_only=True)
class VersionDocument:
    """A version of a workflow; ``null`` for runs of which it is not known yet.

    ``is_needless``: no unfinished run needs it, and a newer one is served: its function can be removed.
    """

    workflow: str
    version: int | None
    unfinished: int
    parked: int
    is_served: bool
    is_needless: bool
    codes: tuple[CodeDocument, ...]


@attrs.frozen(kw_only=True)
class VersionsDocument:
    """What ``versions`` prints: all that there is, and has been, by workflow and version."""

    versions: tuple[VersionDocument, ...]


def versions_document(found: Sequence[VersionRecord]) -> VersionsDocument:
    """Return the versions of workflows as they are printed."""
    return VersionsDocument(
        versions=tuple(
            VersionDocument(
                workflow=each.workflow,
                version=each.version,
                unfinished=each.unfinished,
                parked=each.parked,
                is_served=each.is_served,
                is_needless=each.is_needless,
                codes=tuple(CodeDocument(**attrs.asdict(code, recurse=False)) for code in each.codes),
            )
            for each in found
        )
    )
