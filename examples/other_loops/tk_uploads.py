"""Tk: uploads in a window. Each is a run, and the list is fed by ``watch``.

    python examples/other_loops/tk_uploads.py [FOLDER]

Kill it with -9 whenever you like, and start it again: each upload goes on with the part that it had not finished. Close
the window: the part that is under way is finished first. ``parts.txt`` in the folder tells which parts were sent.
"""

import sys
import tkinter
from functools import partial
from pathlib import Path
from tkinter import messagebox, ttk

import trio

from durable_trio import Context, Engine, RunRecord, current_step, open_engine, workflow
from durable_trio.platforms.tk import host

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "tk_uploads-data")
PARTS = 8


async def send(part: int) -> None:
    await trio.sleep(0.25)  # a request with your client for trio
    with (FOLDER / "parts.txt").open("a") as sent:
        sent.write(f"{current_step().run_id}: {part}\n")


@workflow
async def upload(ctx: Context, parts: int) -> str:
    for part in range(1, parts + 1):
        await ctx.step("send", send, part)
        await ctx.publish("part", part)
    return f"{parts} parts"


class Uploads(tkinter.Tk):
    def __init__(self) -> None:
        super().__init__()
        self.title("Uploads")
        self.table = ttk.Treeview(self, columns=("upload", "parts", "status"), show="headings", height=6)
        for column, text in (("upload", "Upload"), ("parts", "Parts sent"), ("status", "Status")):
            self.table.heading(column, text=text, anchor="w")
            self.table.column(column, width=130)
        self.table.pack(fill="both", expand=True, padx=8, pady=8)
        self.new = ttk.Button(self, text="New upload", command=self.start)
        self.stop = ttk.Button(self, text="Cancel upload", command=self.cancel)
        for button in (self.new, self.stop):
            button.pack(side="left", padx=8, pady=8)
        self.protocol("WM_DELETE_WINDOW", self.leave)
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.engine = host(self, open_engine(FOLDER / "app.db", workflows=[upload]))

    def show(self, record: RunRecord) -> None:
        if not self.table.exists(record.id):
            self.table.insert("", "end", record.id)
        parts = f"{record.values.get('part', 0)} of {PARTS}"
        self.table.item(record.id, values=(record.id, parts, record.status))

    def start(self) -> None:
        number = len(self.table.get_children()) + 1
        self.engine.call_soon(partial(Engine.start, id=f"upload {number}"), upload, PARTS)

    def cancel(self) -> None:
        for run_id in self.table.selection():
            if messagebox.askyesno("Uploads", f"Cancel {run_id}?"):  # uploads go on meanwhile
                self.engine.call_soon(Engine.cancel, run_id)

    def leave(self) -> None:
        self.title("Uploads: the part under way is finished …")
        self.engine.close()


if __name__ == "__main__":
    window = Uploads()
    with window.engine as engine:
        engine.follow(Engine.watch, then=window.show)
        window.mainloop()
