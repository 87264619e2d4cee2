"""A plain script made resumable: a month of book sales, fetched page by page, becomes a report that is handed in.

    python examples/resumable_script.py [FOLDER] [--speed FACTOR]

No workflow, no server: `engine.inline` opens a block, and what is done in it through `ctx` is remembered. Stop it at
any instant, even with ``kill -9``; the same command goes on: pages that are there are not fetched again, a pause that
had begun is only waited out, and the report is handed in once. ``shop.db`` shows what the shop was asked for.
"""

import argparse
import http.client
import json
import sqlite3
import threading
from collections import defaultdict
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Retry, RunConflict, RunFinished, current_step, open_engine

REPORT_ID, ROYALTY = "royalties-2024-05", Decimal("0.08")
PAUSE = timedelta(seconds=30)  # between two pages: the shop asks for that


@attrs.frozen
class Sale:
    author: str
    currency: str
    price: Decimal


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("resumable_script-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 60  # how much faster than real time it waits
    port: int = 0


settings = Settings()


async def report_royalties(ctx: Context) -> None:
    """Loops and variables as in any script. Run again, it comes quickly to where it was."""
    pause = PAUSE / settings.speed
    patiently = Retry.exponential(8, initial_delay=pause, on=OSError)
    sales: list[Sale] = []
    number = 1
    while page := await ctx.step("fetch page", fetch_page, number, retry=patiently):
        sales += page
        number += 1
        await ctx.sleep(pause)
    currencies = sorted({sale.currency for sale in sales})
    rates = await ctx.map("fetch rate", fetch_rate, currencies, retry=patiently)
    euros = dict(zip(currencies, rates, strict=True))
    royalties: dict[str, Decimal] = defaultdict(Decimal)
    for sale in sales:
        royalties[sale.author] += sale.price * euros[sale.currency] * ROYALTY

    report = "".join(f"{author:<8}{amount:8.2f} EUR\n" for author, amount in sorted(royalties.items()))
    await ctx.step("write report", (settings.folder / "report.txt").write_text, report)
    await ctx.step("hand in", ask, "POST", "/reports", report, retry=patiently)


def fetch_page(number: int) -> list[Sale]:
    return [Sale(author, currency, Decimal(price)) for author, currency, price in ask("GET", f"/sales/{number}")]


def fetch_rate(currency: str) -> Decimal:
    return Decimal(ask("GET", f"/rates/{currency}"))


def ask(method: str, path: str, text: str | None = None) -> Any:
    """Ask the shop. The key is the same at each attempt of a step, in whatever process, so nothing is taken twice."""
    with closing(http.client.HTTPConnection("127.0.0.1", settings.port, timeout=10)) as shop:
        shop.request(method, path, text, {"idempotency-key": current_step().idempotency_key})
        response = shop.getresponse()
        answer = response.read()
    say(f"{path}: {response.status} {response.reason}")
    if response.status != 200:
        raise ConnectionError(response.reason)
    return json.loads(answer)


# ---- the shop: a service of its own in real life -----------------------------------------------------------------

BOOKS = [["Achebe", "EUR", "18.00"], ["Borges", "USD", "12.50"], ["Calvino", "GBP", "9.99"], ["Duras", "EUR", "21.00"]]
ANSWERS: dict[str, Any] = {"/rates/EUR": "1", "/rates/USD": "0.92", "/rates/GBP": "1.17"}
ANSWERS |= {f"/sales/{page}": [BOOKS[page * place % 4] for place in range(20 + page)] for page in range(1, 7)}
FAULTS = {"/sales/4": 503}  # when it is asked for the first time


class Shop(BaseHTTPRequestHandler):
    """Notes how often it was asked for what."""

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
        with closing(sqlite3.connect(settings.folder / "shop.db")) as ledger, ledger:
            ledger.execute("CREATE TABLE IF NOT EXISTS asked (key PRIMARY KEY, path, text, times)")
            note = "INSERT INTO asked VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1"
            ledger.execute(note, (self.headers["idempotency-key"], self.path, text))
        self.send_response(FAULTS.pop(self.path, 200))
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS.get(self.path, [])).encode())

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None: ...  # keep quiet


# ---- the program -------------------------------------------------------------------------------------------------


async def main() -> str | None:
    async with open_engine(settings.db or settings.folder / "app.db") as engine:
        try:
            async with engine.inline(REPORT_ID) as ctx:
                await report_royalties(ctx)
        except RunFinished:
            say("Nothing to do: the report was handed in before.")
        except RunConflict as conflict:  # it runs in another terminal
            return str(conflict)
    say((settings.folder / "report.txt").read_text() + "Done.")
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A script that survives kill -9.")
    parser.add_argument("folder", type=Path, nargs="?", default=settings.folder)
    parser.add_argument(
        "--db", metavar="URL", default=settings.db, help="PostgreSQL for the runs; default: app.db there"
    )
    parser.add_argument("--speed", type=float, default=settings.speed, help="default: %(default)g times real time")
    if not parser.parse_args(namespace=settings).speed > 0:
        parser.error("--speed must be more than 0")
    settings.folder.mkdir(parents=True, exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as shop:
        settings.port = shop.server_port
        threading.Thread(target=shop.serve_forever, args=(0.05,)).start()
        try:
            raise SystemExit(trio.run(main))
        except* KeyboardInterrupt:
            say("Stopped. The same command goes on from here.")
        finally:
            shop.shutdown()
