"""IoT: provision devices that sleep, over a radio that fails, and wait 30 minutes for each to confirm.

    python examples/device_provisioning.py [FOLDER] [--speed FACTOR]

Three water meters. One answers at once; one listens only now and then, so it is asked again; one never confirms, so
its certificate is revoked and it is struck off. Stop it at any instant, even with ``kill -9``: the same command goes
on, the 30 minutes count from when they began, and no confirmation is lost. ``fleet.db`` tells what was done.
"""

import argparse
import http.client
import sqlite3
import threading
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Retry, Run, RunFailed, RunFinished, SignalTimeout, current_step, open_engine, workflow

LISTENS_EVERY, REBOOT = timedelta(minutes=5), timedelta(minutes=2)
CONFIRMS_WITHIN = timedelta(minutes=30)
PATIENTLY = Retry.exponential(8, initial_delay=0.2, max_delay=5, on=OSError)


@attrs.frozen
class Report:
    """What a meter says of itself when it has started with its new settings."""

    firmware: str
    battery_percent: int


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("device_provisioning-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 600  # how much faster than real time meters and waits are
    port: int = 0


settings = Settings()


@workflow
async def provision(ctx: Context, meter: str) -> str:
    """Make a meter known, give it a certificate and its settings, and take it into service when it has confirmed."""
    step = partial(ctx.step, retry=PATIENTLY, compensate_retry=PATIENTLY)
    await step("register", ask, "register", meter, compensate=partial(ask, "strike off"))
    await step("certify", ask, "certify", meter, compensate=partial(ask, "revoke certificate"))
    until_it_listens = Retry.fixed(12, LISTENS_EVERY / settings.speed, on=OSError)
    await ctx.step("configure", ask, "configure", meter, retry=until_it_listens)
    await ctx.publish("is configured", True)
    try:
        report = await ctx.wait_signal("confirmed", Report, timeout=CONFIRMS_WITHIN / settings.speed)
    except SignalTimeout:
        raise TimeoutError("no confirmation within 30 minutes") from None  # the engine now revokes and strikes off
    await step("activate", ask, "activate", meter)
    return f"in service, firmware {report.firmware}, battery at {report.battery_percent} %"


def ask(action: str, meter: str) -> str:
    """Have the fleet's service do something for a meter. The key is the same in every attempt of a step."""
    path = f"/{meter}/{action.replace(' ', '-')}"
    with closing(http.client.HTTPConnection("127.0.0.1", settings.port, timeout=10)) as fleet:
        fleet.request("POST", path, headers={"idempotency-key": current_step().idempotency_key})
        status = fleet.getresponse().status
    if status != 200:
        say(f"{meter}: asleep at attempt {current_step().attempt}")
        raise ConnectionError(f"{meter} does not listen now")
    say(f"{meter}: {action} is done")
    return meter


# ---- registry, certificate authority, radio and meters: out in the field -----------------------------------------

NAPS = iter([504, 504])  # meter-2 listens when it is asked for the third time


class Fleet(BaseHTTPRequestHandler):
    """Keeps what it did by its idempotency key. Asked again, it answers the same and does nothing."""

    def do_POST(self) -> None:
        _, meter, action = self.path.split("/")
        status = next(NAPS, 200) if (meter, action) == ("meter-2", "configure") else 200
        if status == 200:
            with closing(sqlite3.connect(settings.folder / "fleet.db")) as ledger, ledger:
                ledger.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, action TEXT, meter TEXT)")
                row = (self.headers["idempotency-key"], action, meter)
                ledger.execute("INSERT INTO done VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...  # keep quiet


async def start_meter(run: Run[str]) -> None:
    """Confirm when the meter has restarted with its settings. Sent again after a crash, it is known by its id."""
    async with run.watch() as changes:
        async for record in changes:
            if record.status.is_final:
                return
            if "is configured" in record.values:
                break
    await trio.sleep(REBOOT.total_seconds() / settings.speed)
    with suppress(RunFinished):
        await run.signal("confirmed", Report("2.4.1", 97), id="first start")
        say(f"{run.id}: has confirmed")


# ---- the program -------------------------------------------------------------------------------------------------


async def main() -> None:
    async with open_engine(settings.db or settings.folder / "app.db", workflows=[provision]) as engine:
        runs = [await engine.start(provision, meter, id=meter) for meter in ("meter-1", "meter-2", "meter-3")]
        async with trio.open_nursery() as nursery:
            for run in runs[:2]:  # the third never starts
                nursery.start_soon(start_meter, run)
        for line in [await ending(run) for run in runs]:
            say(line)


async def ending(run: Run[str]) -> str:
    try:
        return f"{run.id}: {await run.result()}"
    except RunFailed as failure:
        return f"{run.id}: not provisioned, {failure.error}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Device provisioning that survives kill -9.")
    parser.add_argument("folder", type=Path, nargs="?", default=settings.folder)
    parser.add_argument(
        "--db", metavar="URL", default=settings.db, help="PostgreSQL for the runs; default: app.db there"
    )
    parser.add_argument("--speed", type=float, default=settings.speed, help="default: %(default)g times real time")
    if not parser.parse_args(namespace=settings).speed > 0:
        parser.error("--speed must be more than 0")
    settings.folder.mkdir(parents=True, exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), Fleet) as fleet:
        settings.port = fleet.server_port
        threading.Thread(target=fleet.serve_forever, args=(0.05,)).start()
        try:
            trio.run(main)
        except* KeyboardInterrupt:
            say("Stopped. The same command goes on from here.")
        finally:
            fleet.shutdown()
