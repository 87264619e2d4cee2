"""Checks the checkouts: in the engine's database, and in the log of the shop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from demo_parts.findings import Finding, counted, finding
from demo_parts.ledger import Ledger
from demo_parts.plan import Plan
from demo_parts.workflows import checkout


def check_runs(ledger: Ledger, plan: Plan) -> Iterator[Finding]:
    """Check that each order has ended as it must, with the rows that belong to it."""
    query = "SELECT id, status, error FROM runs WHERE workflow = ?"
    runs = {run: (status, error) for run, status, error in ledger.ask(query, checkout.name)}
    query = """
        SELECT runs.id, history.name FROM history JOIN runs USING (run)
        WHERE runs.workflow = ? ORDER BY history.run, history.seq
    """
    names: dict[str, list[str]] = {}
    for run, name in ledger.ask(query, checkout.name):
        names.setdefault(run, []).append(name)
    problems = []
    for planned in plan.orders:
        run = planned.order.id
        status, error = runs.get(run, ("missing", None))
        last = [] if planned.is_declined else ["ship"]
        if status != ("failed" if planned.is_declined else "completed"):
            problems.append(f"{run} is {status}: {error}")
        elif planned.is_declined and "OrderDeclined" not in (error or ""):
            problems.append(f"{run} has failed for another reason: {error}")
        if names.get(run, [])[: 3 + len(last)] != ["validate", "pay", "warehouse", *last]:
            problems.append(f"{run} has the history {names.get(run)}")
    declined = sum(planned.is_declined for planned in plan.orders)
    shipped = len(plan.orders) - declined
    yield finding(f"{counted(shipped, 'order')} completed; {declined} declined, and failed as they must", problems)


def check_signals(ledger: Ledger, plan: Plan) -> Iterator[Finding]:
    """Check that each signal was taken once, also where it was sent twice."""
    query = """
        SELECT runs.id, mailbox.name, mailbox.seq, history.name, history.result, mailbox.payload
        FROM mailbox JOIN runs USING (run) LEFT JOIN history ON history.run = mailbox.run AND history.seq = mailbox.seq
    """
    taken: Counter[str] = Counter()
    problems = []
    for run, name, seq, row, result, payload in ledger.ask(query):
        taken[run] += 1
        if seq is None or row != name or json.loads(result) != json.loads(payload):
            problems.append(f"the signal {name!r} to {run} was not taken as it was sent")
    for planned in plan.orders:
        if taken[planned.order.id] != 1:
            problems.append(f"{planned.order.id} has {taken[planned.order.id]} signals")
    twice = sum(planned.is_sent_twice for planned in plan.orders)
    yield finding(
        f"{counted(len(plan.orders), 'signal')} taken once each, also the {twice} that were sent twice", problems
    )


def check_shop(plan: Plan, log: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Check the shop's effects: what it did for the first time, not what it was asked."""
    effects = [entry for entry in log if entry["outcome"] == "done"]
    charged = Counter((entry["order"], entry["cents"]) for entry in effects if entry["path"] == "/charges")
    refunded = Counter((entry["order"], entry["cents"]) for entry in effects if entry["path"] == "/refunds")
    shipped = Counter(entry["order"] for entry in effects if entry["path"] == "/shipments")
    paid = {(planned.order.id, planned.order.cents) for planned in plan.orders}
    declined = {(planned.order.id, planned.order.cents) for planned in plan.orders if planned.is_declined}
    sent = {planned.order.id for planned in plan.orders if not planned.is_declined}
    yield finding(
        f"{counted(charged.total(), 'charge')}: one for each order, of the right amount", _differences(charged, paid)
    )
    yield finding(
        f"{counted(refunded.total(), 'refund')} for {len(declined)} declined: one for each, of the whole amount",
        _differences(refunded, declined),
    )
    yield finding(
        f"{counted(shipped.total(), 'parcel')}: one for each order that is completed", _differences(shipped, sent)
    )


def _differences(found: Counter[Any], expected: set[Any]) -> Iterator[str]:
    for what in sorted(expected | set(found)):
        if found[what] != (what in expected):
            yield f"{what}: {found[what]} times instead of {int(what in expected)}"


@attrs.frozen(kw_only=True)
class ShopFigures:
    """How unreliable the shop was."""

    unavailable: int
    lost: int
    known: int


def shop_figures(log: Sequence[dict[str, Any]]) -> ShopFigures:
    """Return the figures of the shop's log."""
    return ShopFigures(
        unavailable=sum(entry["outcome"] == "unavailable" for entry in log),
        lost=sum(entry.get("reply_lost", False) for entry in log),
        known=sum(entry["outcome"] == "known" for entry in log),
    )
