"""Where everything of one demonstration lies, and the tree that it mirrors."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path
from typing import BinaryIO

import attrs


@attrs.frozen
class Places:
    """The files in the folder of one demonstration."""

    folder: Path

    @property
    def database(self) -> Path:
        """The engine's file."""
        return self.folder / "runs.db"

    @property
    def postgres(self) -> Path:
        """The folder of the database server, if it is one."""
        return self.folder / "postgres"

    @property
    def objects(self) -> Path:
        """The chunks that the object store keeps."""
        return self.folder / "objects"

    @property
    def store_log(self) -> Path:
        """What the object store has accepted, a JSON object a line."""
        return self.folder / "object-store.log"

    @property
    def shop_log(self) -> Path:
        """What the shop was asked and did, a JSON object a line."""
        return self.folder / "shop.log"

    @property
    def trace(self) -> Path:
        """What the serving processes did; see ``trace.py``."""
        return self.folder / "trace.log"

    @property
    def serving_log(self) -> Path:
        """Standard error of the serving processes."""
        return self.folder / "serving.log"

    @property
    def client_log(self) -> Path:
        """What the engine says that is only a client."""
        return self.folder / "client.log"

    def open_serving_log(self) -> BinaryIO:
        """Open it for writing."""
        return open(self.serving_log, "ab")


@cache
def source_tree() -> Path:
    """Return the folder that is mirrored: this interpreter's own standard library."""
    return Path(sysconfig.get_paths()["stdlib"])
