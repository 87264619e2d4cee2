"""Qt: uploads in a window, a run each: ``python examples/other_loops/qt_uploads.py [FOLDER]``. It needs PySide6.

Kill it with -9 whenever you like, and start it again: each upload goes on with the part that it had not finished. Close
the window: that part is finished first. ``parts.txt`` in the folder tells which parts were sent.
"""

import sys
from functools import partial
from pathlib import Path

import trio
from PySide6 import QtWidgets
from PySide6.QtGui import QCloseEvent

from durable_trio import Context, Engine, RunRecord, current_step, open_engine, workflow
from durable_trio.platforms.qt import host

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "qt_uploads-data")
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


class Uploads(QtWidgets.QWidget):
    def __init__(self, app: QtWidgets.QApplication) -> None:
        super().__init__()
        self.setWindowTitle("Uploads")
        self.table = QtWidgets.QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["Upload", "Parts sent", "Status"])
        self.new, self.stop = QtWidgets.QPushButton("New upload"), QtWidgets.QPushButton("Cancel upload")
        self.new.clicked.connect(self.start)
        self.stop.clicked.connect(self.cancel)
        layout = QtWidgets.QVBoxLayout(self)
        for widget in (self.table, self.new, self.stop):
            layout.addWidget(widget)
        self.shown: list[str] = []  # the uploads, by row
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.engine = host(app, open_engine(FOLDER / "app.db", workflows=[upload]))

    def show_upload(self, record: RunRecord) -> None:
        if record.id not in self.shown:
            self.table.insertRow(len(self.shown))
            self.shown.append(record.id)
        for column, text in enumerate((record.id, f"{record.values.get('part', 0)} of {PARTS}", record.status)):
            self.table.setItem(self.shown.index(record.id), column, QtWidgets.QTableWidgetItem(text))

    def start(self) -> None:
        self.engine.call_soon(partial(Engine.start, id=f"upload {len(self.shown) + 1}"), upload, PARTS)

    def cancel(self) -> None:
        for run_id in {self.shown[index.row()] for index in self.table.selectedIndexes()}:
            box = QtWidgets.QMessageBox
            if box.question(self, "Uploads", f"Cancel {run_id}?") == box.StandardButton.Yes:  # uploads go on meanwhile
                self.engine.call_soon(Engine.cancel, run_id)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        event.ignore()
        self.engine.close()  # the part under way is finished, and then the window goes


if __name__ == "__main__":
    app = QtWidgets.QApplication(sys.argv)
    window = Uploads(app)
    window.show()
    with window.engine as engine:
        engine.follow(Engine.watch, then=window.show_upload)
        app.exec()
