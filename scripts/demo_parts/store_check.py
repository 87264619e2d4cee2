"""Checks the mirrored files: in the store's folder, in the engine's database, in the store's log."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from demo_parts.findings import Finding, counted, finding
from demo_parts.ledger import Ledger
from demo_parts.object_store import chunk_file
from demo_parts.plan import Plan, mirror_id
from demo_parts.workflows import CHUNK_BYTES, SourceFile, mirror_file


def check_objects(tree: Path, plan: Plan, objects: Path) -> Iterator[Finding]:
    """Check that the store holds the files of the plan, whole and equal, and nothing else."""
    problems = []
    kept = 0
    for file in plan.files:
        try:
            chunks = [chunk_file(objects, file.path, number).read_bytes() for number in range(file.chunk_count)]
        except FileNotFoundError as error:
            problems.append(f"{error.filename} is missing")
            continue
        kept += len(chunks)
        if hashlib.sha256(b"".join(chunks)).digest() != hashlib.sha256((tree / file.path).read_bytes()).digest():
            problems.append(f"{file.path} has another SHA-256 in the store")
    count = sum(path.is_file() for path in objects.rglob("*"))
    if count != kept:
        problems.append(f"{count} chunks are in the store, {kept} belong there")
    yield finding(f"{len(plan.files):,} files in the store have the SHA-256 of their source", problems)


def check_history(ledger: Ledger, tree: Path, plan: Plan) -> Iterator[Finding]:
    """Check that each chunk has one row, with its true hash, and that each run has returned what it must."""
    rows: Counter[tuple[str, str]] = Counter()
    recorded: dict[tuple[str, int], str | None] = {}
    query = """
        SELECT runs.id, history.name, history.n, history.status, history.result
        FROM history JOIN runs USING (run) WHERE runs.workflow = ?
    """
    problems = []
    for run, name, n, status, result in ledger.ask(query, mirror_file.name):
        rows[run, f"{name}#{n}"] += 1
        recorded[run, n] = json.loads(result or "null")
        if name != "chunk" or status != "completed":
            problems.append(f"run {run!r} has a row {name}#{n}, {status}")
    problems += [f"run {run!r} has {count} rows {key}" for (run, key), count in rows.items() if count != 1]
    query = "SELECT id, status, result FROM runs WHERE workflow = ?"
    runs = {run: (status, result) for run, status, result in ledger.ask(query, mirror_file.name)}
    for file in plan.files:
        problems += _problems_of_run(file, tree, recorded, runs.get(mirror_id(file)))
    if len(rows) != plan.chunk_count:
        problems.append(f"{len(rows)} chunks are recorded instead of {plan.chunk_count}")
    yield finding(f"{plan.chunk_count:,} chunks are recorded, each once, each with its true SHA-256", problems)


def _problems_of_run(
    file: SourceFile, tree: Path, recorded: dict[tuple[str, int], str | None], run: tuple[str, str] | None
) -> Iterator[str]:
    if run is None:
        yield f"{file.path} has no run"
        return
    content = (tree / file.path).read_bytes()
    whole = hashlib.sha256()
    for number in range(file.chunk_count):
        digest = hashlib.sha256(content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
        whole.update(digest.digest())
        found = recorded.get((mirror_id(file), number))
        if found != digest.hexdigest():
            yield f"{file.path}: chunk {number} is recorded with hash {found}"
    if run[0] != "completed" or json.loads(run[1]) != whole.hexdigest():
        yield f"the run of {file.path} is {run[0]} with result {run[1]}"


def check_log(plan: Plan, log: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Check that the store has accepted each chunk, and that what came again was the same."""
    new = Counter((entry["path"], entry["chunk"]) for entry in log if not entry["again"])
    hashes: dict[tuple[str, int], set[str]] = {}
    for entry in log:
        hashes.setdefault((entry["path"], entry["chunk"]), set()).add(entry["sha256"])
    problems = [f"chunk {key} was new {count} times" for key, count in new.items() if count != 1]
    problems += [f"chunk {key} came with {len(found)} hashes" for key, found in hashes.items() if len(found) != 1]
    if len(new) != plan.chunk_count:
        problems.append(f"the store has accepted {len(new)} chunks instead of {plan.chunk_count}")
    repeated = sum(entry["again"] for entry in log)
    yield finding(
        f"the store's log has each chunk once, and {counted(repeated, 'repeat')} that changed nothing", problems
    )
