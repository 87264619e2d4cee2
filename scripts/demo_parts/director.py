"""One server on one file: it is killed again and again, and started again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime

import attrs
import trio

from demo_parts.children import open_child
from demo_parts.findings import counted
from demo_parts.incarnations import Serving, open_services
from demo_parts.ledger import Ledger
from demo_parts.places import Places, source_tree
from demo_parts.plan import Plan, make_plan
from demo_parts.screen import Screen
from demo_parts.show import LOOK_SECONDS, Remembered, Sample, Show
from demo_parts.timeline import draw
from durable_trio import Engine


@attrs.frozen(kw_only=True)
class Options:
    """How much of everything. ``machines`` 0: one server on a file."""

    files: int
    orders: int
    kills: int
    seed: int
    machines: int = 0
    has_namespaces: bool = False

    def arguments(self) -> tuple[int, int, int, int]:
        """Return what the checker needs to make the same plan."""
        return self.files, self.orders, self.kills, self.seed

    def plan(self) -> Plan:
        """Return what there is to do."""
        return make_plan(
            source_tree(),
            files=self.files,
            orders=self.orders,
            kills=self.kills,
            seed=self.seed,
            has_machines=self.machines > 0,
        )


async def perform(options: Options, places: Places, screen: Screen) -> bool:
    """Perform it all; return whether the checker is content."""
    plan = options.plan()
    screen.line("durable_trio: kill it, start it, and nothing is lost", "bold")
    introduce(plan, screen)
    screen.line(f"  The process that executes all this is killed with SIGKILL, {counted(len(plan.kills), 'time')}.")
    screen.line(f"  The plan is that of --seed {options.seed}.", "dim")
    screen.line()
    with places.open_serving_log() as errors:
        async with open_services(places, options.seed, "127.0.0.1") as (store_port, shop_port):
            async with trio.open_nursery() as nursery:
                serving = Serving(
                    nursery=nursery,
                    places=places,
                    store=str(places.database),
                    object_store=f"127.0.0.1:{store_port}",
                    shop=f"127.0.0.1:{shop_port}",
                    errors=errors,
                )
                async with Engine(places.database) as client:
                    # The file is for people too: plain SQL, through the connection that the engine gives out.
                    with Ledger(places.database, client.connect) as ledger:
                        show = Show(client, plan, ledger, screen)
                        killer = _Killer(show, plan, serving, screen, random.Random(f"kills {options.seed}"))
                        await show.run(killer.run)
                    remembered = await show.choose_timeline()
                code = await serving.stop()
                screen.event("■", f"SIGTERM to the serving process: it drained, exit code {code}")
        is_content = await check(options, places, screen)
    conclude(is_content, remembered, show.troubles, options, screen)
    return is_content


@attrs.frozen
class _Killer:
    """Kills the serving process, and starts it again."""

    _show: Show
    _plan: Plan
    _serving: Serving
    _screen: Screen
    _chance: random.Random

    async def run(self) -> None:
        await self._serving.start()
        for number, part in enumerate(self._plan.kills, 1):
            await self._kill_at(part, number)

    async def _kill_at(self, part: float, number: int) -> None:
        show, serving, screen = self._show, self._serving, self._screen
        await show.until(lambda sample: show.part(sample) >= part and self._is_served(sample))
        await trio.sleep(self._chance.uniform(0, 2 * LOOK_SECONDS))
        pid = serving.process.pid
        await serving.kill()
        show.note_trouble()
        died = trio.current_time()
        at_death = show.look()
        where = f"{at_death.row_count:,} rows, {counted(at_death.owned, 'run')} under way"
        screen.event("✗", f"SIGKILL no. {number} to pid {pid}: {where}", "red")
        await serving.start()
        await show.until(
            lambda sample: sample.row_count > at_death.row_count or (self._is_served(sample) and show.is_idle(sample))
        )
        what = "has gone on" if show.sample.row_count > at_death.row_count else "serves, with nothing to do,"
        screen.event("✓", f"pid {serving.process.pid} {what} after {trio.current_time() - died:.2f} s", "green")
        show.note_end()

    def _is_served(self, sample: Sample) -> bool:
        return self._serving.process.pid in sample.serving_pids


# ---- of both demonstrations --------------------------------------------------------------------------------------


def introduce(plan: Plan, screen: Screen) -> None:
    """Say what there is to do."""
    size = f"{plan.size_bytes / 1e6:.1f} MB"
    screen.line()
    screen.line(f"  {len(plan.files):,} files of Python's standard library ({size}) go to an object")
    screen.line(f"  store over HTTP, a run per file, a committed step per chunk: {plan.chunk_count:,} of them.")
    screen.line(
        f"  Meanwhile {counted(len(plan.orders), 'order')} are paid, wait for a signal, and are shipped or refunded."
    )


async def check(options: Options, places: Places, screen: Screen, *store: str) -> bool:
    """Have all of it checked; return whether it holds. ``store``: the URL of the database, if it is none on a file."""
    screen.heading("The checker: a process of its own, with plain SQL and the services' own logs")
    async with open_child("checker", places.folder, *options.arguments(), *store) as checker:
        return await checker.wait() == 0


def conclude(
    is_content: bool, remembered: Remembered | None, troubles: Sequence[datetime], options: Options, screen: Screen
) -> None:
    """Show the history of a run, and say how it has ended."""
    if remembered is not None:
        record = remembered.record
        error = "" if record.error is None else f": {getattr(record.error, 'message', record.error)}"
        screen.heading(f"The history of run {record.id!r}, {record.status}{error}")
        for line in draw(remembered.steps, troubles, record.created_at, "trouble" if options.machines else "kill -9"):
            screen.line(line)
    screen.line()
    text = "All of it holds." if is_content else "It does not hold: see above."
    screen.line(f"  {text} {screen.seconds:.1f} s, seed {options.seed}.", "green" if is_content else "red")
