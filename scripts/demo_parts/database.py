"""A PostgreSQL server, as a process of its own: ``python -m demo_parts.database FOLDER [NETWORK]``.

Its first line of standard output is the server's URL. It does what it is told on standard input, a word a line, and
says when it is done: ``crash`` ends the server without any notice, ``start`` starts it again. When its input ends the
server is stopped. ``NETWORK``: who may connect from elsewhere, without a password.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from demo_parts.children import open_child, read_line


@attrs.frozen
class Database:
    """The server, as those who have started it see it."""

    url: str
    _process: trio.Process

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition("/")[0].rpartition(":")[2])

    def url_at(self, host: str, port: int) -> str:
        """Return the URL for those who find it elsewhere."""
        return self.url.replace(f"@127.0.0.1:{self.port}/", f"@{host}:{port}/")

    async def crash(self) -> None:
        """End it with SIGQUIT, as if it had crashed; return when it is gone."""
        await self._tell("crash")

    async def start(self) -> None:
        """Start it again; return when it answers."""
        await self._tell("start")

    async def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        await self._process.stdin.send_all(word.encode() + b"\n")
        if not await read_line(self._process.stdout):
            raise RuntimeError(f"the database server did not {word}")


@asynccontextmanager
async def open_database(folder: Path, network: str = "") -> AsyncIterator[Database]:
    """Have a server for the length of a block, with its data in a folder."""
    async with open_child("database", folder, network, stdout=subprocess.PIPE, has_to_leave=True) as process:
        assert process.stdout is not None
        url = (await read_line(process.stdout)).strip()
        if not url:
            raise RuntimeError("the database server did not start")
        yield Database(url, process)


def main(folder: Path, network: str) -> None:
    """Have a server until standard input ends."""
    from private_postgres import Server  # which needs psycopg, as all others here do not

    server = Server(is_safe=True, folder=folder, networks=[network] if network else [])
    try:
        print(server.url, flush=True)
        for line in sys.stdin:
            if line.strip() == "crash":
                server.stop(signal.SIGQUIT)
            else:
                server.start()
            print("done", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
