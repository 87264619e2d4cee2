"""Rehearses ten thousand live runs of the ten examples: against faulty changes, a right one, and a stopwatch.

    python scripts/rehearsal.py [--runs 10000] [--folder FOLDER]

The examples' workflows run as they are; the world around them is exchanged for one that answers at once, or not until
tomorrow. A thousand runs are made so, and copied. Then it is seen that each fault is found with its exact count, that
none is invented for the right change, that the file stays as it is, and how fast that goes, beside the rate at which
the same runs resume when they are served.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from durable_trio import Context, Engine, Observer, Rehearsal, RunResumed, Workflow, open_engine, sqlite3, workflow
from examples import (
    agent,
    checkout,
    data_migration,
    device_provisioning,
    file_sync,
    kyc,
    offline_queue,
    patient_onboarding,
    resumable_script,
    transfer,
)

#: Runs that are really executed; the others are copies of them.
_MADE: Final = 1000
_TOMORROW: Final = 86400.0
_SECONDS_MAX: Final = 600.0


class NotNow(OSError):
    """The world does not answer until tomorrow."""

    retry_after = _TOMORROW


def not_now(*_: object) -> NoReturn:
    raise NotNow


# ---- the examples, in a world of their own -------------------------------------------------------------------------


@workflow
async def royalties(ctx: Context) -> None:
    """The script that needs no workflow is one here, for a script has no code that could be rehearsed."""
    await resumable_script.report_royalties(ctx)


ALL: Final[dict[str, Workflow[..., Any]]] = {
    each.name: each
    for each in (
        agent.agent,
        checkout.checkout,
        data_migration.convert,
        device_provisioning.provision,
        file_sync.upload,
        kyc.open_account,
        offline_queue.outbox,
        offline_queue.deliver,
        patient_onboarding.onboard,
        patient_onboarding.prescribe,
        royalties,
        transfer.transfer,
    )
}


def partner(action: str, subject: str, detail: str = "") -> str:
    if action == "refund" or (action, detail) == ("settle", ""):
        raise NotNow
    if detail == "Atlantis":
        raise checkout.Refused("no courier goes to Atlantis")
    return f"{subject}/{action}"


def chunk(file: file_sync.File, number: int) -> None:
    if number == file.chunk_count:
        raise NotNow


def screen(applicant: kyc.Applicant) -> kyc.Screening:
    return kyc.Screening(kyc.Risk.MEDIUM, frozenset({"sued"}))


def shop(method: str, path: str, text: str | None = None) -> Any:
    if method == "POST":
        raise NotNow
    return resumable_script.ANSWERS.get(path, [])


def enter_world(folder: Path) -> None:
    """Exchange what the examples find outside; what is left of it is in a folder."""
    resumable_script.settings.folder = folder
    agent.settings.speed = checkout.settings.speed = data_migration.settings.speed = 1
    device_provisioning.settings.speed = kyc.settings.speed = 0.01
    patient_onboarding.settings.speed = 0.01
    resumable_script.settings.speed = 1e9
    for module, name, stand_in in (
        (agent, "note", lambda *_: None),
        (checkout, "ask", partner),
        (data_migration, "back_up", lambda _: 400),
        (data_migration, "convert_batch", lambda _, after: after + 100),
        (data_migration, "switch_over", lambda _: None),
        (device_provisioning, "ask", lambda _, meter: meter),
        (file_sync, "send_chunk", chunk),
        (kyc, "screen", screen),
        (offline_queue, "ask", lambda *_: "done"),
        (patient_onboarding, "tell_hospital", lambda _: None),
        (resumable_script, "ask", shop),
        (transfer, "check_for_fraud", not_now),
        (transfer, "say", lambda _: None),
    ):
        setattr(module, name, stand_in)


async def begin(engine: Engine, number: int) -> None:
    """Start the runs of one turn, and send what they get."""
    order = checkout.Order(f"o-{number}", "a chair", Decimal(9), "card", "Norway" if number % 4 else "Atlantis")
    start = engine.start
    await start(agent.agent, "pay what is due", id=f"agent-{number}")
    await start(checkout.checkout, order, id=f"checkout-{number}")
    await start(data_migration.convert, f"book-{number}", id=f"convert-{number}")
    await start(device_provisioning.provision, f"meter-{number}", id=f"provision-{number}")
    await start(file_sync.upload, file_sync.File("a.txt", "0" * 64, 8), id=f"upload-{number}")
    await start(kyc.open_account, kyc.Applicant("Grace", date(1976, 12, 9)), id=f"open-{number}")
    await start(offline_queue.outbox, f"p-{number}", id=f"outbox-{number}")
    for message in range(6):
        await engine.send_signal(f"outbox-{number}", "message", offline_queue.Message(message, "hello"))
    orders = [patient_onboarding.Order("Ada", drug, "1") for drug in (f"a-{number}", f"b-{number}")]
    await start(patient_onboarding.onboard, f"Ada-{number}", orders, id=f"onboard-{number}")
    if number % 2:
        await engine.send_signal(f"onboard-{number}", "consent")
    await start(royalties, id=f"royalties-{number}")
    wanted = transfer.Transfer("the bank", "Grace", Decimal(1), "rent")
    await start(transfer.transfer, wanted, id=f"transfer-{number}")


async def make(path: Path, count: int) -> None:
    """Execute runs until all of them wait for tomorrow."""
    async with open_engine(path, workflows=ALL.values(), durability="normal") as engine:
        transfer.settings.bank = engine
        with closing(engine.connect()) as db, db:
            db.execute("CREATE TABLE postings (key TEXT PRIMARY KEY, payer TEXT, payee TEXT, cents INTEGER)")
            db.execute("CREATE TABLE patients (name TEXT PRIMARY KEY, status TEXT)")
            db.execute("INSERT INTO postings VALUES ('seed', 'nobody', 'the bank', 100000000)")
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(begin, engine, number)
        with trio.fail_after(_SECONDS_MAX):
            while (await engine.status()).resident_runs:  # noqa: ASYNC110  # leaving memory is no event
                await trio.sleep(0.1)


def copied(path: Path, total: int) -> int:
    """Copy unfinished runs with all their rows until there are so many; return how many there are."""
    with closing(sqlite3.connect(path)) as db:
        runs = [run for (run,) in db.execute("SELECT run FROM runs WHERE finished_at IS NULL ORDER BY run")]
        columns = {
            table: [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] not in ("run", "id")]
            for table in ("runs", "history", "waits", "mailbox", "published")
        }
        made = len(runs)
        while made < total:
            for run in runs[: total - made]:
                fields = ", ".join(columns["runs"])
                made += 1
                values = f"SELECT id || '/{made}', {fields} FROM runs WHERE run = {run}"
                db.execute(f"INSERT INTO runs (id, {fields}) {values}")
                (copy,) = db.execute("SELECT last_insert_rowid()").fetchone()
                for table in ("history", "waits", "mailbox", "published"):
                    fields = ", ".join(columns[table])
                    values = f"SELECT {copy}, {fields} FROM {table} WHERE run = {run}"
                    db.execute(f"INSERT INTO {table} (run, {fields}) {values}")
        db.commit()
        return made


# ---- changes of the code -------------------------------------------------------------------------------------------


async def _order(ctx: Context, order: checkout.Order, *, asks: Callable[[Context], bool]) -> str:
    patiently = partial(ctx.step, retry=checkout.PATIENTLY, compensate_retry=checkout.PATIENTLY)
    if asks(ctx):
        await patiently("check address", partner, "check", order.id)
    await patiently("reserve", partner, "reserve", order.id, compensate=partial(partner, "release"))
    payment = await patiently("pay", partner, "charge", order.id, order.card, compensate=partial(partner, "refund"))
    await patiently("ship", partner, "ship", order.id, order.country)
    await ctx.sleep(_TOMORROW)
    return str(await patiently("settle", partner, "settle", payment))


@workflow(name="checkout")
async def hasty_checkout(ctx: Context, order: checkout.Order) -> str:
    return await _order(ctx, order, asks=lambda _: True)


@workflow(name="checkout")
async def right_checkout(ctx: Context, order: checkout.Order) -> str:
    return await _order(ctx, order, asks=lambda ctx: ctx.patched("check address"))


@attrs.frozen
class ResidentApplicant:
    name: str
    born: date
    country: str


@attrs.frozen
class Resident:
    name: str
    born: date
    country: str = "unknown"


@workflow(name="open_account")
async def narrow_account(ctx: Context, applicant: ResidentApplicant) -> kyc.Opened | kyc.Rejected:
    return await kyc.open_account.fn(ctx, kyc.Applicant(applicant.name, applicant.born))


@workflow(name="open_account")
async def right_account(ctx: Context, applicant: Resident) -> kyc.Opened | kyc.Rejected:
    return await kyc.open_account.fn(ctx, kyc.Applicant(applicant.name, applicant.born))


@workflow(name="provision")
async def broken_provision(ctx: Context, meter: str) -> str:
    step = partial(ctx.step, retry=device_provisioning.PATIENTLY)
    await step("register", device_provisioning.ask, "register", meter, compensate=lambda _: None)
    await step("certify", device_provisioning.ask, "certify", meter, compensate=lambda _: None)
    await step("configure", device_provisioning.ask, "configure", meter)
    return meter.uper()  # type: ignore[attr-defined,no-any-return]


#: What each change is to be found with; nothing for those that are right.
CHANGES: Final[dict[str, tuple[tuple[Workflow[..., Any], ...], tuple[str, str] | None]]] = {
    "a call that was not there, without patched": ((hasty_checkout,), ("diverges", "checkout")),
    "a new field without a default": ((narrow_account,), ("does_not_fit", "open_account")),
    "a misspelt attribute": ((broken_provision,), ("raises", "provision")),
    "the first two, as they should be": ((right_checkout, right_account), None),
}


# ---- what is measured ----------------------------------------------------------------------------------------------


def content(path: Path) -> tuple[int, str]:
    """Return the change counter of a file, and a digest of all its rows."""
    with closing(sqlite3.connect(path)) as db:
        (changed,) = db.execute("SELECT changed FROM change_counter").fetchone()
        digest = hashlib.sha256()
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall():
            for row in db.execute(f"SELECT * FROM {table}"):
                digest.update(repr(row).encode())
        return int(changed), digest.hexdigest()


async def rehearse(path: Path, changes: tuple[Workflow[..., Any], ...]) -> tuple[Rehearsal, float]:
    """Rehearse with some workflows exchanged, and return what is found and the seconds it has taken."""
    known = {**ALL, **{each.name: each for each in changes}}
    # A changed workflow stands in this module, and what its steps have raised in the example's.
    async with Engine(path, workflows=known.values(), errors=[checkout.Refused]) as engine:
        began = time.perf_counter()
        found = await engine.rehearse()
        return found, time.perf_counter() - began


class Resumed(Observer):
    """Counts the runs that go on."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.all = trio.Event()

    def run_resumed(self, event: RunResumed) -> None:
        self._left -= 1
        if self._left == 0:
            self.all.set()


