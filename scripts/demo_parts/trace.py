"""Notes of what each serving process did, which survive it: to tell what was repeated from what was given back.

An observer writes a line whenever an attempt of a step begins, whenever a step's outcome is given to a body, and when
an attempt is given up with its run. A write to a file survives the process, though not the machine: enough to count
kills.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import attrs

from durable_trio import AttemptInterrupted, Observer, StepEnded, StepStarted


class Trace(Observer):
    """Writes lines ``incarnation, "begun", "given" or "lost", run, key, attempt``, separated by tabs."""

    def __init__(self, path: Path, incarnation: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._incarnation = incarnation

    def step_started(self, event: StepStarted) -> None:
        """An attempt begins."""
        self._note("begun", event)

    def step_ended(self, event: StepEnded) -> None:
        """An outcome is given to the body, live or at replay."""
        self._note("given", event)

    def attempt_interrupted(self, event: AttemptInterrupted) -> None:
        """An attempt is given up: its run is this process's no longer."""
        if event.reason == "left":
            self._note("lost", event)

    def _note(self, what: str, event: StepStarted | StepEnded | AttemptInterrupted) -> None:
        fields = (self._incarnation, what, event.run_id, event.key, event.attempt)
        os.write(self._file, "\t".join(map(str, fields)).encode() + b"\n")


@attrs.frozen(kw_only=True)
class Counts:
    """What the trace says, in numbers."""

    attempts_begun: int
    # Begun again by another process, or by one that had to give up the run, as no outcome of it was committed.
    repeated_by_kill: int
    repeated_within: int  # begun again by the same process: must be none
    given_after_kill: int  # given back from the history by a later process
    given_after_rest: int  # given back by the same process to a run that had left memory while it waited


def count(lines: Iterable[str]) -> Counts:
    """Count what the lines of a trace say; the last line of a killed process is whole, as it is one write."""
    begun_by: dict[tuple[str, str, str], int | None] = {}  # None: by one that has given it up
    running: set[tuple[int, str, str]] = set()
    ended_by: dict[tuple[str, str], int] = {}
    counts: Counter[str] = Counter()
    for line in lines:
        number, what, run, key, attempt = line.rstrip("\n").split("\t")
        incarnation = int(number)
        if what == "begun":
            counts["begun"] += 1
            if (run, key, attempt) in begun_by:
                counts["within" if begun_by[run, key, attempt] == incarnation else "by kill"] += 1
            begun_by[run, key, attempt] = incarnation
            running.add((incarnation, run, key))
        elif what == "lost":
            if begun_by.get((run, key, attempt)) == incarnation:  # else another one has begun it meanwhile
                begun_by[run, key, attempt] = None
            running.discard((incarnation, run, key))
        elif (incarnation, run, key) in running:
            running.discard((incarnation, run, key))
            ended_by[run, key] = incarnation
        else:
            counts["after rest" if ended_by.get((run, key)) == incarnation else "after kill"] += 1
    return Counts(
        attempts_begun=counts["begun"],
        repeated_by_kill=counts["by kill"],
        repeated_within=counts["within"],
        given_after_kill=counts["after kill"],
        given_after_rest=counts["after rest"],
    )
