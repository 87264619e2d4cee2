"""Healthcare: a patient is registered and consents, and each prescription is approved in time, escalated, or lapses.

    python examples/patient_onboarding.py [FOLDER] [--speed FACTOR]

Ada consents. Of her prescriptions one is approved by her doctor, one by the senior physician, and for one there is only
a nurse's word, so it lapses. Ben does not consent in time, and is forgotten. Stop it at any instant, even with
``kill -9``: the deadlines go on meanwhile, and nothing is asked or dispensed twice. Patients are rows in ``app.db``,
written by ``ctx.transaction``; ``hospital.db`` in the folder tells who was paged and what was dispensed.
"""

import argparse
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Engine, RunFinished, current_step, open_engine, sqlite3, workflow

CONSENT_WITHIN = timedelta(hours=2)
ESCALATION = {"Dr. Adler": timedelta(hours=1), "Dr. Brandt": timedelta(hours=1)}


@attrs.frozen
class Order:
    patient: str
    drug: str
    dose: str


@attrs.frozen
class Decision:
    by: str
    is_approved: bool


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("patient_onboarding-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 1800  # how much faster than real time it waits


settings = Settings()


@workflow
async def onboard(ctx: Context, patient: str, orders: list[Order]) -> str:
    await ctx.transaction("register", change, "INSERT INTO patients VALUES (?, 'registered')", patient)
    with ctx.move_on_after(CONSENT_WITHIN / settings.speed) as deadline:
        await ctx.wait_signal("consent")
    if deadline.cancelled_caught:
        await ctx.transaction("forget", change, "DELETE FROM patients WHERE name = ?", patient)
        return "no consent, nothing is kept"
    await ctx.transaction("admit", change, "UPDATE patients SET status = 'admitted' WHERE name = ?", patient)
    children = [await ctx.start_child(prescribe, order, id=f"{patient}-{order.drug}") for order in orders]
    return "admitted; " + ", ".join([await child.result() for child in children])


@workflow
async def prescribe(ctx: Context, order: Order) -> str:
    decision = await decide(ctx, order)
    if decision is None:
        return f"{order.drug} lapsed"
    if decision.is_approved:
        await ctx.step("dispense", tell_hospital, f"{order.drug} {order.dose} dispensed to {order.patient}")
    return f"{order.drug} {'approved' if decision.is_approved else 'denied'} by {decision.by}"


async def decide(ctx: Context, order: Order) -> Decision | None:
    """Ask one after the other, each with a deadline of its own, for a doctor's word."""
    for doctor, within in ESCALATION.items():
        await ctx.step("page", tell_hospital, f"{doctor} is paged: {order.drug} for {order.patient}?")
        await ctx.publish("asked", doctor)
        with ctx.move_on_after(within / settings.speed):
            while True:
                decision = await ctx.wait_signal("decision", Decision)
                if decision.by in ESCALATION:
                    return decision
                await ctx.publish("refused", decision.by)  # and the time that is left goes on
    return None


def change(db: sqlite3.Connection, statement: str, patient: str) -> None:
    """Change the patient's row: in one transaction with the record of the step, so exactly once."""
    db.execute(statement.replace("?", "%s") if settings.db else statement, (patient,))  # as its driver wants it


# ---- the hospital: systems and people of their own in real life ---------------------------------------------------


def tell_hospital(what: str) -> None:
    """Page or dispense. The key is the same in every attempt of a step, so it is done once."""
    with closing(sqlite3.connect(settings.folder / "hospital.db")) as ledger, ledger:
        ledger.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, what TEXT)")
        row = (current_step().idempotency_key, what)
        ledger.execute("INSERT INTO done VALUES (?, ?) ON CONFLICT DO NOTHING", row)
    say(what)


ANSWERS = {  # what comes back when somebody was paged for a drug
    ("Dr. Adler", "amoxicillin"): Decision("Dr. Adler", is_approved=True),
    ("Dr. Adler", "morphine"): Decision("Nurse Cole", is_approved=True),
    ("Dr. Brandt", "warfarin"): Decision("Dr. Brandt", is_approved=True),
}


async def answer_pages(engine: Engine) -> None:
    """See who is asked for what, and send the answer. Sent again after a crash, it is known by its id."""
    async with engine.watch(workflow=prescribe) as changes:
        async for record in changes:
            doctor, order = str(record.values.get("asked")), record.args[0]
            if (doctor, order.drug) in ANSWERS:
                with suppress(RunFinished):
                    await engine.send_signal(record.id, "decision", ANSWERS[doctor, order.drug], id=doctor)


# ---- the program -------------------------------------------------------------------------------------------------

ORDERS = [Order("Ada", "amoxicillin", "500 mg"), Order("Ada", "warfarin", "5 mg"), Order("Ada", "morphine", "10 mg")]


async def main() -> None:
    async with open_engine(settings.db or settings.folder / "app.db", workflows=[onboard, prescribe]) as engine:
        with closing(engine.connect()) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS patients (name TEXT, status TEXT)")
        ada = await engine.signal_with_start(onboard, "Ada", ORDERS, id="Ada", signal="consent", signal_id="form 1")
        runs = [ada, await engine.start(onboard, "Ben", [], id="Ben")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pages, engine)
            lines = [f"{run.id}: {await run.result()}" for run in runs]
            nursery.cancel_scope.cancel()
    say("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Onboarding of patients that survives kill -9.")
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
