"""Starts the processes of crash tests quickly: it has imported everything, opened nothing, and forks on demand.

It is a process of its own without threads, trio or SQLite connections, so that what it forks is as good as new. Its
parent sends specs with the child's control socket; the answer is the child's pid, and later its exit status.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A process that the zygote has started, seen from the driver."""

    def __init__(self, zygote: Zygote, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self._zygote = zygote
        self._control = control
        self.messages: list[dict[str, Any]] = []

    def send(self, **message: Any) -> None:
        """Tell the process something."""
        self._control.send(json.dumps(message).encode())

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return its next message; ``None`` once it is dead.

        Raises:
            TimeoutError: nothing came in time.
        """
        self._control.settimeout(max(0.001, seconds))
        try:
            data = self._control.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        message: dict[str, Any] = json.loads(data)
        self.messages.append(message)
        return message

    def wait_for(self, word: str, seconds: float) -> dict[str, Any] | None:
        """Return its next message with that word; ``None`` once it is dead.

        Raises:
            TimeoutError: it did not come in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            message = self.receive(deadline - time.monotonic())
            if message is None or word in message:
                return message

    def wait_dead(self, seconds: float) -> int:
        """Return its exit code, negative for a signal, once it is dead.

        Raises:
            TimeoutError: it lives on.
        """
        deadline = time.monotonic() + seconds
        while self.receive(deadline - time.monotonic()) is not None:
            pass
        return self._zygote.status_of(self.pid)

    def signal(self, number: int) -> None:
        """Send it a signal of the operating system."""
        os.kill(self.pid, number)

    def kill(self, seconds: float = 60) -> None:
        """Kill it and wait until it is dead."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait_dead(seconds)

    def close(self) -> None:
        """Close the control socket: a client takes that for the end."""
        self._control.close()

    def hang_up(self, seconds: float = 60) -> int:
        """Say that nothing more comes, and return the exit code."""
        self._control.shutdown(socket.SHUT_WR)
        try:
            return self.wait_dead(seconds)
        finally:
            self.close()


class Zygote:
    """The driver's end. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.zygote", str(other.fileno())],
                pass_fds=[other.fileno()],
                env=environment,
                cwd=_ROOT,
            )

    def spawn(self, spec: dict[str, Any]) -> Process:
        """Start a process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            socket.send_fds(self._socket, [json.dumps({"spawn": spec}).encode()], [theirs.fileno()])
            answer = json.loads(self._socket.recv(4096))
        return Process(self, answer["pid"], ours)

    def status_of(self, pid: int) -> int:
        """Return the exit code of a process that has closed its control socket."""
        with self._lock:
            self._socket.send(json.dumps({"wait": pid}).encode())
            status: int = json.loads(self._socket.recv(4096))["status"]
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """End it, and with it all processes that it has started."""
        self._socket.close()
        self._process.wait(60)


def serve(connection: socket.socket) -> None:
    """Fork what is asked for until the parent hangs up."""
    from tests.crash import hosts, worker  # everything is imported here, once

    hosts.import_backends()
    gc.collect()
    gc.freeze()  # else what is collected in a fork touches, and so copies, all that it shares with this process
    statuses: dict[int, int] = {}
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 1)
        if not data:
            return
        request = json.loads(data)
        if "wait" in request:
            pid = request["wait"]
            while pid not in statuses:
                found, status = os.waitpid(-1, 0)
                statuses[found] = status
            connection.send(json.dumps({"status": statuses.pop(pid)}).encode())
            continue
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(descriptors[0])
            connection.send(json.dumps({"pid": pid}).encode())
            continue
        code = 70
        try:
            connection.close()
            worker.end_with_parent(parent)
            _log_to(Path(request["spawn"]["directory"]) / "output.txt")
            code = worker.main(request["spawn"], socket.socket(fileno=descriptors[0]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def _log_to(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])))
