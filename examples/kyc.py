"""Finance: know your customer. Screen who wants an account, and have a person decide where it is not clear.

    python examples/kyc.py [FOLDER] [--speed FACTOR]

Four people want an account: one is fine, two are reviewed by hand, one is on a sanctions list. To be turned away is a
result like any other, no failure of the run. The provider of screenings is busy when it is asked for the first time.
Stop it at any instant, even with ``kill -9``: the same command goes on, nobody is screened or reviewed twice, and a
decision that has been accepted is not lost. ``provider.db`` in the folder tells for what the provider took its fee.
"""

import argparse
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum
from pathlib import Path

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Retry, Run, RunFinished, current_step, open_engine, workflow

REVIEW_TAKES = timedelta(hours=4)
REVIEW_WITHIN = timedelta(days=7)
PATIENTLY = Retry.exponential(8, initial_delay=0.2, max_delay=5, on=OSError)


class Risk(Enum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True)
class Applicant:
    name: str
    born: date


@dataclass(frozen=True)
class Screening:
    risk: Risk
    lists: frozenset[str]  # that name the applicant


@dataclass(frozen=True)
class Decision:
    is_approved: bool
    reviewer: str


@dataclass(frozen=True)
class Opened:
    risk: Risk
    reviewer: str | None = None


@dataclass(frozen=True)
class Rejected:
    reasons: tuple[str, ...]


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("kyc-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 7200  # how much faster than real time people work


settings = Settings()


@workflow
async def open_account(ctx: Context, applicant: Applicant) -> Opened | Rejected:
    screening = await ctx.step("screen", screen, applicant, retry=PATIENTLY)
    reasons = tuple(sorted(screening.lists))
    if screening.risk is Risk.LOW:
        return Opened(screening.risk)
    if screening.risk is Risk.HIGH:
        return Rejected(reasons)
    await ctx.publish("to be reviewed", list(reasons))
    decision = await ctx.wait_signal("decision", Decision, timeout=REVIEW_WITHIN / settings.speed)
    return Opened(screening.risk, decision.reviewer) if decision.is_approved else Rejected(reasons)


# ---- provider and reviewer: elsewhere in real life ---------------------------------------------------------------

FOUND = {
    "Grace": Screening(Risk.MEDIUM, frozenset({"politicians"})),
    "Eve": Screening(Risk.MEDIUM, frozenset({"bankrupt", "sued"})),
    "Mallory": Screening(Risk.HIGH, frozenset({"sanctions"})),
}
BUSY = iter([True])  # when it is asked for the first time


def screen(applicant: Applicant) -> Screening:
    """The provider takes a fee for each key: the same in every attempt of a step, in whatever process."""
    if next(BUSY, False):
        say(f"{applicant.name}: the provider is busy at attempt {current_step().attempt}")
        raise ConnectionError("the provider is busy")
    with closing(sqlite3.connect(settings.folder / "provider.db")) as ledger, ledger:
        ledger.execute("CREATE TABLE IF NOT EXISTS fees (key TEXT PRIMARY KEY, name TEXT, born TEXT)")
        row = (current_step().idempotency_key, applicant.name, applicant.born.isoformat())
        ledger.execute("INSERT INTO fees VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
    screening = FOUND.get(applicant.name, Screening(Risk.LOW, frozenset()))
    say(f"{applicant.name}: {screening.risk.value} risk")
    return screening


async def review(run: Run[Opened | Rejected]) -> None:
    """Decide after some hours, if there is something to decide. Sent again after a crash, it is known by its id."""
    async with run.watch() as changes:
        async for record in changes:
            if record.status.is_final:
                return
            if "to be reviewed" in record.values:
                break
    await trio.sleep(REVIEW_TAKES.total_seconds() / settings.speed)
    with suppress(RunFinished):
        await run.signal("decision", Decision(is_approved=run.id == "Grace", reviewer="Joan"), id="decision")
        say(f"{run.id}: reviewed by hand")


# ---- the program -------------------------------------------------------------------------------------------------

BORN = {"Ada": date(1985, 12, 10), "Grace": date(1976, 12, 9), "Eve": date(1990, 1, 1), "Mallory": date(1991, 2, 3)}


async def main() -> None:
    async with open_engine(settings.db or settings.folder / "app.db", workflows=[open_account]) as engine:
        runs = [await engine.start(open_account, Applicant(name, born), id=name) for name, born in BORN.items()]
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(review, run)
        for run in runs:
            say(f"{run.id}: {await run.result()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Accounts that survive kill -9.")
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
