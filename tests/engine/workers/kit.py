"""What these tests share: servers of the application as real processes on one store, and looks at what they did."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from durable_trio import Engine
from durable_trio.stores.address import is_url
from durable_trio.testing.checker import Snapshot, check, read_lines, snapshot
from durable_trio.testing.snapshots import asking
from tests.crash.logs import Logs
from tests.crash.plans import Asker
from tests.engine.workers.app import ALL, SPEC_VARIABLE
from tests.kit import forks

_ROOT: Final = Path(__file__).resolve().parents[3]
#: Seconds after which a wait of a test is a failure; far above anything a healthy machine needs.
PATIENCE_SECONDS: Final = 60.0
_CLIENT_SECONDS: Final = 180.0


class Server:
    """A process that serves: a parent with workers, or one engine alone."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.seen: set[int] = set()  # every process that it was seen to have started

    def workers(self) -> list[int]:
        """Return the pids of its worker processes."""
        found = sorted(children_of(self.pid))
        self.seen.update(found)
        return found

    def signal(self, os_signal: int) -> None:
        """Send it a signal of the operating system."""
        self.workers()
        self.popen.send_signal(os_signal)

    async def wait_dead(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Return its exit code once it is dead, negative for a signal."""
        with trio.fail_after(seconds):
            while (code := self.popen.poll()) is None:  # noqa: ASYNC110  # a process that ends is no event here
                await trio.sleep(0.005)
        return code

    async def leave(self) -> None:
        """Drain it as an operator does, and make sure that all of it has gone."""
        self.signal(signal.SIGTERM)
        code = await self.wait_dead()
        assert code == 0, f"exit code {code}"
        self.assert_gone()

    def assert_gone(self) -> None:
        """Fail if a process that it has started is still there."""
        # A nest that was seen in its first instant had no name yet.
        left = [pid for pid in self.seen if is_alive(pid) and not forks.is_nest(pid)]
        assert not left, f"processes are left: {left}"


class Scene:
    """A store, its logs, and whoever serves it."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address
        self.logs = Logs(directory)
        self.servers: list[Server] = []

    def spec(self, **spec: Any) -> str:
        """Return what the environment must say (see ``app``)."""
        return json.dumps(
            {
                "directory": str(self.directory),
                "address": self.address,
                "parent": forks.server().pid,
                "durability": "normal",
                **spec,
            }
        )

    def serve(self, **spec: Any) -> Server:
        """Start a server of the application (see ``app``)."""
        text = self.spec(**spec)
        with open(self.directory / "output.txt", "ab") as output:
            popen: forks.Forked[bytes] = forks.Forked(
                [sys.executable, "-m", "tests.engine.workers.app"],
                env={**os.environ, SPEC_VARIABLE: text, "PYTHONPATH": str(_ROOT)},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        server = Server(popen)
        self.servers.append(server)
        return server

    async def serving(self, **spec: Any) -> Server:
        """Start a server, and wait until all its executors have registered."""
        server = self.serve(**spec)
        count = spec.get("workers", 0)

        def is_ready() -> bool:
            pids = set(self.executors().values())
            return len(pids & set(server.workers())) == count if count else server.pid in pids

        await until(lambda: server.popen.poll() is not None or is_ready())
        assert server.popen.poll() is None, self.output()
        return server

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Engine]:
        """Be a client of the store in this process. What takes too long fails, with what it holds then."""
        try:
            with trio.fail_after(_CLIENT_SECONDS):
                async with Engine(self.address, workflows=ALL, durability="normal") as engine:
                    yield engine
        except trio.TooSlowError:
            for name, run in self.snapshot().runs.items():
                print(name, run)
            print("executors:", self.executors(), self.output(), sep="\n")
            raise

    def asker(self, client: Engine) -> Asker:
        """Return who starts runs and notes what it was told."""
        return Asker(client, self.logs, role="worker", has_client=False)

    def ledger(self) -> list[Mapping[str, Any]]:
        """The effects so far."""
        return list(read_lines(self.logs.ledger_path))

    def output(self) -> str:
        """What the processes have said."""
        return (self.directory / "output.txt").read_text(errors="replace")

    def snapshot(self) -> Snapshot:
        """What the store holds."""
        return snapshot(self.address)

    def executors(self) -> dict[int, int]:
        """The executors that have not ended, and their pids."""
        try:
            with asking(self.address) as ask:
                return {row["id"]: row["pid"] for row in ask("SELECT id, pid FROM executors WHERE ended_at IS NULL")}
        except Exception:  # it is being made
            return {}

    def ended(self, number: int) -> bool:
        """Whether the worker that has taken this end has come to it."""
        taken = self.directory / f"end-{number}"
        return taken.exists() and (pid := taken.read_text()) != "" and not is_alive(int(pid))

    def ready(self, server: Server) -> list[int]:
        """The workers of a server that have registered as executors."""
        return sorted(set(server.workers()) & set(self.executors().values()))

    def assert_sound(self, *, reference: Mapping[str, Any] | None = None, all_ended: bool = True) -> None:
        """Everybody has left: have everything checked, and no lock may be held."""
        report = check(
            self.address,
            acks=read_lines(self.logs.acks_path),
            ledger=read_lines(self.logs.ledger_path),
            reference=reference,
            effects_table="effects",
            all_ended=all_ended,
            stopped=True,
        )
        assert report.violations == (), "\n".join(str(found) for found in report.violations[:20])
        if not is_url(self.address):  # else the check has looked for that
            assert not is_any_owner_locked(self.address)

    def clear(self) -> None:
        """Leave no process behind, whatever has happened."""
        for server in self.servers:
            server.workers()
            if server.popen.poll() is None:
                server.popen.kill()
            server.popen.wait()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for pid in {pid for server in self.servers for pid in server.seen}:
            while is_alive(pid) and time.monotonic() < deadline:  # they die with their parent
                time.sleep(0.01)
            assert not is_alive(pid)
        self.logs.close()


async def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Return once something is so."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # other processes bring it about
            await trio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that is dead is a zombie until it is waited for."""
    return state_of(pid) not in ("", "Z", "X")


def state_of(pid: int) -> str:
    """Return the state letter of a process; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> Iterator[int]:
    """Yield the living children of a process."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children = map(int, (task / "children").read_text().split())
                yield from (child for child in children if is_alive(child) and not forks.is_nest(child))


def kill(pid: int, os_signal: int = signal.SIGKILL) -> bool:
    """Send a signal to one process by its pid; return whether it was there."""
    try:
        os.kill(pid, os_signal)
    except ProcessLookupError:
        return False
    return True


def is_any_owner_locked(path: str) -> bool:
    """Whether any executor's kernel lock on the file is held."""
    lock = struct.Struct("@hhqqi0q")
    descriptor = os.open(f"{path}-owners", os.O_RDWR | os.O_CLOEXEC)
    try:
        probe = lock.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # length 0: the whole file
        return bool(lock.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, probe))[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)
