"""A family serves one code: the workers of one parent, and who of those that come is let in.

The first worker that is ready to serve sets what the family's code is; the parent, whose own program may be another,
compares nothing of itself. Each one that comes later, in place of one that has died, asks before it becomes an
executor. If it has read other code from the files, it ends with ``CODE_CHANGED``, and is tried again, more and more
slowly, while the others serve on: what a worker dies of must not be what brings half of a new code into service. When
nobody is left who serves, the next one sets the code anew, as any restart would. To change it on purpose there is
``reload``, which says here what is to come.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import attrs

from durable_trio.engine.codes import Codes, FamilyCode
from durable_trio.logger import Logger
from durable_trio.workflows import Workflow

__all__ = ["FAILED", "IS_NEWS", "WHY", "Family", "code_of", "decode", "encode"]

_LOGGER: Final = Logger("durable_trio.processes")
_NAMES_SHOWN: Final = 3
_UNSTEADY: Final = (
    "the workers have the same files, but their workflows are not the same in each process: a default value or a "
    "closure has something that differs, as the time or a random value. Only by files it is told whether code changes"
)
_FIELDS: Final = frozenset(field.name for field in attrs.fields(FamilyCode))
_FOREIGN: Final = "of another version"
#: What a worker says that cannot read its code, and what it is answered that is not let in.
FAILED: Final = "failed"
WHY: Final = "why"
IS_NEWS: Final = "is_news"
# What fits into one question is 64 KiB; of larger projects the names of changed files are not known.
_QUESTION_CHARACTERS_MAX: Final = 60_000


def code_of(
    build: str | None, workflows: Iterable[Workflow[..., Any]], module: Mapping[str, Any], store: str = ""
) -> FamilyCode:
    """Return the code of an engine, as this process has read it; see ``Codes.of_all``. It blocks."""
    return attrs.evolve(Codes(build).of_all(workflows, module), store=store)


def encode(code: FamilyCode) -> dict[str, Any]:
    """Return what a worker tells its parent of its code: with the names of its files, as far as they have room."""
    files = {_shown(path): digest for path, digest in code.files.items()}
    is_large = len(json.dumps(files)) > _QUESTION_CHARACTERS_MAX
    return attrs.asdict(attrs.evolve(code, files={} if is_large else files))


def decode(value: Any) -> FamilyCode | None:
    """Return what a worker has told; ``None`` of one that knows nothing of its code."""
    if value is None:
        return None
    if not isinstance(value, dict) or not _FIELDS.issuperset(value):  # of another version, which was installed since
        return FamilyCode(digest=_FOREIGN)
    return FamilyCode(**value)


def _is_alive(pid: int) -> bool:
    """Whether a child process of this one runs still."""
    with suppress(ChildProcessError):  # it was waited for
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


class Family:
    """Which code the workers of one parent serve.

    Args:
        remedy: what brings the code of the files into service, for messages.
        is_alive: whether a worker process that was let in runs still.
    """

    def __init__(self, remedy: str = "restart it", is_alive: Callable[[int], bool] = _is_alive) -> None:
        self.remedy = remedy
        #: Whether the first workers are all there.
        self.is_open = False
        #: Why workers that have died are not back, by name, while others serve.
        self.held_back: dict[str, str] = {}
        #: Workers that a reload has started, and that are not ready yet.
        self.coming: set[str] = set()
        self._is_alive = is_alive
        # The codes of workflows differ between processes of one start: then only files tell.
        self._is_unsteady = False
        self._code: FamilyCode | None = None
        self._let_in: dict[int, FamilyCode] = {}  # by process
        self._refusals: dict[str, tuple[str, int]] = {}  # why each that is not back was refused, and how often for that

    def answer(self, name: str, pid: int, value: Any) -> dict[str, Any] | None:
        """Let a worker in that has come, or return why not, and whether that is news: then it tells people.

        It is tried again and again, until somebody does something; people are told the first time, the second, the
        fourth, and so on.

        Args:
            value: its code, as ``encode`` tells it; or ``{FAILED: why}`` if it could not read it.
        """
        if isinstance(value, dict) and FAILED in value:
            return self._refused(name, str(value[FAILED]))
        code = decode(value)
        self._let_in.pop(pid, None)  # another process, which has ended
        if code is None:
            return None
        if self._code is None or not self.living():
            self._code = code
        if not self._is_same(self._code, code):
            why = self._refusal(self._code, code)
            self.held_back[name] = why
            return self._refused(name, why)
        if not self._code.workflows:
            self._code = attrs.evolve(self._code, workflows=code.workflows)
        self._let_in[pid] = code
        return None

    def _refused(self, name: str, why: str) -> dict[str, Any]:
        before, count = self._refusals.get(name, ("", 0))
        count = count + 1 if before == why else 1
        self._refusals[name] = why, count
        return {WHY: why, IS_NEWS: count & (count - 1) == 0}

    def why_not(self, name: str) -> str:
        """Return why a worker was not let in; nothing if it was, or never came so far."""
        return self._refusals.get(name, ("", 0))[0]

    def is_back(self, name: str) -> None:
        """A worker serves, or is needed no more."""
        self.held_back.pop(name, None)
        self._refusals.pop(name, None)

    def _is_same(self, ours: FamilyCode, other: FamilyCode) -> bool:
        if ours.digest != other.digest:
            return False
        if ours.workflows and ours.workflows != other.workflows and not self._is_unsteady and not self.is_open:
            self._is_unsteady = True
            extra = {"event": "code_unsteady"}
            _LOGGER.warning("%s", _UNSTEADY, extra=extra)
        return not ours.workflows or ours.workflows == other.workflows or self._is_unsteady

    def living(self) -> dict[int, FamilyCode]:
        """Return the codes of those that were let in and have not ended, by process."""
        self._let_in = {pid: code for pid, code in self._let_in.items() if self._is_alive(pid)}
        return self._let_in

    @property
    def store(self) -> str:
        """Where the runs are kept that the family serves; nothing if that is not known."""
        return "" if self._code is None else self._code.store

    @property
    def digest(self) -> str | None:
        """Which code it is, as far as files tell; ``None`` if that is not known."""
        return None if self._code is None else self._code.digest

    def expect(self, code: FamilyCode | None) -> FamilyCode | None:
        """From now on let those in that have this code; return which it was.

        What it says beyond files is left to the first that comes: in another process it may be something else.
        """
        before, self._code = self._code, None if code is None else attrs.evolve(code, workflows="")
        return before

    def expect_again(self, before: FamilyCode | None) -> None:
        """Nothing has come of what was expected: it is as before, unless somebody has come with it after all."""
        if self._code is None or all(code.digest != self._code.digest for code in self.living().values()):
            self._code = before

    def _refusal(self, ours: FamilyCode, other: FamilyCode) -> str:
        remedy = self.remedy if self.is_open else "start it again"
        if other.is_build:
            what = f"the build has changed since this family started ({ours.digest!r}, now {other.digest!r})"
        else:
            changed = ours.changed_files(other) if ours.files and other.files else []
            more = f" and {len(changed) - _NAMES_SHOWN:,} more" if len(changed) > _NAMES_SHOWN else ""
            names = f" ({', '.join(changed[:_NAMES_SHOWN])}{more})" if changed else ""
            what = f"the {'files have' if changed else 'code has'} changed since this family started{names}"
        return f"{what}: {remedy}"


def _shown(path: str) -> str:
    """Return a path as people know it: within the folder that the server was started in."""
    with suppress(ValueError, OSError):
        short = os.path.relpath(path)
        return path if short.startswith("..") else short
    return path
