"""What can happen to a server and the way to it, one thing at a time."""

from __future__ import annotations

import enum
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from private_postgres import Server

from tests.kit.proxy import Proxy

__all__ = ["Happening", "Weather", "ask"]

_OURS = "FROM pg_stat_activity WHERE application_name = 'durable_trio' ORDER BY random()"


class Happening(enum.Enum):
    """What can happen."""

    REPLY_LOST = "replies lost"
    REQUEST_LOST = "links cut"
    SLOW = "links slow"
    BACKENDS_ENDED = "backends ended"
    BACKEND_KILLED = "backends killed"
    COMMITS_HANG = "commits hung"
    SERVER_CRASHES = "crashes"
    FAIL_OVER = "fail-overs"


def ask(server: Server, *texts: str) -> list[tuple[Any, ...]]:
    """Execute statements, and return the rows of the last one."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        for text in texts:
            cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


class Weather:
    """One server, perhaps with a standby, and what happens to it; it is up again after each call.

    Args:
        standby: of ``server``; it must answer, so that nothing is lost when it takes over.
        proxies: the ways to the server. They lead to another one after a fail-over.
    """

    def __init__(self, server: Server, proxies: Sequence[Proxy] = (), *, seed: int, standby: Server | None = None):
        self.server = server
        self._standby = standby
        self._proxies = proxies
        self._random = random.Random(seed)
        self.counted: Counter[str] = Counter()
        if standby is not None:
            self._must_answer("standby")

    def happen(self, what: Happening, proxy: Proxy, *, spared: Sequence[Proxy] = ()) -> None:
        """Have something happen, to whom it concerns.

        Args:
            proxy: the way to the server of whoever is hit.
            spared: those of whom nothing may be lost that was acknowledged, though the server has no disk.
        """
        match what:
            case Happening.REPLY_LOST:
                with proxy.cut(loses_reply=True):
                    time.sleep(0.05)
            case Happening.REQUEST_LOST:
                with proxy.cut():
                    time.sleep(self._random.uniform(0, 0.05))
            case Happening.SLOW:
                with proxy.slow(0.1):
                    time.sleep(0.5)
            case Happening.BACKENDS_ENDED:
                ask(self.server, f"SELECT pg_terminate_backend(pid) FROM (SELECT pid {_OURS} LIMIT 2) AS ours")
            case Happening.BACKEND_KILLED:
                for (pid,) in ask(self.server, f"SELECT pid {_OURS} LIMIT 1"):
                    self.server.kill_one(pid)
            case Happening.COMMITS_HANG:
                with self._hanging_commits():
                    time.sleep(0.1)
                    proxy.drop_all()
                    time.sleep(0.1)
            case Happening.SERVER_CRASHES:
                with ExitStack() as cuts:  # so that nobody waits for the disk, also not for what others write
                    for each in spared:
                        cuts.enter_context(each.cut())
                    time.sleep(0.1)
                    self.server.stop(signal.SIGQUIT)
                self.server.start()
            case Happening.FAIL_OVER:
                self._fail_over()
        self.counted[what.value] += 1

    @contextmanager
    def _hanging_commits(self) -> Iterator[None]:
        """Commits are done, and wait for a standby that is not there."""
        self._must_answer("nobody")
        try:
            yield
        finally:
            self._must_answer("" if self._standby is None else "standby")

    def _must_answer(self, name: str) -> None:
        ask(self.server, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'", "SELECT pg_reload_conf()")

    def _fail_over(self) -> None:
        lost, new = self.server, self._standby
        assert new is not None, "nobody follows the server"
        lost.kill()
        new.promote()
        self.server = new
        self._must_answer("standby")  # from the first commit on, so that the next time nothing is lost either
        for proxy in self._proxies:
            proxy.lead_to(new.port)
        lost.close()
        self._standby = Server(of=new, settings=lost.settings)

    def close(self) -> None:
        """Stop the servers."""
        if self._standby is not None:
            self._standby.close()
        self.server.close()
