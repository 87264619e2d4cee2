"""File sync: upload files in chunks over HTTP, go on at the chunk where it stopped, compare checksums.

    python examples/file_sync.py [FOLDER] [--speed FACTOR]

Copies the files in ``FOLDER/here`` (made at the first start) to a server that keeps them in ``FOLDER/there``, two at a
time. Each chunk is a step: after a stop at any instant, even by ``kill -9``, the same command goes on with the next
chunk. A run's id holds its file's checksum: what is there already is not sent again, and what you have edited is.
"""

import argparse
import http.client
import random
import threading
import time
from contextlib import closing
from datetime import timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Retry, open_engine, workflow

CHUNK_BYTES = 64 * 1024
CHUNK_ON_ITS_WAY = timedelta(minutes=2)  # the line is that slow
PATIENTLY = Retry.exponential(8, initial_delay=0.2, max_delay=5, on=OSError)


@attrs.frozen
class File:
    name: str
    sha256: str
    chunk_count: int


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("file_sync-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 600  # how much faster than real time the line is
    port: int = 0


settings = Settings()


@workflow
async def upload(ctx: Context, file: File) -> str:
    """Send all chunks, then have the server check the whole and give it its name."""
    for number in range(1, file.chunk_count + 1):
        await ctx.step("chunk", send_chunk, file, number, retry=PATIENTLY)
    is_right = await ctx.step("finish", ask, "POST", f"/{file.name}/{file.sha256}", retry=PATIENTLY)
    return f"chunks stored: {file.chunk_count}" if is_right else "edited meanwhile; the next start sends it anew"


def send_chunk(file: File, number: int) -> None:
    """Send one chunk. Sent twice, it is written to the same place twice."""
    start = (number - 1) * CHUNK_BYTES
    with open(settings.folder / "here" / file.name, "rb") as source:
        source.seek(start)
        chunk = source.read(CHUNK_BYTES)
    if not ask("PUT", f"/{file.name}/{file.sha256}/{start}", chunk):
        raise OSError("damaged on its way")  # sending it again helps
    say(f"{file.name}: chunk {number} of {file.chunk_count} is there")


def ask(method: str, path: str, body: bytes = b"") -> bool:
    """Return whether the server has what was meant: its checksum is right."""
    with closing(http.client.HTTPConnection("127.0.0.1", settings.port, timeout=30)) as server:
        server.request(method, quote(path), body, {"sha256": sha256(body).hexdigest()})
        return server.getresponse().status == 200


# ---- the server: somebody else's ---------------------------------------------------------------------------------

NOISE = iter([False] * 4 + [True])  # the fifth chunk that comes is damaged on its way


class Storage(BaseHTTPRequestHandler):
    """Writes chunks to a file of their own, which gets its name once it is complete and has the right checksum."""

    def do_PUT(self) -> None:
        _, name, checksum, start = unquote(self.path).split("/")
        chunk = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(CHUNK_ON_ITS_WAY.total_seconds() / settings.speed)
        if next(NOISE, False):
            say("the server: a chunk was damaged on its way")
            chunk = chunk[::-1]
        if sha256(chunk).hexdigest() != self.headers["sha256"]:
            return self.answer(409)
        part = settings.folder / "there" / f"{name}.{checksum}.part"
        with part.open("r+b" if part.exists() else "wb") as file, part.with_name("received.log").open("a") as log:
            file.seek(int(start))
            file.write(chunk)
            log.write(f"{name}/{start}\n")
        return self.answer(200)

    def do_POST(self) -> None:
        _, name, checksum = unquote(self.path).split("/")
        whole = settings.folder / "there" / name
        part = whole.with_name(f"{name}.{checksum}.part")
        found = part if part.exists() else whole  # it has its name if the client was killed before it had the answer
        if sha256(found.read_bytes()).hexdigest() != checksum:
            return self.answer(409)
        found.replace(whole)
        return self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...  # keep quiet


# ---- the program -------------------------------------------------------------------------------------------------


async def main() -> None:
    contents = {path.name: path.read_bytes() for path in sorted((settings.folder / "here").iterdir())}
    files = [File(name, sha256(it).hexdigest(), len(it) // CHUNK_BYTES + 1) for name, it in contents.items()]
    async with open_engine(settings.db or settings.folder / "app.db", workflows=[upload], concurrency=2) as engine:
        runs = [await engine.start(upload, file, id=f"{file.name} {file.sha256}") for file in files]
        endings = [await run.result() for run in runs]
    for file, ending in zip(files, endings, strict=True):
        say(f"{file.name}: {ending}, SHA-256 {file.sha256[:16]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An upload that goes on where it was killed.")
    parser.add_argument("folder", type=Path, nargs="?", default=settings.folder)
    parser.add_argument(
        "--db", metavar="URL", default=settings.db, help="PostgreSQL for the runs; default: app.db there"
    )
    parser.add_argument("--speed", type=float, default=settings.speed, help="default: %(default)g times real time")
    if not parser.parse_args(namespace=settings).speed > 0:
        parser.error("--speed must be more than 0")
    for folder in ("here", "there"):
        (settings.folder / folder).mkdir(parents=True, exist_ok=True)
    for name, size in {"holiday.raw": 900_000, "letter.txt": 3_000, "song.flac": 400_000}.items():
        if not (settings.folder / "here" / name).exists():
            (settings.folder / "here" / name).write_bytes(random.Random(name).randbytes(size))
    with ThreadingHTTPServer(("127.0.0.1", 0), Storage) as storage:
        settings.port = storage.server_port
        threading.Thread(target=storage.serve_forever, args=(0.05,)).start()
        try:
            trio.run(main)
        except* KeyboardInterrupt:
            say("Stopped. The same command goes on from here.")
        finally:
            storage.shutdown()
