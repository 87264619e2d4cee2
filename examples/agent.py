"""Agents: a language model settles invoices with tools, on a budget, and a person is asked before what is dear.

    python examples/agent.py [FOLDER] [--speed FACTOR]

The model (a script, here) reads invoices and pays them. A person decides on two payments, one of which is refused, and
grants more tokens when the budget is spent. Stop it at any instant, even with ``kill -9``: the same command goes on in
the middle of the plan. What was answered is not asked again, and no invoice is paid twice: see ``world.db``.
"""

import argparse
import sqlite3
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Run, RunFinished, current_step, open_engine, workflow

BUDGET_TOKENS, ALLOWED_EUROS = 50, 1000  # above these, a person decides
ANSWER_WITHIN, PERSON_TAKES = timedelta(days=1), timedelta(minutes=1)


@attrs.frozen
class Reply:
    text: str
    calls: list[tuple[str, str]]  # of tools, each with an argument
    tokens: int


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("agent-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 60  # how much faster than real time the person is


settings = Settings()


@workflow
async def agent(ctx: Context, task: str) -> str:
    """Think, use the tools that were asked for, and so on, until there is nothing more to do."""
    transcript = [f"Today is {ctx.now():%A}.", task]
    spent, budget = 0, BUDGET_TOKENS
    while spent < budget or await is_allowed(ctx, f"{BUDGET_TOKENS} more tokens"):
        if spent >= budget:
            budget += BUDGET_TOKENS
        reply = await ctx.step("think", think, transcript)
        spent += reply.tokens
        if not reply.calls:
            return f"{reply.text} ({spent} tokens)"
        transcript += [reply.text, *await use_tools(ctx, reply.calls)]
    return f"stopped: {spent} tokens are spent"


async def use_tools(ctx: Context, calls: list[tuple[str, str]]) -> list[str]:
    """Use them all at once, each in a branch, and return what they say in the order of the calls."""
    tools = {"read": read, "pay": pay}
    results = [""] * len(calls)

    async def use(branch: Context, place: int, tool: str, argument: str) -> None:
        is_dear = tool == "pay" and float(argument.split()[-1]) > ALLOWED_EUROS
        is_ok = not is_dear or await is_allowed(branch, f"pay {argument}")
        results[place] = await branch.step(tool, tools[tool], argument) if is_ok else f"not allowed: {argument}"

    async with ctx.open_nursery() as nursery:
        for place, (tool, argument) in enumerate(calls):
            nursery.start_soon(use, place, tool, argument, name=tool)
    return results


async def is_allowed(ctx: Context, what: str) -> bool:
    """Ask a person. The question is published under an id of its own, which is also the name of the answer's signal."""
    question = str(ctx.uuid4())
    await ctx.publish(question, what)
    answer = False
    with ctx.move_on_after(ANSWER_WITHIN / settings.speed):
        answer = await ctx.wait_signal(question, bool)
    await ctx.publish(question, None)
    return answer


# ---- model, tools and person: elsewhere in real life -------------------------------------------------------------

INVOICES = {"Acme": "120.00", "Globex": "4800.00", "Hooli": "75.50", "Initech": "310.00", "Umbrella": "9999.00"}


def think(transcript: list[str]) -> Reply:
    """What a language model would make of it. It bills each answer, also one that nobody was there to hear."""
    invoices = [line.removeprefix("invoice: ") for line in transcript if line.startswith("invoice: ")]
    text, calls = "I pay what is due.", [("pay", invoice) for invoice in invoices]
    if unread := list(INVOICES)[len(invoices) :][:3]:
        text, calls = f"I read {', '.join(unread)}.", [("read", name) for name in unread]
    if outcomes := [line for line in transcript if line.startswith(("paid: ", "not allowed: "))]:
        text, calls = f"Done. {', '.join(outcomes)}.", []
    note(f"model: {text}")
    return Reply(text, calls, tokens=sum(len(line.split()) for line in transcript))


def read(name: str) -> str:
    return f"invoice: {name} {INVOICES[name]}"


def pay(invoice: str) -> str:
    """The bank knows the key of a payment, which is the same in every attempt of a step, so it pays once."""
    note(f"bank: {invoice} is paid", current_step().idempotency_key)
    return f"paid: {invoice}"


def note(what: str, key: str | None = None) -> None:
    with closing(sqlite3.connect(settings.folder / "world.db")) as ledger, ledger:
        ledger.execute("CREATE TABLE IF NOT EXISTS done (key TEXT UNIQUE, what TEXT)")
        ledger.execute("INSERT INTO done VALUES (?, ?) ON CONFLICT DO NOTHING", (key, what))
    say(what)


async def answer_questions(run: Run[str]) -> None:
    """Somebody with a telephone. An answer that is sent again after a crash is known by its id."""
    answered = set()
    async with run.watch() as changes:
        async for record in changes:
            for question, what in record.values.items():
                if what is not None and question not in answered:
                    answered.add(question)
                    await trio.sleep(PERSON_TAKES.total_seconds() / settings.speed)
                    say(f"person: {what}? {'no' if 'Umbrella' in what else 'yes'}")
                    with suppress(RunFinished):
                        await run.signal(question, "Umbrella" not in what, id=question)


async def main() -> None:
    async with (
        open_engine(settings.db or settings.folder / "app.db", workflows=[agent]) as engine,
        trio.open_nursery() as nursery,
    ):
        run = await engine.start(agent, "Pay the invoices.", id="invoices")
        nursery.start_soon(answer_questions, run)
        say(f"agent: {await run.result()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An agent that survives kill -9.")
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
