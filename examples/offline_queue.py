"""Messaging: what is written offline is delivered later, in order and once; photos too, and none is left behind.

    python examples/offline_queue.py [FOLDER] [--speed FACTOR]

Five messages to Anna are written while the server is down. Once it is up, an answer of its is lost, and it refuses a
message whose photo is uploaded already: the photo is withdrawn. Stop it at any instant, even with ``kill -9``: the same
command goes on, and no message is lost, overtaken or sent twice. ``server.db`` in the folder tells what the server has.
"""

import argparse
import http.client
import json
import sqlite3
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Retry, RunFailed, current_step, open_engine, workflow

OUTAGE, RETRY_EVERY = timedelta(minutes=20), timedelta(minutes=1)
MESSAGES_PER_HISTORY = 4  # then the outbox begins a new one, so that it does not grow for ever


@attrs.frozen
class Message:
    number: int
    text: str
    photo: bytes | None = None


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("offline_queue-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 1200  # how much faster than real time it waits
    port: int = 0


settings = Settings()


@workflow
async def outbox(ctx: Context, person: str) -> None:
    """One for each person: delivers message after message, for ever. While there is none, it costs a row."""
    for _ in range(MESSAGES_PER_HISTORY):
        message = await ctx.wait_signal("message", Message)
        with suppress(RunFailed):  # a message that is refused does not hold up the next; its run tells why
            await ctx.run_child(deliver, message, id=f"{person}-{message.number}")
        await ctx.publish("done", message.number)
    await ctx.continue_as_new(person)


@workflow
async def deliver(ctx: Context, message: Message) -> None:
    """Upload the photo, then send the message. If that is refused, the photo is withdrawn."""
    online = Retry.fixed(5_000_000, RETRY_EVERY / settings.speed, on=OSError)  # for nine years
    step = partial(ctx.step, retry=online, compensate_retry=online)
    media = None
    if message.photo is not None:
        media = await step("upload", ask, "upload", message.photo, compensate=partial(ask, "withdraw"))
    await step("send", ask, "send", json.dumps([message.number, message.text, media]))


def ask(action: str, body: str | bytes) -> str:
    """Ask the server. The key is the same in every attempt of a step, so what was taken already is only confirmed."""
    step = current_step()
    with closing(http.client.HTTPConnection("127.0.0.1", settings.port, timeout=10)) as server:
        server.request("POST", f"/{action}", body, {"idempotency-key": step.idempotency_key})
        (response := server.getresponse()).read()
    if response.status != 200:
        raise ValueError(response.reason)  # unlike an OSError not tried again
    say(f"{step.run_id}: {action} is done")
    return step.idempotency_key


# ---- the server: a service of its own in real life ---------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Keeps what it did by its idempotency key. Asked again, it answers the same and does nothing."""

    line_breaks = iter([False, False, False, True])  # before the fourth answer

    def do_POST(self) -> None:
        row = (self.headers["idempotency-key"], self.path[1:], self.rfile.read(int(self.headers["content-length"])))
        refusal = "it is too long" if self.path == "/send" and len(row[2]) > 160 else None
        if refusal is None:
            with closing(sqlite3.connect(settings.folder / "server.db")) as db, db:
                db.execute("CREATE TABLE IF NOT EXISTS done (key PRIMARY KEY, action, body)")
                db.execute("INSERT INTO done VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
        if next(self.line_breaks, False):
            return say("server: takes something, and the line breaks before it can say so")
        self.send_response(200 if refusal is None else 413, refusal)
        return self.end_headers()

    def log_message(self, *_: object) -> None: ...  # keep quiet


async def run_server() -> None:
    await trio.sleep(OUTAGE.total_seconds() / settings.speed)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        settings.port = server.server_port
        say("server: up")
        while True:
            await trio.to_thread.run_sync(server.handle_request, abandon_on_cancel=True)


# ---- the program -------------------------------------------------------------------------------------------------

MESSAGES = [
    Message(1, "Are you there?"),
    Message(2, "We have arrived.", photo=b"the harbour"),
    Message(3, "The boat leaves at nine."),
    Message(4, "And then the captain said: " + "blah " * 40, photo=b"the captain"),
    Message(5, "I cut the story short.", photo=b"the sunset"),
]


async def main() -> None:
    async with open_engine(settings.db or settings.folder / "app.db", workflows=[outbox, deliver]) as engine:
        queue = partial(engine.signal_with_start, outbox, "anna", id="outbox-anna", signal="message")
        for message in MESSAGES:  # a message that was queued before is known by its signal's id
            run = await queue(payload=message, signal_id=f"{message.number}")
        say(f"outbox: {len(MESSAGES) - (await run.value('done') or 0)} messages to send, and the server is down")
        async with trio.open_nursery() as nursery, run.watch() as changes:
            nursery.start_soon(run_server)
            async for record in changes:
                if record.values.get("done") == len(MESSAGES):
                    nursery.cancel_scope.cancel()
        for message in MESSAGES:
            record = await engine.get(f"anna-{message.number}").record()
            say(f"message {message.number}: {record.error or 'delivered'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An outbox that survives kill -9.")
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
