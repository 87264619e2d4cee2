"""A small object store: objects come in chunks, each of which is kept once, whole, or not at all.

``PUT /objects/<path>?chunk=<n>`` with the chunk as body and its SHA-256 in ``x-chunk-sha256``. The same chunk again
changes nothing and is fine; another content for a chunk that is there is a conflict. Every PUT that was accepted is
one line of the log, also the repeated ones: that is what the checker counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath

from demo_parts.tiny_http import Request, Response

_PREFIX = "/objects/"


class ObjectStore:
    """Keeps chunk ``n`` of an object as the file ``<folder>/<path>/<n>``."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._hashes: dict[tuple[str, int], str] = {}

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        path = request.path.removeprefix(_PREFIX)
        number = request.query.get("chunk", "")
        if request.method != "PUT" or path == request.path or not number.isdigit() or not _is_plain(path):
            return Response(404, b"PUT /objects/<path>?chunk=<n>")
        digest = hashlib.sha256(request.body).hexdigest()
        if digest != request.headers.get("x-chunk-sha256"):
            return Response(400, b"the chunk does not have the SHA-256 that was announced")
        known = self._hashes.get((path, int(number)))
        if known is not None and known != digest:
            return Response(409, b"this chunk is here already, with another content")
        if known is None:
            self._keep(path, int(number), request.body)
            self._hashes[path, int(number)] = digest
        self._write_log(path=path, chunk=int(number), sha256=digest, again=known is not None)
        return Response(201 if known is None else 200)

    def close(self) -> None:
        """Close the log."""
        os.close(self._log)

    def _keep(self, path: str, number: int, chunk: bytes) -> None:
        # A few KiB into the page cache: not worth a thread.
        target = chunk_file(self._folder, path, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{number}.part")
        part.write_bytes(chunk)
        part.rename(target)

    def _write_log(self, **entry: object) -> None:
        os.write(self._log, json.dumps(entry).encode() + b"\n")


def chunk_file(folder: Path, path: str, number: int) -> Path:
    """Return where a chunk is kept."""
    return folder / path / str(number)


def _is_plain(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts
