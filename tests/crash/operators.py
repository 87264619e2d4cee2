"""The hour of an operator: code that changes under runs, deploys good and bad, and workers that are killed meanwhile.

Two servers with two workers each, as real processes, serve one folder whose files change. What an operator sees and
does goes through the command line. Each deploy has a worker killed in its middle.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

import trio

from durable_trio import Engine, RunStatus
from durable_trio.testing.snapshots import connect
from tests.cli.desk import Said, call, command_line, surroundings
from tests.cli.server import Server, field, kill, serving, workers_of
from tests.kit import forks

_WORKERS: Final = 2

_SHOP: Final = '''
"""A shop; this is its code {code}."""
import os
from pathlib import Path
from durable_trio import Context, Engine, SignalTimeout, current_step, workflow

FOLDER = Path(__file__).parent
CODE = "{code}"

def note(file: str, *words: object) -> None:
    descriptor = os.open(FOLDER / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, ("\\t".join(map(str, words)) + "\\n").encode())
    os.close(descriptor)

note("codes.txt", os.getpid(), CODE)

async def act(what: str) -> str:
    step = current_step()
    note("effects.txt", step.run_id, what, step.idempotency_key)
    return what

@workflow
async def order(ctx: Context) -> list[str]:
    done = [await ctx.step("charge", act, "charge")]
    await ctx.wait_signal("paid")
{change}
    day = 0
    while True:
        done.append(await ctx.step("pack", act, f"pack {{day}}"))
        day += 1
        try:
            await ctx.wait_signal("confirmed", timeout={tick_seconds})
            break
        except SignalTimeout:
            pass
    return [*done, await ctx.step("ship", act, "ship")]

engine = Engine(FOLDER / "shop.db", workflows=[order], grace_seconds=5, durability="normal")
'''

_WEIGH: Final = """
    if ctx.patched("weigh it"):
        done.append(await ctx.step("weigh", act, "weigh"))
"""
_INSURE: Final = """
    {asks}done.append(await ctx.step("insure", act, "insure"))
"""
_ASKS: Final = 'if ctx.patched("insure it", recorded=("step", "insure")): '
_CHANGES: Final = {
    "first": "",
    "second": _WEIGH,
    "bad": _INSURE.format(asks="") + _WEIGH,
    "broken": "    if (\n",
    "mended": _INSURE.format(asks=_ASKS) + _WEIGH,
}


class Violation(AssertionError):
    """Something that must hold does not."""


def must(condition: object, text: object) -> None:
    """Raise a Violation unless something is so."""
    if not condition:
        raise Violation(text)


class Effects:
    """What steps have done in the world, as a log outside of the store tells."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.keys: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # of each run and effect

    def look(self) -> None:
        """Read what was added."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                run_id, what, key = line.decode().rstrip("\n").split("\t")
                self.keys[run_id][what].add(key)
                self._read += len(line)

    def days(self, run_id: str) -> int:
        """On how many days a run was packed."""
        return sum(what.startswith("pack") for what in self.keys[run_id])


class OperatorHour:
    """One hour. ``go`` raises a Violation at the first thing that is not as it must be."""

    def __init__(self, folder: Path, *, runs: int, seconds: float = 0.0, say: Callable[[str], object] = print) -> None:
        """``seconds``: how long runs go on undisturbed between what the operator does, in all."""
        self._folder = folder
        self._db = str(folder / "shop.db")
        self._runs = runs
        self._pause_seconds = seconds / 6
        self._tick_seconds = max(0.5, runs / 150)  # so many runs at work as two cores bear
        self._patience_seconds = 60 + 20 * self._tick_seconds
        self._say = say
        self._began = time.monotonic()
        self._effects = Effects(folder / "effects.txt")
        self._ways: dict[str, set[frozenset[str]]] = {}  # by run: the ways that it may have taken
        self._servers: list[Server] = []
        self._kills = 0

    def go(self) -> None:
        """Have the hour."""
        with ExitStack() as stack:
            self._writes("first")
            for name in ("a", "b"):
                (self._folder / name).mkdir()
                options = ("--workers", str(_WORKERS))
                served = serving(self._folder / name, *options, app="shop:engine", cwd=self._folder)
                self._servers.append(stack.enter_context(served))
            for server in self._servers:
                server.says("event=worker_started", _WORKERS)
            early, late = self._starts_first()
            rolled = self._rolls(early | late)
            insured = self._deploys_badly(early, late | rolled)
            self._reloads_a_broken_file(insured)
            self._mends(early, late | rolled | insured)
            self._ends_all()
            for server in self._servers:
                server.process.terminate()
            must([server.ends() for server in self._servers] == [0, 0], "a server has not drained")
        self._judges()

    # ---- the phases --------------------------------------------------------------------------------------------------

    def _starts_first(self) -> tuple[set[str], set[str]]:
        early = self._starts("early", self._runs // 4, {"insure", "weigh"})
        late = self._starts("late", self._runs // 4, set())
        self._pays(late)
        self._sees(f"{len(early) + len(late)} runs under way with the first code")
        return early, late

    def _rolls(self, runs: set[str]) -> set[str]:
        """From the first code to the second, which is right, one server after the other."""
        a, b = self._servers
        self._writes("second")
        self._kills_with_changed_files(b, {"first": 3})
        said = self._rehearses()
        must(said.code == 0, said)
        must(_counts(said) == {"goes_on": len(runs)}, said)
        self._reloads(a)
        mixed = self._starts("mixed", self._runs // 8, {"weigh"}, set())
        self._pays(mixed)
        self._expects_codes({"first": 1, "second": 2})
        self._expects_parked(set())
        self._reloads(b, kills_new=True)
        weighed = self._starts("weighed", self._runs // 8, {"weigh"})
        self._pays(weighed)
        self._expects_codes({"second": 4})
        self._pauses()
        self._sees("rolled over to the second code")
        return mixed | weighed

    def _deploys_badly(self, early: set[str], runs: set[str]) -> set[str]:
        """A third code, which a rehearsal finds bad; it is served all the same. Return the runs that it has begun."""
        a, b = self._servers
        self._writes("bad")
        said = self._rehearses()
        must(said.code == 1, said)
        must(_counts(said) == {"goes_on": len(early), "diverges": len(runs)}, said)
        bad = [group for group in said.json["groups"] if group["verdict"] == "diverges"]
        must(all("the code waits in step insure" in group["cause"] for group in bad), said)
        self._sees(f"the rehearsal has found {len(runs)} runs that the bad code does not fit, of {len(early | runs)}")
        refused = self._reloads(a, "--rehearse", code=1)
        must(f"{len(runs)} of {len(early | runs)} unfinished runs do not go on" in refused.err, refused)
        self._expects_codes({"second": 3})  # and the worker that was killed meanwhile has not come back with other code
        self._reloads(a)
        self._kills_with_changed_files(b, {"second": 1, "bad": 2})
        mixed = self._starts("risky", self._runs // 8, {"weigh"}, {"weigh", "insure"})
        self._pays(mixed)
        self._goes_on(runs)
        self._expects_parked(set())
        self._sees("one server has the bad code: the other serves what that refuses")
        self._reloads(b, kills_new=True)
        insured = self._starts("insured", self._runs // 8, {"weigh", "insure"})
        self._pays(insured)
        self._expects_codes({"bad": 4})
        self._pauses()
        taken = {run_id for run_id in mixed if "insure" in self._effects.keys[run_id]}
        self._expects_parked(runs | (mixed - taken))
        must(self._call("check").code == 1, "'check' has not found the parked runs")
        self._sees(f"the bad code is everywhere: {len(runs | (mixed - taken))} runs are parked")
        return mixed | insured

    def _reloads_a_broken_file(self, insured: set[str]) -> None:
        a, _ = self._servers
        self._writes("broken")
        said = self._reloads(a, code=1)
        must("SyntaxError" in said.err, said)
        must(said.err.endswith("nothing was changed\n"), said)
        self._expects_codes({"bad": 3})
        self._goes_on({run_id for run_id in insured if run_id.startswith("insured")})
        self._sees("a broken file has changed nothing")

    def _mends(self, early: set[str], runs: set[str]) -> None:
        a, b = self._servers
        self._writes("mended")
        said = self._rehearses()
        must(said.code == 0, said)
        must(_counts(said) == {"goes_on": len(early | runs)}, said)
        self._reloads(a, "--rehearse")
        self._reloads(b, kills_new=True)
        self._expects_codes({"mended": 4})
        self._expects_parked(set())
        self._goes_on(runs)
        self._pays(early)
        self._pauses()
        must(self._call("check").code == 0, self._call("check"))
        self._sees("the mended code has taken up all of them")

    def _ends_all(self) -> None:
        self._signals(self._ways, "confirmed")
        self._until("all have ended", self._has_ended)
        lines = self._call("versions", "--all", "--json").json["versions"]
        codes = {code["fingerprint"] for line in lines for code in line["codes"]}
        must(len(codes) == 4, f"'versions' tells {len(codes)} codes apart, and not four")

    def _judges(self) -> None:
        """Nobody serves any more: compare what was recorded, what was done, and what was logged."""
        self._effects.look()
        recorded = self._recorded()
        for run_id, ways in self._ways.items():
            done, keys = recorded[run_id], self._effects.keys[run_id]
            must(frozenset(done) & {"insure", "weigh"} in ways, f"{run_id} went a way that is not its own: {done}")
            twice = {what: found for what, found in keys.items() if len(found) != 1}
            must(not twice, f"{run_id} has done more than once: {twice}")
            must(sorted(done) == sorted(keys), f"{run_id}: recorded {sorted(done)}, done {sorted(keys)}")
        tries = self._refusals()
        again = {each: count for each, count in tries.items() if count > 1}
        must(not again, f"tried more than once by the same code: {again}")
        must({code for _, code in tries} <= {"first", "second", "bad"}, f"the mended code has refused: {tries}")
        self._sees(f"{len(self._ways)} runs have ended as they must; {self._kills} kills, {len(tries)} refusals")

    # ---- what an operator does ---------------------------------------------------------------------------------------

    def _writes(self, code: str) -> None:
        text = _SHOP.format(code=code, change=_CHANGES[code], tick_seconds=self._tick_seconds)
        (self._folder / "shop.py").write_text(text)

    def _call(self, *words: str) -> Said:
        return call("--db", self._db, *words)

    def _rehearses(self) -> Said:
        process: forks.Forked[str] = self._begins("rehearse", "shop:engine", "--json")
        out, err = process.communicate(timeout=self._patience_seconds)
        return Said(process.wait(), out, err)

    def _begins(self, *words: str) -> forks.Forked[str]:
        return forks.Forked(
            command_line("--db", self._db, *words),
            cwd=self._folder,
            env=surroundings(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _reloads(self, server: Server, *options: str, code: int = 0, kills_new: bool = False) -> Said:
        """Have a server reload, and kill one of its workers meanwhile: an old one, or the first new one."""
        old = workers_of(server)
        begun = server.err.count("event=reload_")
        with self._begins("reload", "--process", str(server.pid), *options) as process:
            server.until(lambda: server.err.count("event=reload_") > begun)
            if kills_new:
                server.until(lambda: set(workers_of(server)) - set(old))
                self._kill(max(workers_of(server).items(), key=lambda item: int(item[0].split("-")[1]))[1])
            else:
                self._kill(max(old.values()))
            out, err = process.communicate(timeout=self._patience_seconds)
        said = Said(process.wait(), out, err)
        must(said.code == code, said)
        return said

    def _kills_with_changed_files(self, server: Server, codes: dict[str, int]) -> None:
        """Kill a worker after the files have changed: what takes its place must not bring the new code along."""

        def came() -> int:
            return len(re.findall("event=worker_restarted|could not be started again", server.err))

        seen = came()
        self._kill(min(workers_of(server).values()))
        self._until("the worker has come back or stayed away", lambda: came() > seen)
        self._expects_codes(codes)

    def _kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):  # it has drained by itself
            kill(pid)
            self._kills += 1

    def _starts(self, name: str, count: int, *ways: set[str]) -> set[str]:
        ids = {f"{name}-{number}" for number in range(max(1, count))}
        self._ways |= {run_id: set(map(frozenset, ways)) for run_id in ids}

        async def start(client: Engine, run_id: str) -> None:
            await client.start("order", id=run_id)

        self._for_each(ids, start)
        self._until(f"all of {name} were charged", lambda: all("charge" in self._effects.keys[id] for id in ids))
        return ids

    def _pays(self, runs: set[str]) -> None:
        """Let runs come to their days, and wait until each has recorded the first of them."""
        self._signals(runs, "paid")
        self._until("all are packed", lambda: all(self._effects.days(run_id) >= 2 for run_id in runs))

    def _signals(self, runs: Iterable[str], name: str) -> None:
        async def send(client: Engine, run_id: str) -> None:
            await client.get(run_id).signal(name)

        self._for_each(runs, send)

    def _for_each(self, runs: Iterable[str], does: Callable[[Engine, str], Awaitable[None]]) -> None:
        async def main() -> None:
            async with Engine(self._db, durability="normal") as client, trio.open_nursery() as nursery:
                for run_id in runs:
                    nursery.start_soon(does, client, run_id)

        trio.run(main)

    def _pauses(self) -> None:
        time.sleep(self._pause_seconds)

    # ---- what an operator sees ---------------------------------------------------------------------------------------

    def _sees(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def _until(self, text: str, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + self._patience_seconds
        while True:
            self._effects.look()
            if condition():
                return
            must(time.monotonic() < deadline, f"it has not come about: {text}")
            time.sleep(0.05)

    def _goes_on(self, runs: set[str]) -> None:
        """Wait until each of these has done two more days; who does not is stranded."""
        self._effects.look()
        before = {run_id: self._effects.days(run_id) for run_id in runs}
        self._until("all go on", lambda: all(self._effects.days(id) >= days + 2 for id, days in before.items()))

    def _expects_codes(self, expected: dict[str, int]) -> None:
        """Wait until the living executors have these codes, as many each."""

        def found() -> Counter[str]:
            counts: Counter[str] = Counter()
            names, pids = self._codes(), self._executors()
            for line in self._call("versions", "--json").json["versions"]:
                for code in line["codes"]:
                    served = {names[pids[executor]] for executor in code["executors"] if executor in pids}
                    must(len(served) <= 1, f"'versions' takes {served} for the same code")
                    counts.update({name: len(code["executors"]) for name in served})
            return counts

        self._until(f"the codes are {expected}", lambda: found() == expected)

    def _expects_parked(self, expected: set[str]) -> None:
        def parked() -> set[str]:
            lines = self._call("list", "--parked", "--limit", str(self._runs * 2), "--json").json["runs"]
            return {run["id"] for run in lines}

        if expected:
            self._until("these are parked", lambda: parked() == expected)
        else:
            self._until("nobody is parked", lambda: not parked())

    def _codes(self) -> dict[int, str]:
        """Which code a process has imported last."""
        lines = (self._folder / "codes.txt").read_text().splitlines()
        return {int(pid): code for pid, code in (line.split("\t") for line in lines)}

    def _executors(self) -> dict[int, int]:
        """The pids of executors that have not ended."""
        with closing(connect(Path(self._db))) as connection:
            return dict(connection.execute("SELECT id, pid FROM executors WHERE ended_at IS NULL").fetchall())

    def _has_ended(self) -> bool:
        (found,) = self._call("stats", "--json").json["workflows"]
        return bool(found["runs_by_status"] == {RunStatus.COMPLETED.value: len(self._ways)})

    def _recorded(self) -> dict[str, list[str]]:
        """Return what each run has given back: what its steps have returned."""

        async def main() -> dict[str, list[str]]:
            async with Engine(self._db) as client:
                return {run_id: await client.get(run_id).result() for run_id in self._ways}

        return trio.run(main)

    def _refusals(self) -> Counter[tuple[str, str]]:
        """How often a code has given a run back, as the logs tell."""
        codes = self._codes()
        found: Counter[tuple[str, str]] = Counter()
        for server in self._servers:
            for line in server.err.splitlines():
                if "event=run_given_back" in line or "event=run_parked" in line:
                    found[field(line, "run_id"), codes[int(field(line, "pid"))]] += 1
        return found


def _counts(said: Said) -> dict[str, int]:
    """How many runs a rehearsal has found to go on, to diverge, and so on."""
    return {verdict: count for verdict, count in said.json["counts"].items() if count}
