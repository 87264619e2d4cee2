"""Children that do what a test tells them, and write down what becomes of them."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from supervisors import Child


class BoomError(Exception):
    pass


class Troupe:
    """Children that write down when they start (+) and stop (-), and that end when told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails_at_start: set[str] = set()
        self.fails_at_next_start: set[str] = set()
        self._orders: dict[str, tuple[trio.MemorySendChannel[bool], trio.MemoryReceiveChannel[bool]]] = {}

    async def serve(self, name: str, *, task_status: trio.TaskStatus[str]) -> None:
        self.log.append(f"+{name}")
        self._orders[name] = trio.open_memory_channel(1)
        if name in self.fails_at_start | self.fails_at_next_start:
            self.fails_at_next_start.discard(name)
            raise BoomError(name)
        task_status.started(f"{name} is ready")
        try:
            if await self._orders[name][1].receive():
                raise BoomError(name)
        finally:
            self.log.append(f"-{name}")

    def child(self, name: str, **options: Any) -> Child:
        return Child(name, self.serve, args=(name,), **options)

    def children(self, names: str, **options: Any) -> list[Child]:
        return [self.child(name, **options) for name in names]

    async def crash(self, name: str) -> None:
        self._orders[name][0].send_nowait(True)
        await wait_all_tasks_blocked()

    async def finish(self, name: str) -> None:
        self._orders[name][0].send_nowait(False)
        await wait_all_tasks_blocked()

    def heard(self) -> str:
        """Give what was written since the last time."""
        text, self.log = " ".join(self.log), []
        return text
