"""E-commerce: reserve, pay, ship, and settle a day later; or refund and release.

    python examples/checkout.py [FOLDER] [--speed FACTOR]

Three orders: one goes well, one has a stolen card, one has been paid when no courier goes there. The bank loses its
first answer, so every charge is asked for twice. Stop it at any instant, even with ``kill -9``: the same command goes
on, and nobody is charged twice. ``partners.db`` in the folder tells what warehouse, bank and courier have done.
"""

import argparse
import http.client
import json
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Retry, Run, RunFailed, current_step, open_engine, workflow

SETTLEMENT_DELAY = timedelta(days=1)
PATIENTLY = Retry.exponential(8, initial_delay=0.2, max_delay=5, on=OSError)  # not what a partner has refused


@attrs.frozen
class Order:
    id: str
    item: str
    price: Decimal
    card: str
    country: str


class Refused(Exception):
    """A partner says no. Asking again would not help."""


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("checkout-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 20_000  # how much faster than real time it waits
    port: int = 0


settings = Settings()


@workflow
async def checkout(ctx: Context, order: Order) -> str:
    """Each step is recorded before the next begins. If one fails, those before it are undone, the last one first."""
    patiently = partial(ctx.step, retry=PATIENTLY, compensate_retry=PATIENTLY)
    await patiently("reserve", ask, "reserve", order.id, compensate=partial(ask, "release"))
    payment = await patiently("pay", ask, "charge", order.id, order.card, compensate=partial(ask, "refund"))
    parcel = await patiently("ship", ask, "ship", order.id, order.country)
    await ctx.sleep(SETTLEMENT_DELAY / settings.speed)
    await patiently("settle", ask, "settle", payment)
    return f"{order.item} sent as {parcel}, {order.price} EUR settled"


def ask(action: str, subject: str, detail: str = "") -> str:
    """Have a partner do something, and return its name for that. The key is the same in every attempt of a step."""
    key = current_step().idempotency_key
    with closing(http.client.HTTPConnection("127.0.0.1", settings.port, timeout=10)) as partner:
        partner.request("POST", f"/{action}", json.dumps([subject, detail]), {"idempotency-key": key})
        response = partner.getresponse()
        answer = response.read().decode()
    if response.status != 200:
        raise Refused(answer)
    say(f"{answer} is done")
    return answer


# ---- warehouse, bank and courier: other people's services --------------------------------------------------------

REFUSED = {"stolen card": "the card is stolen", "Atlantis": "no courier goes to Atlantis"}


class Partners(BaseHTTPRequestHandler):
    """They keep what they did by its idempotency key. Asked again, they answer the same and do nothing."""

    def do_POST(self) -> None:
        action, key = self.path.strip("/"), self.headers["idempotency-key"]
        subject, detail = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if detail in REFUSED:
            return self.answer(409, REFUSED[detail])
        with closing(sqlite3.connect(settings.folder / "partners.db")) as ledger, ledger:
            ledger.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, action TEXT, subject TEXT)")
            insert = "INSERT INTO done VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            is_new = ledger.execute(insert, (key, action, subject)).rowcount == 1
        if is_new and action == "charge":
            return say(f"{subject}: the bank has charged, and its answer is lost")  # it hangs up without a word
        return self.answer(200, f"{subject}/{action}")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...  # keep quiet


# ---- the program -------------------------------------------------------------------------------------------------

ORDERS = [
    Order("order-1", "a chair", Decimal("149.00"), "good card", "Norway"),
    Order("order-2", "a table", Decimal("480.50"), "stolen card", "Norway"),
    Order("order-3", "a lamp", Decimal("35.90"), "good card", "Atlantis"),
]


async def main() -> None:
    async with open_engine(settings.db or settings.folder / "app.db", workflows=[checkout]) as engine:
        for record in (await engine.list_runs()).runs:
            say(f"{record.id} is known from before: {record.status.value}")
        runs = [await engine.start(checkout, order, id=order.id) for order in ORDERS]  # a known id: the same run
        for line in [await ending(run) for run in runs]:
            say(line)


async def ending(run: Run[str]) -> str:
    try:
        return f"{run.id}: {await run.result()}"
    except RunFailed as failure:
        return f"{run.id}: {failure.error}; all is undone"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A checkout that survives kill -9.")
    parser.add_argument("folder", type=Path, nargs="?", default=settings.folder)
    parser.add_argument(
        "--db", metavar="URL", default=settings.db, help="PostgreSQL for the runs; default: app.db there"
    )
    parser.add_argument("--speed", type=float, default=settings.speed, help="default: %(default)g times real time")
    if not parser.parse_args(namespace=settings).speed > 0:
        parser.error("--speed must be more than 0")
    settings.folder.mkdir(parents=True, exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), Partners) as partners:
        settings.port = partners.server_port
        threading.Thread(target=partners.serve_forever, args=(0.05,)).start()
        try:
            trio.run(main)
        except* KeyboardInterrupt:
            say("Stopped. The same command goes on from here.")
        finally:
            partners.shutdown()
