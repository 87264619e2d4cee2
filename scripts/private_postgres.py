"""A private PostgreSQL server: on 127.0.0.1, with data of its own, gone when it is stopped.

    ./scripts/postgres                  # prints its URL and stays until Ctrl-C; then its data is gone
    ./scripts/postgres --data FOLDER    # its data stays there, for the next time

The binaries are Debian's, or those that ``DURABLE_TRIO_TEST_PG_BIN`` names. As root it runs as the user ``postgres``.
Where many are started, ``DURABLE_TRIO_TEST_PG_NEW`` names a folder for what all begin with: to copy that costs little.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

__all__ = ["Server", "find_binaries"]

_READY_SECONDS_MAX = 60.0
_PR_SET_PDEATHSIG = 1


def find_binaries() -> Path | None:
    """Return the folder of the newest binaries, or None if there are none."""
    named = os.environ.get("DURABLE_TRIO_TEST_PG_BIN")
    if named:
        return Path(named)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


class Server:
    """A server; it is up once it is made.

    Args:
        is_safe: whether what it has committed survives a power cut. Without, it does not wait for the disk.
        folder: where its data is to be; made if it is not there. By default one that is removed at the end.
        settings: those that differ.
        networks: who else may connect, without a password (``10.0.0.0/8``): it listens on all addresses then.
        of: the server that it follows, as its standby called ``standby``, until it is promoted.
    """

    def __init__(
        self,
        *,
        is_safe: bool = False,
        folder: Path | None = None,
        settings: dict[str, str] | None = None,
        networks: Sequence[str] = (),
        of: Server | None = None,
    ) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise FileNotFoundError("no PostgreSQL is installed: there is no folder /usr/lib/postgresql/*/bin")
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="durable-trio-postgres-")) if folder is None else folder
        self._is_temporary = folder is None
        self._user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self.port = _free_port()
        self.data = self.folder / "data"
        self.settings = {
            "listen_addresses": "*" if networks else "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "fsync": "on" if is_safe else "off",
            "full_page_writes": "on" if is_safe else "off",
            "logging_collector": "off",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: set[int] = set()
        self.folder.mkdir(exist_ok=True)
        os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        if not self.data.exists():
            if of is None:
                self._make_data(networks)
            else:
                self._copy_data(of)
        self.start()

    @property
    def url(self) -> str:
        """Of its database, as its owner."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                # The kernel takes the thread that has started it for its parent: one of a pool ends before the process.
                preexec_fn=_end_with_parent if threading.current_thread() is threading.main_thread() else None,
                **self._as_user(),
            )
        self.wait_until_up()

    def wait_until_up(self) -> None:
        """Return once it answers, as after it has ended all connections because one of its processes was killed."""
        until = time.monotonic() + _READY_SECONDS_MAX
        while True:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                self.stop(signal.SIGQUIT)
                raise RuntimeError(f"the server does not start:\n{self.log[-2000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends all connections, SIGQUIT is as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """Stop it, and remove what it had if that was made for it."""
        self.stop()
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def promote(self) -> None:
        """End following: it takes over, and can be written to once this returns."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def kill(self) -> None:
        """End all its processes at once, as when its machine is lost: nothing more is sent to a standby either."""
        self.pause_senders()
        self.stop(signal.SIGKILL)
        for sender in self._paused:
            os.kill(sender, signal.SIGKILL)
        self._paused.clear()

    def kill_one(self, pid: int) -> None:
        """Kill one of its processes: it ends all others, recovers, and is up again once this returns."""
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():  # it is not yet known to be dead
            time.sleep(0.01)
        self.wait_until_up()

    def pause_senders(self) -> None:
        """Send a standby nothing more, and keep the connection."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            senders = connection.execute("SELECT pid FROM pg_stat_replication").fetchall()
        for (sender,) in senders:
            os.kill(sender, signal.SIGSTOP)
            self._paused.add(sender)

    def _make_data(self, networks: Sequence[str]) -> None:
        original = os.environ.get("DURABLE_TRIO_TEST_PG_NEW")
        if original is None:
            self._init(self.data)
        else:
            self._copy_new(Path(original))
        with open(self.data / "pg_hba.conf", "a", encoding="utf-8") as rules:
            rules.writelines(f"host all all {network} trust\n" for network in networks)

    def _init(self, data: Path) -> None:
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        self._call(self.binaries / "initdb", "-D", data, *options)

    def _copy_new(self, original: Path) -> None:
        """Copy the data of a new server from a folder, where the first one who comes makes it."""
        original.mkdir(exist_ok=True)
        os.chown(original, self._user.pw_uid, self._user.pw_gid)
        with open(original / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (original / "data").exists():
                self._init(original / "draft")
                (original / "draft").rename(original / "data")
        self._call("cp", "-a", original / "data", self.data)

    def _copy_data(self, leader: Server) -> None:
        source = f"{leader.url.rpartition('/')[0]}?application_name=standby"
        options = ("-R", "--checkpoint=fast", "--no-sync", "-X", "stream")
        self._call(self.binaries / "pg_basebackup", "-D", self.data, "-d", source, *options)

    def _call(self, *command: str | Path) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_user())
        if done.returncode:
            raise RuntimeError(f"{command[0]} has failed:\n{done.stderr[-2000:]}")

    def _as_user(self) -> dict[str, Any]:
        if os.getuid():
            return {"cwd": self.folder}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": [], "cwd": self.folder}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """In the server: stop when the process that has started it dies, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def main() -> None:
    """Start a server, say where it is, and stop it at Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where its data is kept; by default it is removed")
    chosen = parser.parse_args()
    server = Server(is_safe=True, folder=None if chosen.data is None else chosen.data.absolute())
    print(server.url, flush=True)
    try:
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        server.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
