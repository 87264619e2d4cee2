"""Finance: move money between customers, or give it back.

    python examples/transfer.py [FOLDER] [--speed FACTOR]

Three transfers: one goes well, one is more than the payer has, one is stopped by the fraud check when the money is on
hold already. The postings are a table in the engine's own file, written by ``ctx.transaction``: each exactly once,
together with the record of its step. Stop it at any instant, even with ``kill -9``: the same command goes on, and no
cent is lost. ``bureau.db`` in the folder tells for what the fraud bureau took its fee.
"""

import argparse
import time
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Engine, Retry, Run, RunFailed, current_step, open_engine, sqlite3, workflow

CHECK_TAKES = timedelta(seconds=20)
PATIENTLY = Retry.exponential(8, initial_delay=0.2, max_delay=5, on=OSError)  # the bureau is busy now and then
VAULT, ON_HOLD = "the bank", "on hold"


@attrs.frozen
class Transfer:
    payer: str
    payee: str
    amount: Decimal
    text: str


class Refused(Exception):
    """The transfer is not made."""


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("transfer-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 60  # how much faster than real time the bureau is
    bank: Engine = attrs.field(init=False)


settings = Settings()


@workflow
async def transfer(ctx: Context, wanted: Transfer) -> None:
    """Money is with the payer, on hold, or with the payee. If it fails in between, the engine calls ``give_back``."""
    await ctx.transaction("hold", hold, wanted, compensate=give_back, compensate_retry=Retry.exponential(8))
    await ctx.step("check for fraud", check_for_fraud, wanted, retry=PATIENTLY)
    await ctx.transaction("credit", post, ON_HOLD, wanted.payee, wanted.amount)


def hold(db: sqlite3.Connection, wanted: Transfer) -> Transfer:
    """Take the money from the payer. It raises, or its rows and its record are committed together."""
    if balance(db, wanted.payer) < wanted.amount:
        raise Refused(f"{wanted.payer} does not have {wanted.amount}")
    post(db, wanted.payer, ON_HOLD, wanted.amount)
    return wanted


def give_back(held: Transfer) -> None:
    """Undo ``hold``. A compensation is a step, which may run twice: its posting's key makes that one posting."""
    with closing(settings.bank.connect()) as db, db:
        post(db, ON_HOLD, held.payer, held.amount)


def post(db: sqlite3.Connection, payer: str, payee: str, amount: Decimal, key: str | None = None) -> None:
    row = (key or current_step().idempotency_key, payer, payee, int(amount * 100))
    if execute(db, "INSERT INTO postings VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING", row).rowcount == 1:
        say(f"{payer} -> {payee}: {amount}")


def balance(db: sqlite3.Connection, name: str) -> Decimal:
    signed = "SELECT coalesce(sum(CASE WHEN payee = ? THEN cents ELSE -cents END), 0) FROM postings"
    (cents,) = execute(db, f"{signed} WHERE ? IN (payee, payer)", (name, name)).fetchone()
    return Decimal(cents).scaleb(-2)


def execute(db: sqlite3.Connection, statement: str, row: tuple[Any, ...]) -> sqlite3.Cursor:
    """A file takes ``?`` for a value; a server takes ``%s``, as its connections do."""
    return db.execute(statement.replace("?", "%s") if settings.db else statement, row)


# ---- the fraud bureau: another company, and its service, in real life --------------------------------------------

BUSY = iter([True])  # when it is asked for the first time


def check_for_fraud(wanted: Transfer) -> None:
    """The bureau takes a fee for each key: the same in every attempt of a step, in whatever process."""
    time.sleep(CHECK_TAKES.total_seconds() / settings.speed)
    if next(BUSY, False):
        say(f"{wanted.payer}: the bureau is busy at attempt {current_step().attempt}")
        raise ConnectionError("the bureau is busy")
    with closing(sqlite3.connect(settings.folder / "bureau.db")) as ledger, ledger:
        ledger.execute("CREATE TABLE IF NOT EXISTS fees (key TEXT PRIMARY KEY, text TEXT)")
        row = (current_step().idempotency_key, wanted.text)
        ledger.execute("INSERT INTO fees VALUES (?, ?) ON CONFLICT DO NOTHING", row)
    say(f"{wanted.payer}: the bureau has looked at {wanted.text!r}")
    if "gift card" in wanted.text:
        raise Refused("it looks like fraud")


# ---- the program -------------------------------------------------------------------------------------------------

TRANSFERS = {
    "transfer-1": Transfer("Ada", "Grace", Decimal("120.05"), "rent"),
    "transfer-2": Transfer("Ada", "Grace", Decimal("10000.00"), "a yacht"),
    "transfer-3": Transfer("Grace", "Ada", Decimal("80.00"), "buy gift cards, quick"),
}


async def main() -> None:
    path = settings.db or settings.folder / "app.db"
    async with Engine(path) as settings.bank:
        with closing(settings.bank.connect()) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS postings (key TEXT PRIMARY KEY, payer TEXT, payee TEXT, cents INT)")
            for name in ("Ada", "Grace"):
                post(db, VAULT, name, Decimal("500.00"), key=f"{name}'s first deposit")
        async with open_engine(path, workflows=[transfer]) as engine:
            runs = [await engine.start(transfer, wanted, id=name) for name, wanted in TRANSFERS.items()]
            lines = [await ending(run) for run in runs]
        with closing(settings.bank.connect()) as db:
            lines += [f"{name} has {balance(db, name)}" for name in ("Ada", "Grace", ON_HOLD, VAULT)]
    say("\n".join(lines))


async def ending(run: Run[None]) -> str:
    try:
        await run.result()
        return f"{run.id}: done"
    except RunFailed as failure:
        return f"{run.id}: {failure.error}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Transfers of money that survive kill -9.")
    parser.add_argument("folder", type=Path, nargs="?", default=settings.folder)
    parser.add_argument(
        "--db", metavar="URL", default=settings.db, help="PostgreSQL for the runs; default: app.db there"
    )
    parser.add_argument("--speed", type=float, default=settings.speed, help="default: %(default)g times real time")
    if not parser.parse_args(namespace=settings).speed > 0:
        parser.error("--speed must be more than 0")
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        say("Stopped. The same command goes on from here.")
