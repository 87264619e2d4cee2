"""``durable-trio serve`` as a process of its own, its output in files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.desk import PATIENCE_SECONDS, call, command_line, surroundings
from tests.kit.forks import Forked

_HERE = Path(__file__).parent


class Server:
    """A server and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.db = str(folder / "app.db")
        self._folder = folder

    @property
    def out(self) -> str:
        return (self._folder / "out.txt").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self._folder / "err.txt").read_text(encoding="utf-8")

    def until(self, condition: Callable[[], object]) -> None:
        """Return once something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"--- output\n{self.out}\n--- errors\n{self.err}"
            time.sleep(0.02)

    def says(self, pattern: str, count: int = 1) -> list[str]:
        """Return the lines of its log that have something in them, once there are so many."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.err.splitlines() if re.search(pattern, line)]
            return len(found) >= count

        self.until(look)
        return found

    def send(self, os_signal: signal.Signals) -> None:
        self.process.send_signal(os_signal)

    def ends(self) -> int:
        """Return its exit code, negative for a signal."""
        return self.process.wait(timeout=PATIENCE_SECONDS)


@contextmanager
def serving(folder: Path, *options: str, app: str = "served:make", cwd: Path = _HERE) -> Iterator[Server]:
    """Serve during a block; at its end the server is killed, and its workers die with it."""
    with open(folder / "out.txt", "wb") as out, open(folder / "err.txt", "wb") as err:
        process: Forked[bytes] = Forked(
            command_line("serve", app, *options),
            cwd=cwd,
            env=served_surroundings(folder),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield Server(process, folder)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=PATIENCE_SECONDS)


def served_surroundings(folder: Path) -> dict[str, str]:
    """Return the environment of a server."""
    return surroundings(SERVED_DATABASE=str(folder / "app.db"))


def field(line: str, name: str) -> str:
    """Return a field of a log line."""
    found = re.search(rf'(?:^| ){name}=(?:"([^"]*)"|(\S*))', line)
    assert found is not None, line
    return found[1] if found[1] is not None else found[2]


def workers_of(server: Server) -> dict[str, int]:
    """Return the workers that are there, and their pids, as the log tells."""
    found: dict[str, int] = {}
    for line in server.err.splitlines():
        if "event=worker_started" in line or "event=worker_restarted" in line:
            found[field(line, "worker")] = int(field(line, "pid"))
        elif "event=worker_exited" in line and " pid=" in line:
            found.pop(field(line, "worker"), None)
    return found


def start(db: str, workflow: str, *args: str, id: str) -> None:
    """Start a run from outside."""
    said = call("--db", db, "start", workflow, *args, "--id", id)
    assert said.code == 0, said


def reach(db: str, run_id: str, status: str) -> None:
    """Return once a run is in a status."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := call("--db", db, "show", run_id, "--json").json["run"]["status"]) != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int) -> None:
    """Kill one process, by its pid."""
    os.kill(pid, signal.SIGKILL)
