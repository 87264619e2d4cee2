"""What engines cost that have nothing to do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import trio

from tests.engine.workers.kit import Scene

IDLE_SECONDS: Final = 5.0
# What is done once, at the start, does not count.
_SETTLING_SECONDS: Final = 1.0


async def idle_shares(scene: Scene, workers: int, *, seconds: float = IDLE_SECONDS) -> list[float]:
    """Return the part of a core that each process of an engine uses which serves a file and has nothing to do."""
    server = await scene.serving(workers=workers)
    await trio.sleep(_SETTLING_SECONDS)
    before = {pid: _cpu_seconds(pid) for pid in (server.pid, *server.workers())}
    await trio.sleep(seconds)
    shares = [(_cpu_seconds(pid) - cpu) / seconds for pid, cpu in before.items()]
    await server.leave()
    return shares


async def describe_idle(workers: int) -> str:
    """Measure, and return a line of text."""
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), os.path.join(folder, "app.db"))
        try:
            shares = await idle_shares(scene, workers)
        finally:
            scene.clear()
    parts = ", ".join(f"{100 * share:.2f} %" for share in shares)
    return f"{workers} workers, {IDLE_SECONDS:g} s idle: {parts} of a core, {100 * sum(shares):.2f} % together"


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
