"""Which code an engine has of each of its workflows, as a short text: its build's name, or a fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from durable_trio.code import Fingerprints, versions
from durable_trio.limits import check_name
from durable_trio.looks import look
from durable_trio.workflows import Workflow

__all__ = ["BUILD_VARIABLE", "Codes", "FamilyCode"]

#: Names the build where the engine is not told it.
BUILD_VARIABLE: Final = "DURABLE_TRIO_BUILD"

# Of one whose values do something else than being looked at: it is the same whatever else changes.
_UNREADABLE: Final = "unreadable"
# Characters of a digest that are kept: 64 bits.
_CHARACTERS: Final = 16
# Enough to tell two states of one file from each other, for people; nothing is decided by it.
_CHARACTERS_OF_FILE: Final = 8


@attrs.frozen(kw_only=True)
class FamilyCode:
    """The code of all that an engine executes.

    ``digest`` is of the names and versions of its workflows, of all files of the project that they and the engine's
    module reach, and of the versions of what executes them; or the name of the build (``is_build``), and nothing else
    counts. ``workflows`` is of the codes of all workflows, which tell more: the values in defaults and closures.
    ``files``: a short digest of each of those files, by path, to name those that have changed. ``store``: where the
    runs are kept.
    """

    digest: str
    workflows: str = ""
    files: Mapping[str, str] = attrs.field(factory=dict)
    is_build: bool = False
    store: str = ""

    def changed_files(self, other: FamilyCode) -> list[str]:
        """Return the paths of files that are not the same in both, or only in one."""
        paths = self.files.keys() | other.files.keys()
        return sorted(path for path in paths if self.files.get(path) != other.files.get(path))


class Codes:
    """The codes of one engine's workflows. Made when they are first asked for: that reads the project's files.

    Args:
        build: stands for the code of all workflows.
    """

    def __init__(self, build: str | None = None) -> None:
        given = os.environ.get(BUILD_VARIABLE) or None if build is None else build
        self._build = None if given is None else check_name("build", given)
        self._found: dict[tuple[str, int], str] = {}
        self._fingerprints: Fingerprints | None = None

    def of(self, workflow: Workflow[..., Any]) -> str:
        """Return the code of a workflow. It blocks, the first time."""
        if self._build is not None:
            return self._build
        which = (workflow.name, workflow.version)
        if which not in self._found:
            self._found[which] = look(self._made().of, workflow.fn, instead=lambda _: _UNREADABLE)
        return self._found[which]

    def of_all(self, workflows: Iterable[Workflow[..., Any]], module: Mapping[str, Any]) -> FamilyCode:
        """Return the code of all workflows and of the module that has their engine, as one. It blocks.

        That module counts for what else it gives the engine, such as aliases and hooks for types.

        Args:
            module: its globals.
        """
        if self._build is not None:
            return FamilyCode(digest=self._build, is_build=True)
        codes = sorted((workflow.name, workflow.version, self.of(workflow)) for workflow in workflows)
        fingerprints = self._made()
        look(fingerprints.read, module, instead=lambda _: None)
        files = fingerprints.files()
        names = [(name, version) for name, version, _ in codes]
        return FamilyCode(
            digest=_digest(versions(), names, sorted(files.values())),
            workflows=_digest(codes),
            files={file: digest[:_CHARACTERS_OF_FILE] for file, digest in files.items()},
        )

    def _made(self) -> Fingerprints:
        if self._fingerprints is None:
            self._fingerprints = Fingerprints(versions())
        return self._fingerprints


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:_CHARACTERS]