async def resume(path: Path, count: int) -> float:
    """Serve the runs, all of which are made due, and return the seconds until all have gone on."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE runs SET wake_at = 0, is_due = 1 WHERE finished_at IS NULL AND owner IS NULL")
    resumed = Resumed(count)
    engine = Engine(path, workflows=ALL.values(), observers=[resumed], durability="normal", grace_seconds=0)
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        transfer.settings.bank = engine
        with trio.fail_after(_SECONDS_MAX):
            await resumed.all.wait()
        seconds = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return seconds


def main() -> int:
    """Make the file, rehearse, and say whether all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="Where the file is made; default a temporary one.")
    arguments = parser.parse_args()
    logging.getLogger("durable_trio").setLevel(logging.CRITICAL)  # of attempts that fail on purpose
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=arguments.folder) as folder:
        enter_world(Path(folder))
        path = Path(folder) / "app.db"
        trio.run(make, path, max(1, min(_MADE, arguments.runs) // 12))
        count = copied(path, arguments.runs)
        with closing(sqlite3.connect(path)) as db:
            by_workflow = dict(
                db.execute("SELECT workflow, count(*) FROM runs WHERE finished_at IS NULL GROUP BY workflow").fetchall()
            )
        print(f"{count:,} unfinished runs: {', '.join(f'{n:,} {name}' for name, n in sorted(by_workflow.items()))}")
        shutil.copyfile(path, served := Path(folder) / "served.db")
        is_right = _rehearse_all(path, by_workflow)
        found, seconds = trio.run(rehearse, path, ())
        is_right = is_right and found.all_go_on and found.count == count
        resumed = trio.run(resume, served, count)
    rate, rate_resumed = count / seconds, count / resumed
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, n = {count:,}")
    print(f"rehearsed {rate:,.0f}/s, resumed {rate_resumed:,.0f}/s: {rate / rate_resumed:.2f} times as fast")
    print("all is as it should be" if is_right else "something is WRONG")
    return int(not is_right)


def _rehearse_all(path: Path, by_workflow: dict[str, int]) -> bool:
    before, is_right = content(path), True
    for name, (changes, expected) in CHANGES.items():
        found, seconds = trio.run(rehearse, path, changes)
        refused = [group for group in found.groups if group.verdict != "goes_on"]
        told = [(group.verdict.value, group.workflow, group.count) for group in refused]
        wanted = [] if expected is None else [(*expected, by_workflow.get(expected[1], 0))]
        is_right = is_right and told == wanted and content(path) == before
        print(f"{name}: {told or 'all go on'} in {seconds:.1f} s{'' if told == wanted else f', NOT {wanted}'}")
        for group in refused:
            print(f"    {group.cause}")
    print(f"the file is {'as it was' if content(path) == before else 'CHANGED'}, at change {before[0]:,}")
    return is_right


if __name__ == "__main__":
    sys.exit(main())
