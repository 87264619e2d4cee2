"""Several machines on one PostgreSQL server: machines are killed and cut off, and the server crashes, in turn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

from demo_parts.database import Database, open_database
from demo_parts.director import Options, check, conclude, introduce
from demo_parts.findings import counted
from demo_parts.incarnations import LEASE_SECONDS, Serving, open_services
from demo_parts.ledger import Ledger
from demo_parts.network import NETWORK, Machine, open_machines
from demo_parts.places import Places
from demo_parts.plan import Plan, Trouble
from demo_parts.screen import Screen
from demo_parts.show import LOOK_SECONDS, Show
from durable_trio import Engine

_BLINK_SECONDS: Final = 2.0
_DOWN_SECONDS: Final = 1.0
# The kernels of both ends answer for a proxy that is cut: it takes a lease until others take over.
_LEASE_SECONDS_BEHIND_PROXIES: Final = 6.0


async def perform(options: Options, places: Places, screen: Screen) -> bool:
    """Perform it all; return whether the checker is content."""
    plan = options.plan()
    _introduce(plan, options, screen)
    host, network = ("0.0.0.0", NETWORK) if options.has_namespaces else ("127.0.0.1", "")
    lease_seconds = LEASE_SECONDS if options.has_namespaces else _LEASE_SECONDS_BEHIND_PROXIES
    numbers = itertools.count(1)
    with places.open_serving_log() as errors:
        async with (
            open_database(places.postgres, network) as database,
            open_services(places, options.seed, host) as ports,
            open_machines(options.machines, has_namespaces=options.has_namespaces) as machines,
        ):
            async with trio.open_nursery() as nursery:
                fleet = []
                for number, machine in enumerate(machines, 1):
                    store, object_store, shop = [await machine.reach(port) for port in (database.port, *ports)]
                    serving = Serving(
                        nursery=nursery,
                        prefix=machine.prefix,
                        places=places,
                        store=database.url_at(*store),
                        object_store=f"{object_store[0]}:{object_store[1]}",
                        shop=f"{shop[0]}:{shop[1]}",
                        errors=errors,
                        numbers=numbers,
                        lease_seconds=lease_seconds,
                    )
                    fleet.append(_Station(f"machine {number}", machine, serving))
                async with Engine(database.url) as client:
                    with Ledger(database.url) as ledger:
                        show = Show(client, plan, ledger, screen, portions=len(plan.troubles) + 1)
                        chance = random.Random(f"troubles {options.seed}")
                        maker = _Troublemaker(show, plan, fleet, database, ledger, screen, chance)
                        await show.run(maker.run)
                    remembered = await show.choose_timeline()
                async with trio.open_nursery() as stopping:
                    for station in fleet:
                        stopping.start_soon(station.serving.stop)
                screen.event("■", f"SIGTERM to the {len(fleet)} processes: they drained, exit code 0")
            is_content = await check(options, places, screen, database.url)
    conclude(is_content, remembered, show.troubles, options, screen)
    return is_content


def _introduce(plan: Plan, options: Options, screen: Screen) -> None:
    how = "in network namespaces of their own" if options.has_namespaces else "behind proxies, which can be cut"
    screen.line("durable_trio: kill it, cut it off, and nothing is lost", "bold")
    introduce(plan, screen)
    screen.line(f"  {options.machines} machines do it, {how}, on one PostgreSQL.")
    screen.line(
        f"  They are killed, they are cut off from it, and it crashes: {counted(len(plan.troubles), 'trouble')}."
    )
    screen.line(f"  The plan is that of --seed {options.seed}.", "dim")
    screen.line()


@attrs.frozen
class _Station:
    """A machine and what serves there."""

    name: str
    machine: Machine
    serving: Serving

    @property
    def pid(self) -> int:
        return self.serving.process.pid


@attrs.frozen
class _Work:
    """What an executor was at: the numbers of runs that were going on."""

    executor: int
    runs: list[int]


@attrs.frozen
class _Troublemaker:
    """Makes the troubles of the plan, one after the other, and tells what becomes of each."""

    _show: Show
    _plan: Plan
    _fleet: Sequence[_Station]
    _database: Database
    _ledger: Ledger
    _screen: Screen
    _chance: random.Random

    async def run(self) -> None:
        for station in self._fleet:
            await station.serving.start()
        await self._show.until(lambda sample: all(station.pid in sample.serving_pids for station in self._fleet))
        self._screen.event("✓", f"{len(self._fleet)} machines serve", "green")
        make: Mapping[Trouble, Callable[[str], Awaitable[None]]] = {
            Trouble.KILL: self._kill,
            Trouble.CUT: self._cut,
            Trouble.BLINK: self._blink,
            Trouble.CRASH: self._crash,
        }
        for number, (part, trouble) in enumerate(zip(self._plan.kills, self._plan.troubles, strict=True), 1):
            await self._show.until(lambda sample, part=part: self._show.part(sample) >= part)  # type: ignore[misc]
            await trio.sleep(self._chance.uniform(0, 2 * LOOK_SECONDS))
            self._show.note_trouble()
            await make[trouble](f"no. {number}:")
            self._show.note_end()

    async def _kill(self, number: str) -> None:
        station = self._victim()
        pid = station.pid
        began = trio.current_time()
        await station.serving.kill()
        work = self._work_of(pid)
        self._screen.event("✗", f"{number} kill -9 to {station.name}, {self._at(work)}", "red")
        await self._until_others_go_on(work)
        self._good(began, "they go on on other machines" if work.runs else "it is declared dead")
        await station.serving.start()
        await self._show.until(lambda sample: station.pid in sample.serving_pids)

    async def _cut(self, number: str) -> None:
        station = self._victim()
        began = trio.current_time()
        await station.machine.cut()
        work = self._work_of(station.pid)
        self._screen.event("✗", f"{number} {station.name} is cut off, {self._at(work)}", "red")
        await self._until_others_go_on(work)
        self._good(began, "they go on on other machines" if work.runs else "it is declared dead")
        await station.machine.mend()
        began = trio.current_time()
        query = "SELECT 1 FROM executors WHERE pid = ? AND id > ? AND ended_at IS NULL"
        await self._until(query, station.pid, work.executor)
        self._good(began, "the cable is back, and it serves, as another executor")

    async def _blink(self, number: str) -> None:
        station = self._victim()
        await station.machine.cut()
        work = self._work_of(station.pid)
        ((before,),) = self._ledger.ask("SELECT count(*) FROM history WHERE run = ANY(?)", work.runs)
        what = f"is cut off for {_BLINK_SECONDS:g} s, {self._at(work)}"
        self._screen.event("✗", f"{number} {station.name} {what}", "red")
        await trio.sleep(_BLINK_SECONDS)
        await station.machine.mend()
        began = trio.current_time()
        if work.runs:
            query = """
                SELECT 1 WHERE (SELECT count(*) FROM history WHERE run = ANY(?)) > ?
                    OR NOT EXISTS (SELECT 1 FROM runs WHERE run = ANY(?) AND finished_at IS NULL)
            """  # one that has had all its steps has only its end left
            await self._until(query, work.runs, before, work.runs)
        self._good(began, f"the cable is back, and it goes on{self._dead((work.executor,))}")

    async def _crash(self, number: str) -> None:
        executors = [executor for (executor,) in self._ledger.ask("SELECT id FROM executors WHERE ended_at IS NULL")]
        began = trio.current_time()
        await self._database.crash()
        at_death = self._show.sample
        self._screen.event("✗", f"{number} SIGQUIT to the server, {counted(at_death.owned, 'run')} under way", "red")
        await trio.sleep(_DOWN_SECONDS)
        await self._database.start()
        at_start = self._show.look()
        await self._show.until(lambda sample: self._show.has_gone_on(sample, at_start))
        self._good(began, f"it is back, and they go on{self._dead(executors)}")
        # Who is killed before it has its lock again, as all stores have one, is missed only after its lease.
        query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' HAVING count(*) > ?"
        await self._until(query, len(self._fleet))

    # ---- looking -----------------------------------------------------------------------------------------------

    def _victim(self) -> _Station:
        """Return a machine that has something to do, if one has."""
        query = "SELECT DISTINCT pid FROM executors JOIN runs ON owner = executors.id WHERE status = 'running'"
        busy = {pid for (pid,) in self._ledger.ask(query)}
        return self._chance.choice([each for each in self._fleet if each.pid in busy] or self._fleet)

    def _work_of(self, pid: int) -> _Work:
        # None is its own: it is claimed and written by executors.
        ((executor,),) = self._ledger.ask("SELECT max(id) FROM executors WHERE pid = ?", pid)
        query = "SELECT run FROM runs WHERE owner = ? AND status IN ('pending', 'running', 'compensating')"
        return _Work(executor, [run for (run,) in self._ledger.ask(query, executor)])

    def _at(self, work: _Work) -> str:
        return f"at {counted(len(work.runs), 'run')}"

    async def _until_others_go_on(self, work: _Work) -> None:
        """Wait until the executor is declared dead, and one of its runs has gone on elsewhere."""
        await self._until("SELECT 1 FROM executors WHERE id = ? AND ended_at IS NOT NULL", work.executor)
        if work.runs:
            query = "SELECT 1 FROM runs WHERE run = ANY(?) AND (owner <> ? OR finished_at IS NOT NULL) LIMIT 1"
            await self._until(query, work.runs, work.executor)

    async def _until(self, query: str, *values: object) -> None:
        while not self._ledger.ask(query, *values):  # noqa: ASYNC110  # nobody tells
            await trio.sleep(LOOK_SECONDS)

    def _dead(self, executors: Sequence[int]) -> str:
        query = "SELECT count(*) FROM executors WHERE id = ANY(?) AND ended_at IS NOT NULL"
        ((count,),) = self._ledger.ask(query, list(executors))
        return f", {count} declared dead" if count else ", none declared dead"

    def _good(self, began: float, text: str) -> None:
        self._screen.event("✓", f"{text}, after {trio.current_time() - began:.2f} s", "green")
