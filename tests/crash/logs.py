"""The two logs of a crash test, which no crash reaches: what was acknowledged, and what took effect.

Each line is one ``write`` to a file opened for appending: it is whole once the call returns, whoever is killed then.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from durable_trio import current_step
from durable_trio.testing.probes import kill_self


class Logs:
    """The logs of one campaign, as one of its processes writes them."""

    def __init__(self, directory: str | Path, *, kill_in_effect: str | None = None) -> None:
        self.directory = Path(directory)
        self.acks_path = self.directory / "acks.jsonl"
        self.ledger_path = self.directory / "ledger.jsonl"
        # A step whose function kills its process when it begins: a part of ``key@attempt``.
        self._kill_in_effect = kill_in_effect
        self._acks = _open(self.acks_path)
        self._ledger = _open(self.ledger_path)

    def close(self) -> None:
        """Close the files."""
        os.close(self._acks)
        os.close(self._ledger)

    def ack(self, kind: str, run: str, **fields: Any) -> None:
        """Note what a caller asks for or was told."""
        _append(self._acks, {"at": time.time_ns() // 1000, "pid": os.getpid(), "kind": kind, "run": run, **fields})

    def effect(self, **fields: Any) -> None:
        """Note that the function of the current step has begun."""
        step = current_step()
        line = {
            "at": time.time_ns() // 1000,
            "pid": os.getpid(),
            "run": step.run_id,
            "key": step.key,
            "attempt": step.attempt,
            "idempotency_key": step.idempotency_key,
            **fields,
        }
        _append(self._ledger, line)
        if self._kill_in_effect is not None and self._kill_in_effect in f"{step.key}@{step.attempt}":
            kill_self()


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _append(descriptor: int, line: dict[str, Any]) -> None:
    # On a line of its own even if a kill has torn the line before: what a process writes last may be cut off anywhere.
    os.write(descriptor, b"\n" + json.dumps(line).encode() + b"\n")
