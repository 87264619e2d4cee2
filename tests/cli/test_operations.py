"""Each answer of the page on operations helps: the trouble is brought about, and the commands print what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from durable_trio.stores.sqlite import sqlite3
from tests.walks import PATIENCE_SECONDS, ROOT, Commands, Walk, follow, outside, read_walk

PAGE: Final = "docs/operations.md"


class Shop:
    """The shop of that page, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "shop.py"
        shutil.copy(Path(__file__).with_name("troubled_shop.py"), self.code)
        self.environment = outside() | {"DURABLE_TRIO_DB": "app.db", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self._server: subprocess.Popen[bytes] | None = None

    def serve(self, *options: str) -> None:
        """Serve it, beside nobody else."""
        with open(self.folder / "serve.log", "ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "durable_trio", "serve", "shop:engine", *options],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until(lambda: "event=runs" in self.log)

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        """Let the server drain, and wait for its end."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(timeout=PATIENCE_SECONDS)

    def kill(self) -> None:
        """Leave nothing behind."""
        if self._server is not None:
            if self._server.poll() is None:
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait(timeout=PATIENCE_SECONDS)

    def say(self, *words: str) -> str:
        """Run a command, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "durable_trio", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until(self, condition: Callable[[], object]) -> None:
        """Return once something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def reach(self, run_id: str, text: str) -> None:
        """Return once ``show`` says something of a run."""
        self.until(lambda: text in self.say("show", run_id))

    def back_up(self) -> None:
        """Make ``backup.db``, as the page says."""
        connection = sqlite3.connect(self.folder / "app.db")
        connection.execute("VACUUM INTO ?", (str(self.folder / "backup.db"),))
        connection.close()


def hangs(shop: Shop) -> None:
    shop.serve()
    shop.say("start", "delivery", "--id", "delivery-7")
    shop.reach("delivery-7", "in hand")


def does_not_begin(shop: Shop) -> None:
    shop.serve()
    shop.stop()
    shop.say("start", "order", "7", "--id", "order-7")
    connection = sqlite3.connect(shop.folder / "app.db")
    with connection:
        connection.execute("UPDATE runs SET created_at = created_at - 60000000, wake_at = wake_at - 60000000")
    connection.close()


def fails(shop: Shop) -> None:
    shop.serve()
    for number in (7, 8):
        shop.say("start", "order", str(number), "--id", f"order-{number}")
        shop.reach(f"order-{number}", "failed")


def is_parked(shop: Shop) -> None:
    shop.serve()
    shop.say("start", "parcel", "--id", "parcel-7")
    shop.reach("parcel-7", "parcel-7  suspended")
    shop.stop()
    shop.code.write_text(shop.code.read_text(encoding="utf-8").replace('step("pack"', 'step("wrap"'), encoding="utf-8")
    (shop.folder / "serve.log").unlink()
    shop.serve()
    shop.say("signal", "parcel-7", "picked up")
    shop.reach("parcel-7", "parked")


def kills_its_process(shop: Shop) -> None:
    shop.serve("--workers", "1")
    shop.say("start", "render", "--id", "render-7")
    shop.reach("render-7", "failed")


def blocks(shop: Shop) -> None:
    shop.serve()
    shop.say("start", "inventory", "--id", "inventory-7")
    shop.reach("inventory-7", "completed")


def has_no_room(shop: Shop) -> None:
    shop.serve()
    shop.environment["LIMIT"] = "1"  # see ``follow_answer``


def is_restored(shop: Shop) -> None:
    shop.serve()
    shop.say("start", "parcel", "--id", "parcel-7")
    shop.until(lambda: "owner" not in shop.say("show", "parcel-7"))  # it has left the server's memory
    shop.back_up()
    shop.say("signal", "parcel-7", "picked up")
    shop.reach("parcel-7", "completed")
    shutil.copy(shop.folder / "backup.db", shop.folder / "app.db")
    shop.until(lambda: shop._server is not None and shop._server.poll() is not None)


#: By the heading of the answer.
TROUBLES: Final[dict[str, Callable[[Shop], None]]] = {
    "… a run hangs?": hangs,
    "… runs do not begin?": does_not_begin,
    "… a run has failed?": fails,
    "… a run is parked?": is_parked,
    "… a run kills its process?": kills_its_process,
    "… the event loop is blocked?": blocks,
    "… the disk is full?": has_no_room,
    "… the file was restored, moved or deleted under a server?": is_restored,
}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.kill()


@pytest.mark.parametrize("heading", TROUBLES, ids=lambda heading: heading.strip("… ?").replace(" ", "-"))
def test_an_answer_helps(shop: Shop, heading: str) -> None:
    TROUBLES[heading](shop)
    walk = read_walk(PAGE, section=heading)
    assert walk.commands
    before = [Commands("limit", "ulimit -f 1", "")] if shop.environment.pop("LIMIT", None) else []
    follow(Walk({}, [*before, *walk.commands]), shop.folder, shop.environment)


def test_each_answer_of_the_page_is_tried() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert re.findall(r"^### (… .*)$", text, re.MULTILINE) == list(TROUBLES)


def test_mended_code_takes_the_parked_run_up(shop: Shop) -> None:
    is_parked(shop)
    shop.stop()
    shop.code.write_text(shop.code.read_text(encoding="utf-8").replace('step("wrap"', 'step("pack"'), encoding="utf-8")
    shop.serve()
    shop.reach("parcel-7", "completed")


def test_a_hanging_step_is_begun_anew_by_the_next_process(shop: Shop) -> None:
    hangs(shop)
    shop.kill()
    shop.serve()
    shop.until(lambda: re.search(r"in hand    ask partner#0, since .*, in process", shop.say("show", "delivery-7")))
