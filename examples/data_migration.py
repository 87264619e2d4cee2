"""Desktop: a new version of a program converts its user's data in batches, with a backup, and shows how far it is.

    python examples/data_migration.py [FOLDER] [--speed FACTOR]

Two address books are converted while a window would show their progress bars. One comes out right, and its backup is
deleted a month later. In the other a damaged entry turns up half-way, and it is restored. Stop it at any instant, even
with ``kill -9``: the same command goes on with the batch at which it was, and no program finds a book half converted.
"""

import argparse
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import attrs
import trio
from click import echo as say  # a line in one piece, whatever thread says it

from durable_trio import Context, Run, open_engine, workflow

BATCH_ENTRIES = 500
BATCH_SECONDS = 0.1  # what a batch takes on an old disk
BACKUP_KEPT = timedelta(days=30)


@attrs.define
class Settings:  # what this process was told; none of it is recorded
    folder: Path = Path("data_migration-data")
    db: str = ""  # the URL of a server for the runs, in place of a file in the folder
    speed: float = 1_000_000  # how much faster than real time it waits


settings = Settings()


@workflow
async def convert(ctx: Context, book: str) -> None:
    """The backup is a step of its own: whole before anything is changed, and not made again after that."""
    count = await ctx.step("back up", back_up, book, compensate=lambda _: restore(book))
    converted = 0
    while converted < count:
        await ctx.publish("progress", converted / count)
        converted = await ctx.step("convert batch", convert_batch, book, converted)
    await ctx.step("switch over", switch_over, book)
    await ctx.publish("progress", 1.0)
    await ctx.sleep(BACKUP_KEPT / settings.speed, name="keep the backup")
    await ctx.step("delete backup", delete_backup, book)


def back_up(book: str) -> int:
    copy(file_of(book), file_of(book, "part"))
    file_of(book, "part").replace(file_of(book, "backup"))  # a file of this name is a whole backup
    say(f"{book}: backed up")
    with closing(sqlite3.connect(file_of(book))) as db:
        return int(db.execute("SELECT max(id) FROM entries").fetchone()[0])


def restore(book: str) -> None:
    copy(file_of(book, "backup"), file_of(book))
    say(f"{book}: restored from its backup")


def convert_batch(book: str, after: int) -> int:
    """Convert the entries after one, and return the last one. Done again after a crash, it changes nothing."""
    time.sleep(BATCH_SECONDS)
    with closing(sqlite3.connect(file_of(book))) as db, db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE IF NOT EXISTS people (id INTEGER PRIMARY KEY, given TEXT, family TEXT, phone TEXT)")
        entries = db.execute("SELECT * FROM entries WHERE id > ? ORDER BY id LIMIT ?", (after, BATCH_ENTRIES))
        for number, name, phone in entries.fetchall():
            family, comma, given = name.partition(", ")
            if not comma:
                raise ValueError(f"entry {number} has the name {name!r}")
            digits = "".join(character for character in phone if character in "+0123456789")
            db.execute("INSERT OR REPLACE INTO people VALUES (?, ?, ?, ?)", (number, given, family, digits))
    return int(number)


def switch_over(book: str) -> None:
    with closing(sqlite3.connect(file_of(book))) as db, db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DROP TABLE IF EXISTS entries")
        db.execute("PRAGMA user_version = 2")  # only now does the new program take it for its own
    say(f"{book}: switched over")


def delete_backup(book: str) -> None:
    file_of(book, "backup").unlink(missing_ok=True)
    say(f"{book}: backup deleted")


# ---- the address books -------------------------------------------------------------------------------------------


def copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)  # unlike a copy of the file, it knows of a change that a crash has interrupted


def file_of(book: str, kind: str = "db") -> Path:
    return settings.folder / f"{book}.{kind}"


def write_old_book(book: str, entry_count: int, *, damaged: int | None = None) -> None:
    """Write what the old program would have left, unless it is there."""
    with closing(sqlite3.connect(file_of(book))) as db, db:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("SELECT * FROM sqlite_schema").fetchone() is None:
            db.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, name TEXT, phone TEXT)")
            for number in range(1, entry_count + 1):
                name = "?????" if number == damaged else f"Family {number % 97}, Given {number}"
                db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, name, f"(0)20 555-{number:04}"))


# ---- the program -------------------------------------------------------------------------------------------------


async def show_progress(run: Run[None]) -> None:
    """Redraw the bar at each change, as a window would."""
    async with run.watch() as changes:
        async for record in changes:
            done = round(20 * record.values.get("progress", 0))
            say(f"{run.id:<8}[{'#' * done}{'.' * (20 - done)}] {record.status}")


async def main() -> None:
    async with open_engine(settings.db or settings.folder / "app.db", workflows=[convert]) as engine:
        runs = [await engine.start(convert, book, id=book) for book in ("family", "club")]  # a known id: the same run
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(show_progress, run)
        for run in runs:
            record = await run.record()
            say(f"{run.id}: as it was, because {record.error}" if record.error else f"{run.id}: converted")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A data migration that survives kill -9.")
    parser.add_argument("folder", type=Path, nargs="?", default=settings.folder)
    parser.add_argument(
        "--db", metavar="URL", default=settings.db, help="PostgreSQL for the runs; default: app.db there"
    )
    parser.add_argument("--speed", type=float, default=settings.speed, help="default: %(default)g times real time")
    if not parser.parse_args(namespace=settings).speed > 0:
        parser.error("--speed must be more than 0")
    settings.folder.mkdir(parents=True, exist_ok=True)
    write_old_book("family", 6000)
    write_old_book("club", 6000, damaged=3333)
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        say("Stopped. The same command goes on from here.")
