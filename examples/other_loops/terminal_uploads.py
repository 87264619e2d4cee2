"""Terminal: uploads, with Textual. Each is a run, and the table is fed by ``watch``.

    python examples/other_loops/terminal_uploads.py [FOLDER]    # n starts an upload, c cancels the chosen one, q leaves

Kill it with -9 whenever you like, and start it again: each upload goes on with the part that it had not finished.
``parts.txt`` in the folder tells which parts were sent.
"""

import asyncio
import sys
from pathlib import Path
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer

from durable_trio import Context, current_step, workflow
from durable_trio.asyncio import from_asyncio, start_engine

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "terminal_uploads-data")
PARTS = 8


async def send(part: int) -> None:  # a request with your client for asyncio
    await asyncio.sleep(0.25)
    with (FOLDER / "parts.txt").open("a") as sent:
        sent.write(f"{current_step().run_id}: {part}\n")


@workflow
async def upload(ctx: Context, parts: int) -> str:
    for part in range(1, parts + 1):
        await ctx.step("send", from_asyncio(send), part)
        await ctx.publish("part", part)
    return f"{parts} parts"


class Uploads(App[None]):
    BINDINGS: ClassVar[list[BindingType]] = [("n", "start", "New"), ("c", "cancel", "Cancel"), ("q", "quit", "Leave")]

    def compose(self) -> ComposeResult:
        yield DataTable[str](cursor_type="row")
        yield Footer()

    async def on_mount(self) -> None:
        self.table = self.query_one(DataTable)
        self.table.add_columns(("upload", "upload"), ("parts sent", "parts"), ("status", "status"))
        await asyncio.to_thread(FOLDER.mkdir, parents=True, exist_ok=True)
        self.engine = await start_engine(FOLDER / "app.db", workflows=[upload])
        self.run_worker(self.follow())

    async def on_unmount(self) -> None:
        await self.engine.aclose()

    async def follow(self) -> None:
        async with self.engine.watch() as changes:
            async for record in changes:
                cells = {"parts": f"{record.values.get('part', 0)} of {PARTS}", "status": str(record.status)}
                if record.id not in self.table.rows:
                    self.table.add_row(record.id, *cells.values(), key=record.id)
                for column, text in cells.items():
                    self.table.update_cell(record.id, column, text, update_width=True)

    async def action_start(self) -> None:
        await self.engine.start(upload, PARTS, id=f"upload {self.table.row_count + 1}")

    async def action_cancel(self) -> None:
        if self.table.row_count:
            await self.engine.cancel(self.table.get_row_at(self.table.cursor_row)[0])


if __name__ == "__main__":
    Uploads().run()
