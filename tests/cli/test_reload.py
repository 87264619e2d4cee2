"""``reload`` and SIGHUP on servers as real processes, and workers that die after the files have changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from durable_trio import Reload
from durable_trio.cli.reloading import ReloadCommand
from tests.cli.desk import PATIENCE_SECONDS, Said, call, command_line, surroundings
from tests.cli.server import field, is_alive, kill, reach, serving, workers_of
from tests.kit import forks

_SHOP = """
import trio
from durable_trio import Context, Engine, current_step, workflow
import prices

async def note(number: int) -> int:
    with open("effects.txt", "a") as file:
        file.write(f"{current_step().run_id} {number}\\n")
    return prices.PRICE

@workflow
async def order(ctx: Context, until: int) -> list[int]:
    paid = []
    while until not in paid:
        paid.append(await ctx.step("note", note, len(paid)))
        await ctx.sleep(0.05)
    await ctx.wait_signal("go on")
    return paid

engine = Engine("app.db", workflows=[order], grace_seconds=5)
"""


class Shop:
    """A folder with an application, whose code changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = str(folder / "app.db")
        (folder / "shop.py").write_text(_SHOP)
        self.sells("1")

    def sells(self, price: str) -> None:
        """Change one of its files; another length each time, so that no compiled one is taken for it."""
        (self.folder / "prices.py").write_text(f"PRICE = {price}\n")

    def call(self, *args: str) -> Said:
        """Call the program on its database."""
        return call("--db", self.db, *args)

    def starts(self, *ids: str, until: int) -> None:
        """Start runs that go on until a price is so high."""
        for id in ids:
            assert self.call("start", "order", str(until), "--id", id).code == 0

    def result(self, id: str) -> list[int]:
        """Let a run go on, and return what it has given back."""
        self.call("signal", id, "go on")
        reach(self.db, id, "completed")
        found = self.call("show", id, "--json").json["run"]["result"]
        assert isinstance(found, list)
        return found

    def effects(self) -> Counter[str]:
        """What steps have done, and how often."""
        with suppress(FileNotFoundError):
            return Counter((self.folder / "effects.txt").read_text().splitlines())
        return Counter()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An application in a folder of its own."""
    return Shop(tmp_path)


def reloading(shop: Shop) -> forks.Forked[str]:
    """Call ``reload`` in a process of its own."""
    return forks.Forked(
        command_line("--db", shop.db, "reload"),
        env=surroundings(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_day_of_a_family_whose_files_change(shop: Shop) -> None:
    """One story, because each server and each worker takes its time to start."""
    with serving(shop.folder, "--workers", "2", app="shop:engine", cwd=shop.folder) as server:
        server.says("event=worker_started", 2)
        first = workers_of(server)

        # A worker dies after the files have changed: no second code comes into the family, and the other serves on.
        shop.sells("22")
        kill(first["worker-1"])
        why = r"the files have changed since this family started \(prices.py\): durable-trio reload"
        server.says(f"worker_exited worker=worker-1 .*{why}")
        server.until(lambda: shop.call("check").code == 1)
        wrong = f"1 of 2 workers of process {server.pid} cannot come back: the files have changed since this family"
        assert wrong in " ".join(shop.call("check").out.split())
        assert "code 72" in shop.call("tree", "--json").out
        shop.starts("old", until=1)
        assert shop.result("old") == [1]

        # What cannot be imported changes nothing.
        shop.sells("(")
        said = shop.call("reload")
        assert said.code == 1
        assert "importing 'shop' failed: SyntaxError" in said.err.splitlines()[-1]
        assert said.err.endswith("(prices.py, line 1); nothing was changed\n")
        assert is_alive(first["worker-2"])

        # The mended files come into service under runs that go on.
        shop.sells("333")
        shop.starts("a", "b", "c", until=333)
        server.until(lambda: shop.effects()["a 3"] and shop.effects()["c 3"])
        said = shop.call("reload")
        assert (said.code, said.out) == (0, f"2 workers of process {server.pid} serve the new code\n")
        second = workers_of(server)
        assert set(second) == {"worker-3", "worker-4"}
        assert not is_alive(first["worker-2"])
        assert shop.call("check").code == 0
        for id in ("a", "b", "c"):
            paid = shop.result(id)
            assert paid == [1] * (len(paid) - 1) + [333]
            counts = {shop.effects()[f"{id} {number}"] for number in range(len(paid))}
            assert counts == {1}, "none is lost or done twice"
            assert shop.effects()[f"{id} {len(paid)}"] == 0

        # Without a terminal SIGHUP asks for the same; to a worker it is nothing.
        os.kill(second["worker-4"], signal.SIGHUP)
        server.send(signal.SIGHUP)
        server.says("event=reload_done", 2)
        assert set(workers_of(server)) == {"worker-5", "worker-6"}
        assert "SIGHUP" not in server.err

        # Told to stop during a reload, it drains as ever.
        with reloading(shop) as reload:
            server.says("event=reload_started", 4)
            server.send(signal.SIGTERM)
            _, error = reload.communicate(timeout=PATIENCE_SECONDS)
        assert reload.returncode == 1
        assert "the server is stopping" in error or f"the server (process {server.pid}) has ended meanwhile" in error
        assert server.ends() == 0
        assert not any(is_alive(pid) for pid in workers_of(server).values())


def test_each_stage_of_a_reload_is_told_once() -> None:
    told: list[str] = []
    command = ReloadCommand(None, rehearses=False, tell=told.append)
    stages = [
        Reload(id="1", state="importing"),
        Reload(id="1", state="replacing", workers=2, now="worker-3 starts"),
        Reload(id="1", state="replacing", workers=2, now="worker-4 starts", replaced=1),
        Reload(id="1", state="done", workers=2, replaced=2),
    ]
    for stage in stages:
        command._say(stage)
        command._say(stage)
    assert told == [
        "the new code is imported",
        "worker-3 starts (0 of 2 workers replaced)",
        "worker-4 starts (1 of 2 workers replaced)",
    ]


def test_a_parent_that_is_killed_during_a_reload_takes_all_with_it_and_no_run_is_lost(shop: Shop) -> None:
    with serving(shop.folder, "--workers", "1", app="shop:engine", cwd=shop.folder) as server:
        server.says("event=worker_started")
        shop.starts("a", until=1)
        server.until(lambda: shop.effects()["a 0"] and "reloads" in shop.call("tree").out)  # it has reported
        shop.sells("22")
        with reloading(shop) as reload:
            server.says("event=worker_started worker=worker-2")  # and worker-1 drains, or has gone
            workers = workers_of(server)
            kill(server.pid)
            out, error = reload.communicate(timeout=PATIENCE_SECONDS)
        if "serve the new code" not in out:  # it may have been done by then
            assert reload.returncode == 1
            assert error.splitlines()[-1] == f"durable-trio: the server (process {server.pid}) has ended meanwhile"
        server.ends()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(map(is_alive, workers.values())):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with serving(shop.folder, app="shop:engine", cwd=shop.folder):
        assert shop.result("a") == [1]
    assert set(shop.effects().values()) == {1}


def test_a_server_in_one_process_says_at_sighup_that_it_is_to_be_restarted_and_serves_on(shop: Shop) -> None:
    with serving(shop.folder, app="shop:engine", cwd=shop.folder) as server:
        server.says("event=started")
        server.send(signal.SIGHUP)
        (line,) = server.says("event=reload_failed")
        assert "restart it" in field(line, "reason")
        assert shop.call("reload").error == (
            f"durable-trio: process {server.pid} cannot reload: restart it, which drains (SIGTERM) and loses nothing. "
            "What 'durable-trio serve APP --workers N' serves can replace its workers"
        )
        shop.starts("a", until=1)
        assert shop.result("a") == [1]
        server.send(signal.SIGTERM)
        assert server.ends() == 0


def test_sighup_is_left_alone_where_it_tells_the_end_of_a_terminal(tmp_path: Path) -> None:
    program = """
import fcntl, os, signal, termios
from durable_trio.cli.serving import requests_ignored
from durable_trio.engine.os_signals import has_terminal

def handled():
    with requests_ignored() as signals:
        return has_terminal(), list(signals), signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

print(handled())
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by nohup
print(handled())
signal.signal(signal.SIGHUP, signal.SIG_DFL)
_, terminal = os.openpty()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
print(handled(), signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)
"""
    done = forks.run(
        [sys.executable, "-c", program],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        start_new_session=True,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "(False, [<Signals.SIGHUP: 1>], True)",
        "(False, [], True)",
        "(True, [], False) True",
    ]


def test_a_baseline_is_for_a_rehearsal_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text("{}")
    for words, what in (
        (("--baseline", str(tmp_path / "before.json")), "use it with --rehearse"),
        (("--rehearse", "--baseline", str(tmp_path / "none.json")), "does not exist"),
    ):
        said = call("--db", str(tmp_path / "app.db"), "reload", *words)
        assert said.code == 2
        assert what in said.err
