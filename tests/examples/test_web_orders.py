"""Orders over HTTP: the server is killed and stopped in the middle, and each order goes on; nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.harness import PATIENCE_SECONDS
from tests.examples.kit import EXAMPLES
from tests.kit.forks import Forked

httpx = pytest.importorskip("httpx")
for needed in ("fastapi", "uvicorn", "uvloop"):
    pytest.importorskip(needed)

EVERY = bool(os.environ.get("DURABLE_TRIO_EVERY_CRASH"))
# Where the engine runs, and in which loop; two of the four have all there is.
HOSTS = [("guest", "uvloop"), ("thread", "asyncio"), *([("guest", "asyncio"), ("thread", "uvloop")] if EVERY else [])]
DONE = ["7: tea reserved", "7: 490 cents charged", "7: tea shipped"]


class Server:
    """uvicorn with the example in it, on a port of its choice."""

    def __init__(self, folder: Path, host: str, loop: str, *options: str) -> None:
        env = os.environ | {"SHOP_FOLDER": str(folder), "SHOP_HOST": host}
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--app-dir",
            str(EXAMPLES / "other_loops"),
            "web_orders:app",
            "--port",
            "0",
        ]
        self.process: Forked[str] = Forked(
            [*command, "--loop", loop, "--timeout-graceful-shutdown", "1", *options],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._url: list[str] = []
        self._is_up = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._is_up.wait(PATIENCE_SECONDS), self.log
        self.client = httpx.Client(base_url=self._url[0], timeout=PATIENCE_SECONDS)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "running on http" in line:
                self._url.append(line.split("running on ")[1].split()[0])
            if self._url and "startup complete" in "".join(self.log):
                self._is_up.set()
        self._is_up.set()

    def end(self, os_signal: signal.Signals) -> int:
        """Send the signal and return how the process has ended."""
        self.client.close()
        self.process.send_signal(os_signal)
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def state(self) -> str | None:
        """Return the published state of the order."""
        found: str | None = self.client.get("/orders/7").json()["state"]
        return found

    def order(self) -> None:
        """Place the order, and return once it waits for its approval."""
        assert self.client.put("/orders/7", params={"item": "tea", "cents": 490}).status_code == 202
        until = time.monotonic() + PATIENCE_SECONDS
        while self.state() != "tea reserved" and time.monotonic() < until:
            time.sleep(0.01)

    def approve(self) -> None:
        assert self.client.post("/orders/7/approval", params={"is_approved": True}).status_code == 202

    def events(self) -> list[str]:
        """Return what is told of the order until it has ended."""
        with self.client.stream("GET", "/orders/7/events") as response:
            return [line for line in response.iter_lines() if line.startswith("data: ")]


@contextmanager
def serving(folder: Path, host: str, loop: str, *options: str) -> Iterator[Server]:
    server = Server(folder, host, loop, *options)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


def ledger(folder: Path) -> list[str]:
    return (folder / "ledger.txt").read_text().splitlines()


@pytest.mark.parametrize(("host", "loop"), HOSTS)
def test_an_order_outlives_a_server_that_is_killed_and_one_that_is_stopped(
    tmp_path: Path, host: str, loop: str
) -> None:
    with serving(tmp_path, host, loop) as server:
        assert server.client.get("/orders/7").status_code == 404
        server.order()
        assert server.client.put("/orders/7", params={"item": "coffee", "cents": 490}).status_code == 409
        server.approve()
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    with serving(tmp_path, host, loop) as server:
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)
        assert "Application shutdown complete" in "".join(server.log)
    with serving(tmp_path, host, loop) as server:
        assert '"completed"' in server.events()[-1]
        assert ledger(tmp_path) == DONE


@pytest.mark.slow
def test_two_workers_share_the_orders_and_end_together(tmp_path: Path) -> None:
    with serving(tmp_path, "guest", "uvloop", "--workers", "2") as server:
        server.order()
        server.approve()
        assert '"completed"' in server.events()[-1]
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert ledger(tmp_path) == DONE
