"""Says whether all that was promised holds: ``python -m demo_parts.checker FOLDER FILES ORDERS KILLS SEED [URL]``.

It knows the plan, reads the engine's database with plain SQL and read-only, the tree, the store's folder, and the logs
that the services kept. It asks the engine nothing. Exit code 0 if every finding is good. ``URL``: of the database, if
it is none on a file; several machines have worked on it then.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from demo_parts import orders_check, store_check, trace
from demo_parts.children import end_with_parent
from demo_parts.findings import Finding, counted, finding
from demo_parts.ledger import Ledger
from demo_parts.places import Places, source_tree
from demo_parts.plan import Plan, make_plan
from demo_parts.screen import Screen, report

_PROBLEMS_SHOWN: Final = 5
# A server soon notices that somebody has gone.
_FORGOTTEN_SECONDS: Final = 15.0
_INDEXES: Final = """
    SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE relnamespace = 'durable_trio'::regnamespace AND relpersistence = 'p' ORDER BY 1
"""


def check_file(ledger: Ledger) -> Iterator[Finding]:
    """Check the engine's file in itself."""
    damage = [row[0] for row in ledger.ask("PRAGMA integrity_check") if row[0] != "ok"]
    damage += [f"foreign key of {row[0]}" for row in ledger.ask("PRAGMA foreign_key_check")]
    yield finding("the file is sound: integrity_check, foreign_key_check", damage)


def check_server(ledger: Ledger) -> Iterator[Finding]:
    """Check that nobody has left anything on the server: a session, a lock, a transaction that is prepared."""
    until = time.monotonic() + _FORGOTTEN_SECONDS
    while (left := list(_left_on_server(ledger))) and time.monotonic() < until:
        time.sleep(0.2)  # it may still be ending them
    yield finding("no session and no lock is left over on the server", left)


