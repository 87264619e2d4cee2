"""The serving processes: started, killed, and started again, each time as another incarnation."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO, Final

import attrs
import trio

from demo_parts.children import open_child, read_line
from demo_parts.places import Places
from demo_parts.show import DemoFailed

#: The default of an engine.
LEASE_SECONDS: Final = 30.0
_DRAIN_SECONDS_MAX: Final = 30.0


@attrs.define(kw_only=True, eq=False)
class Serving:
    """A serving process, one after the other.

    Args:
        nursery: in which each is watched: one that ends by itself ends the demonstration.
        prefix: what its command begins with (see ``open_child``).
        store, object_store, shop: where it finds them; see ``serving.py``.
        lease_seconds: of its executors.
        errors: what it says there is kept.
        numbers: of the incarnations: no two have the same, wherever they are.
    """

    nursery: trio.Nursery
    places: Places
    store: str
    object_store: str
    shop: str
    errors: BinaryIO
    lease_seconds: float = LEASE_SECONDS
    prefix: Sequence[str] = ()
    numbers: Iterator[int] = attrs.Factory(lambda: itertools.count(1))
    process: trio.Process = attrs.field(init=False)
    _may_end: bool = False

    async def start(self) -> None:
        """Start the next one; it does not serve yet when this returns."""
        self._may_end = False
        self.process = await self.nursery.start(self._run, next(self.numbers))

    async def kill(self) -> None:
        """Send SIGKILL and wait until it is dead."""
        self._may_end = True
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Have it drain, and return its exit code.

        Raises:
            DemoFailed: it takes too long, or the code is not 0.
        """
        self._may_end = True
        self.process.terminate()
        with trio.move_on_after(_DRAIN_SECONDS_MAX):
            code = await self.process.wait()
            if code != 0:
                raise DemoFailed(f"a serving process did not end well, but with code {code}\n{self._log_tail()}")
            return code
        raise DemoFailed(f"a serving process did not drain within {_DRAIN_SECONDS_MAX:g} s\n{self._log_tail()}")

    async def _run(self, number: int, *, task_status: trio.TaskStatus[trio.Process]) -> None:
        arguments = (self.places.folder, self.store, self.object_store, self.shop, number, self.lease_seconds)
        async with open_child("serving", *arguments, prefix=self.prefix, stderr=self.errors) as process:
            task_status.started(process)
            code = await process.wait()
            if not self._may_end:
                raise DemoFailed(f"a serving process has ended by itself, with code {code}\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.places.serving_log.read_text(errors="replace")[-2000:]


@asynccontextmanager
async def open_services(places: Places, seed: int, host: str) -> AsyncIterator[tuple[int, int]]:
    """Have the object store and the shop for the length of a block; yields their ports."""
    async with open_child("services", places.folder, seed, host, stdout=subprocess.PIPE) as services:
        assert services.stdout is not None
        ports = (await read_line(services.stdout)).split()
        if len(ports) != 2:
            raise DemoFailed("the services did not start")
        yield int(ports[0]), int(ports[1])
