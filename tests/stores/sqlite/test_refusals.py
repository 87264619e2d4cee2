"""What is kept of refusals: those of the codes that have refused a run, and none of a run that has ended."""

from __future__ import annotations

import itertools
import random

import pytest

from durable_trio.rules.refused import codes_in
from durable_trio.stores.contract import ClaimRun, ContinueAsNew, ForgetDeadCodes, ParkDamaged, RequestCancel, ResumeRun
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.codes import Server
from durable_trio.testing.store_contract.kit import abandon_operation, fence_of, finish, one, start, suspend


def kept(store: SqliteStore) -> dict[str, tuple[set[int], set[int]]]:
    """Return by which codes runs were refused, and by which a refusal is kept."""
    connection = store.connect()
    try:
        rows = connection.execute(
            "SELECT id, refused, (SELECT group_concat(code) FROM refusals WHERE run = runs.run) FROM runs"
        ).fetchall()
    finally:
        connection.close()
    return {run_id: (codes_in(refused), codes_in(codes or "")) for run_id, refused, codes in rows}


@pytest.mark.parametrize("by", ["its end", "its cancel", "being abandoned"])
def test_of_a_run_that_has_ended_no_refusal_is_kept(store: SqliteStore, by: str) -> None:
    start(store)
    old, new = Server(store, "old"), Server(store, "new")
    old.refuse(*old.claim())
    assert kept(store) == {"run": ({1}, {1})}
    if by == "its end":
        finish(store, fence_of(*new.claim()))
    elif by == "its cancel":
        one(store, RequestCancel(run_id="run", reason="null", now=300))
    else:
        one(store, abandon_operation("run"))
    assert kept(store)["run"][1] == set()


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_the_set_whatever_happens(store: SqliteStore, seed: int) -> None:
    dice, names = random.Random(seed), itertools.count()
    for number in range(6):
        start(store, f"run {number}")
    servers = [Server(store, f"code {next(names)}") for _ in range(3)]
    for _ in range(60):
        if dice.random() < 0.1:
            servers.pop(dice.randrange(3)).end()
            servers.append(Server(store, f"code {next(names)}"))
        server = dice.choice(servers)
        for row in server.claim(limit=2):
            match dice.randrange(6):
                case 0:
                    suspend(store, fence_of(row), wake_at=dice.choice([1, 900]))
                case 1:
                    one(store, ContinueAsNew(fence=fence_of(row), args="[]", now=60))
                case _:
                    server.refuse(row)
        name = f"run {dice.randrange(6)}"
        match dice.randrange(8):
            case 0:
                one(store, ResumeRun(run_id=name, now=300))
            case 1:
                claim = ClaimRun(owner=server.executor, run_id=name, codes=server.codes, is_asked_for=True, now=9)
                row = one(store, claim)
                if not isinstance(row, Exception):
                    server.refuse(row)
            case 2:
                for codes, _ in kept(store).values():
                    one(store, ForgetDeadCodes(workflow="work", version=0, codes=frozenset(codes), now=300))
        assert all(codes == of_refusals for codes, of_refusals in kept(store).values()), kept(store)
    for row in servers[0].claim(limit=9):
        one(store, ParkDamaged(fence=fence_of(row), problem='{"kind": "damaged"}'))
    assert all(codes == of_refusals for codes, of_refusals in kept(store).values()), kept(store)
