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
from typing import Any, Final

import pytest
import trio

from durable_trio import Engine, RunStatus, Workflow, open_engine
from durable_trio.stores.sqlite import sqlite3
from tests.cli import troubled_shop
from tests.cli.desk import call
from tests.engine.harness import wait_passivated, wait_status
from tests.kit.forks import Forked
from tests.walks import PATIENCE_SECONDS, ROOT, Commands, Walk, follow, outside, read_walk

PAGE: Final = "docs/operations.md"


class Shop:
    """The shop of that page, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "shop.py"
        shutil.copy(Path(__file__).with_name("troubled_shop.py"), self.code)
        self.environment = outside() | {"DURABLE_TRIO_DB": "app.db", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self.server: Forked[bytes] | None = None

    def serve(self, *options: str) -> None:
        """Serve it, beside nobody else."""
        with open(self.folder / "serve.log", "wb") as log:
            self.server = Forked(
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
        if self.server is not None:
            self.server.terminate()
            self.server.wait(timeout=PATIENCE_SECONDS)

    def kill(self) -> None:
        """Leave nothing behind."""
        if self.server is not None:
            if self.server.poll() is None:
                os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait(timeout=PATIENCE_SECONDS)

    def say(self, *words: str) -> str:
        """Run a command, and return what it prints."""
        said = call("--db", str(self.folder / "app.db"), *words)
        assert said.code == 0, said
        return said.out

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
    shop.say("start", "delivery", "--id", "delivery-7")
    shop.reach("delivery-7", "in hand")


def does_not_begin(shop: Shop) -> None:
    async def start() -> None:
        async with Engine(shop.folder / "app.db") as client:
            await client.start("order", 7, id="order-7")

    trio.run(start)
    connection = sqlite3.connect(shop.folder / "app.db")
    with connection:
        connection.execute("UPDATE runs SET created_at = created_at - 60000000, wake_at = wake_at - 60000000")
    connection.close()


def fails(shop: Shop) -> None:
    for number in (7, 8):
        shop.say("start", "order", str(number), "--id", f"order-{number}")
        shop.reach(f"order-{number}", "failed")


def many_have_failed(shop: Shop) -> None:
    """Nobody serves them: what is looked at, and asked for, is in the file."""

    async def fail() -> None:
        workflows: list[Workflow[..., Any]] = [troubled_shop.order, troubled_shop.newsletter]
        async with open_engine(shop.folder / "app.db", workflows=workflows) as engine:
            for number in (7, 8):
                await wait_status(
                    await engine.start(troubled_shop.order, number, id=f"order-{number}"), RunStatus.FAILED
                )
            await engine.start(troubled_shop.newsletter, id="newsletter-7")
            await wait_passivated(engine)

    trio.run(fail)


def is_parked(shop: Shop) -> None:
    async def begin() -> None:
        async with open_engine(shop.folder / "app.db", workflows=[troubled_shop.parcel]) as engine:
            await wait_status(await engine.start(troubled_shop.parcel, id="parcel-7"), RunStatus.SUSPENDED)

    trio.run(begin)
    shop.code.write_text(shop.code.read_text(encoding="utf-8").replace('step("pack"', 'step("wrap"'), encoding="utf-8")
    shop.serve()
    shop.say("signal", "parcel-7", "picked up")
    shop.reach("parcel-7", "parked")


def kills_its_process(shop: Shop) -> None:
    shop.serve("--workers", "1")
    shop.say("start", "render", "--id", "render-7")
    shop.reach("render-7", "failed")


def blocks(shop: Shop) -> None:
    shop.say("start", "inventory", "--id", "inventory-7")
    shop.reach("inventory-7", "completed")


def has_no_room(shop: Shop) -> None:
    """See ``test_an_answer_helps``: it is whoever follows the answer that has none."""


def is_restored(shop: Shop) -> None:
    shop.serve()
    shop.say("start", "parcel", "--id", "parcel-7")
    shop.reach("parcel-7", "suspended")  # else it has perhaps no owner yet
    shop.until(lambda: "owner" not in shop.say("show", "parcel-7"))  # it has left the server's memory
    shop.back_up()
    shop.say("signal", "parcel-7", "picked up")
    shop.reach("parcel-7", "completed")
    # What a server does next is to look, once it has written what it does now and then: it would do that with the copy
    # and the old log as one, which is the other line that the page tells of.
    log = shop.folder / "app.db-wal"
    size = log.stat().st_size
    shop.until(lambda: log.stat().st_size > size)
    shutil.copy(shop.folder / "backup.db", shop.folder / "app.db")
    shop.until(lambda: shop.server is not None and shop.server.poll() is not None)


#: By the heading of the answer.
TROUBLES: Final[dict[str, Callable[[Shop], None]]] = {
    "… a run hangs?": hangs,
    "… runs do not begin?": does_not_begin,
    "… a run has failed?": fails,
    "… many runs have failed, or are parked?": many_have_failed,
    "… I want to know each morning how the night was?": many_have_failed,
    "… a run is parked?": is_parked,
    "… a run kills its process?": kills_its_process,
    "… the event loop is blocked?": blocks,
    "… the disk is full?": has_no_room,
    "… the file was restored, moved or deleted under a server?": is_restored,
}


#: One server serves all of these: none does it any harm.
BESIDE_EACH_OTHER: Final = (hangs, fails, blocks, has_no_room)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.kill()


@pytest.fixture(scope="module")
def served_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop that is served."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    try:
        shop.serve()
        yield shop
    finally:
        shop.kill()


@pytest.mark.parametrize("heading", TROUBLES, ids=lambda heading: heading.strip("… ?").replace(" ", "-"))
def test_an_answer_helps(request: pytest.FixtureRequest, heading: str) -> None:
    trouble = TROUBLES[heading]
    if "jq " in "".join(each.text for each in read_walk(PAGE, section=heading).commands) and not shutil.which("jq"):
        pytest.skip("jq is not installed")
    shop: Shop = request.getfixturevalue("served_shop" if trouble in BESIDE_EACH_OTHER else "shop")
    trouble(shop)
    follow_answer(heading, shop, *([Commands("limit", "ulimit -f 1", "")] if trouble is has_no_room else []))
    if trouble is is_parked:
        shop.stop()
        shop.code.write_text(
            shop.code.read_text(encoding="utf-8").replace('step("wrap"', 'step("pack"'), encoding="utf-8"
        )
        shop.serve()
        shop.reach("parcel-7", "completed")  # mended code takes it up


def follow_answer(heading: str, shop: Shop, *before: Commands) -> None:
    """Run the commands of an answer, and compare what they print."""
    walk = read_walk(PAGE, section=heading)
    assert walk.commands
    follow(Walk({}, [*before, *walk.commands]), shop.folder, shop.environment)


def test_each_answer_of_the_page_is_tried() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert re.findall(r"^### (… .*)$", text, re.MULTILINE) == list(TROUBLES)


def test_a_hanging_step_is_begun_anew_by_the_next_process(shop: Shop) -> None:
    shop.serve()
    hangs(shop)
    shop.kill()
    shop.serve()
    assert shop.server is not None
    in_hand = re.compile(rf"in hand    ask partner#0, since .*, in process {shop.server.pid},")
    shop.until(lambda: in_hand.search(shop.say("show", "delivery-7")))