def check_indexes(url: str) -> Iterator[Finding]:
    """Check that each index has each row of its table; where the server has no ``amcheck``, nothing is said."""
    import psycopg  # only there

    with psycopg.connect(url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'").fetchone():
            return
        connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        problems = []
        for (index,) in connection.execute(_INDEXES).fetchall():
            try:
                connection.execute("SELECT bt_index_check(%s::regclass, true)", [index])
            except psycopg.Error as error:
                problems.append(f"{index}: {error}")
    yield finding("the database is sound: each index has each row, says amcheck", problems)


def _left_on_server(ledger: Ledger) -> Iterator[str]:
    for table in (
        "pg_locks WHERE locktype = 'advisory'",
        "pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        "pg_prepared_xacts",
    ):
        ((count,),) = ledger.ask(f"SELECT count(*) FROM {table}")
        if count:
            yield f"{count} rows left in {table}"


def check_runs(ledger: Ledger, plan: Plan) -> Iterator[Finding]:
    """Check that all has ended."""
    counts = Counter(dict(ledger.ask("SELECT status, count(*) FROM runs GROUP BY status")))
    unfinished = [f"{counts[name]} runs {name}" for name in counts if name not in ("completed", "failed")]
    if counts.total() != len(plan.files) + len(plan.orders):
        unfinished.append(f"{counts.total()} runs instead of {len(plan.files) + len(plan.orders)}")
    for table in ("waits", "executors WHERE ended_at IS NULL", "runs WHERE owner IS NOT NULL"):
        ((count,),) = ledger.ask(f"SELECT count(*) FROM {table}")
        if count:
            unfinished.append(f"{count} rows left in {table}")
    yield finding(f"{counts.total():,} runs have ended, and no run, wait or owner is left over", unfinished)


def check_trace(ledger: Ledger, counts: trace.Counts) -> Iterator[Finding]:
    """Check what the serving processes noted against what is recorded."""
    ((recorded,),) = ledger.ask("SELECT sum(attempt) FROM history WHERE kind IN ('step', 'compensation')")
    problems = []
    if counts.repeated_within:
        problems.append(f"{counts.repeated_within} attempts were begun twice by the same process")
    if counts.attempts_begun - counts.repeated_by_kill != (recorded or 0):
        problems.append(
            f"{recorded} attempts are recorded, {counts.attempts_begun} were begun, "
            f"{counts.repeated_by_kill} of them again"
        )
    what = "its run was lost" if ledger.is_postgres else "a kill came"
    yield finding(f"a step was begun again only where {what} before its commit", problems)


@attrs.frozen(kw_only=True)
class Figures:
    """What the kills cost."""

    recorded: int
    counts: trace.Counts
    store_repeats: int
    shop: orders_check.ShopFigures
    executors: int
    has_machines: bool

    def lines(self) -> Iterator[str]:
        """Return them as text."""
        counts, shop = self.counts, self.shop
        kill = "trouble" if self.has_machines else "kill"
        yield f"{self.recorded:7,}  rows are recorded in the histories"
        yield f"{counts.attempts_begun:7,}  times a step's function began to run,"
        yield f"{counts.repeated_by_kill:7,}  of them again, as a {kill} had come before the commit of its outcome"
        yield f"{self.store_repeats:7,}  chunks came to the object store again, which knew them"
        yield f"{counts.given_after_kill:7,}  outcomes were replayed after a {kill}: given back, nothing ran"
        yield f"{counts.given_after_rest:7,}  outcomes were replayed to runs that had left memory to wait"
        yield f"{shop.unavailable:7,}  times the shop was away; its answer was lost {counted(shop.lost, 'time')}"
        yield f"{shop.known:7,}  requests came to the shop again, which knew them by their key"
        if self.has_machines:
            yield f"{self.executors:7,}  executors there were; who is declared dead becomes another one"
        else:
            yield f"{self.executors:7,}  processes have executed, one after the other"


def main(folder: Path, files: int, orders: int, kills: int, seed: int, url: str | None = None) -> bool:
    """Check everything, write what was found, and return whether it is good."""
    places = Places(folder)
    tree = source_tree()
    plan = make_plan(tree, files=files, orders=orders, kills=kills, seed=seed)
    store_log = read_log(places.store_log)
    shop_log = read_log(places.shop_log)
    with open(places.trace, encoding="utf-8") as lines:
        counts = trace.count(lines)
    with Ledger(url or places.database) as ledger:
        findings = [
            *(check_file(ledger) if url is None else [*check_indexes(url), *check_server(ledger)]),
            *check_runs(ledger, plan),
            *store_check.check_objects(tree, plan, places.objects),
            *store_check.check_history(ledger, tree, plan),
            *store_check.check_log(plan, store_log),
            *orders_check.check_runs(ledger, plan),
            *orders_check.check_signals(ledger, plan),
            *orders_check.check_shop(plan, shop_log),
            *check_trace(ledger, counts),
        ]
        ((recorded,),) = ledger.ask("SELECT count(*) FROM history")
        ((executors,),) = ledger.ask("SELECT count(*) FROM executors")
    if url is None and executors != kills + 1:
        findings.append(finding(f"{counted(kills, 'kill')}", [f"{executors} processes have executed, not {kills + 1}"]))
    figures = Figures(
        recorded=recorded,
        counts=counts,
        store_repeats=sum(entry["again"] for entry in store_log),
        shop=orders_check.shop_figures(shop_log),
        executors=executors,
        has_machines=url is not None,
    )
    write(findings, figures)
    return all(item.is_good for item in findings)


def write(findings: list[Finding], figures: Figures) -> None:
    """Write the findings and the figures."""
    screen = Screen()
    for item in findings:
        report(item.is_good, item.text, screen)
        for problem in item.problems[:_PROBLEMS_SHOWN]:
            screen.line(f"      {problem}", "red")
        if len(item.problems) > _PROBLEMS_SHOWN:
            screen.line(f"      and {len(item.problems) - _PROBLEMS_SHOWN} more", "red")
    screen.heading(f"What the {'troubles' if figures.has_machines else 'kills'} cost")
    for line in figures.lines():
        screen.line(f"  {line}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a service's log."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    end_with_parent()
    files, orders, kills, seed = map(int, sys.argv[2:6])
    url = sys.argv[6] if len(sys.argv) > 6 else None
    sys.exit(0 if main(Path(sys.argv[1]), files, orders, kills, seed, url) else 1)
