"""The contract of codes: a run goes only to code that may fit it, each is tried once, and what is parked is derived."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from durable_trio.errors import OwnershipLost, RunConflict
from durable_trio.limits import REFUSALS_MAX
from durable_trio.records import RunStatus
from durable_trio.rows import NO_VERSION, RunRow, ServedCode
from durable_trio.stores.code_questions import CountParked, ListCodes
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    Fence,
    Operation,
    ParkDamaged,
    ReapExecutor,
    Refuse,
    Refused,
    RegisterExecutor,
    RequestCancel,
    ResumeRun,
    Store,
)
from durable_trio.stores.questions import CountBacklog, CountRuns, ListRuns, RunFilter
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    abandon_operation,
    fence_of,
    finish,
    one,
    register,
    row_of,
    signal,
    stale,
    start,
    suspend,
)


class Server:
    """An executor with one code of one version of the workflow "work"."""

    def __init__(self, store: Store, fingerprint: str, version: int = 0) -> None:
        self._store = store
        codes = (("work", version, fingerprint),)
        register = RegisterExecutor(pid=1, host="h", lease=1000, codes=codes, now=0)
        self.executor: int = one(store, register)
        (self.code,) = store.ask(ListCodes(self.executor))
        self.codes = (ServedCode("work", version, self.code.code),)

    def claim(self, *, now: int = 1000, limit: int = 10) -> list[RunRow]:
        """Claim what is due."""
        return list(one(self._store, ClaimDue(owner=self.executor, codes=self.codes, now=now, limit=limit)))

    def refuse(self, row: RunRow, *, now: int = 100) -> Any:
        """Give back a run that was claimed."""
        problem = f'{{"kind": "divergence", "text": "{self.code.fingerprint}"}}'
        return one(self._store, Refuse(fence=fence_of(row), code=self.code.code, problem=problem, now=now))

    def end(self) -> None:
        """Die."""
        one(self._store, ReapExecutor(executor=self.executor, now=200))

    @property
    def due_count(self) -> int:
        """How many runs it could claim now."""
        return self._store.ask(CountBacklog(self.codes, now=1000, due_max=99)).due_count


def parked(store: Store) -> list[str]:
    """Return which runs are parked, by all that can be asked."""
    by_filter = [row.id for row in store.ask(ListRuns(RunFilter(is_parked=True), limit=99))]
    by_row = [row.id for row in store.ask(ListRuns(RunFilter(), limit=99)) if row.problem is not None]
    assert sorted(by_filter) == sorted(by_row) == sorted(store.ask(CountRuns()).parked)
    assert store.ask(CountParked()) == len(by_row)
    of_workflow = store.ask(ListRuns(RunFilter(is_parked=True, workflow="work"), limit=99))
    assert sorted(row.id for row in of_workflow if row.workflow == "work") == sorted(by_row)
    return sorted(by_row)


class CodeContract(ContractKit):
    """Codes that executors have, and runs that they refuse."""

    def test_a_code_has_the_same_number_whoever_has_it_and_when(self, store: Store) -> None:
        first, again, other = Server(store, "one"), Server(store, "one"), Server(store, "two")
        assert first.code == again.code
        assert first.code.code != other.code.code
        assert [code.fingerprint for code in store.ask(ListCodes())] == ["one", "two"]
        first.end()
        again.end()
        assert store.ask(ListCodes(first.executor)) == ()
        assert Server(store, "one").code == first.code
        assert Server(store, "one", version=1).code.code not in (first.code.code, other.code.code)

    def test_a_run_that_is_refused_is_due_for_others_and_not_for_that_code(self, store: Store) -> None:
        start(store)
        old, twin, new = Server(store, "old"), Server(store, "old"), Server(store, "new")
        (row,) = old.claim()
        assert old.refuse(row) == Refused((new.code.code,))
        after = row_of(store)
        assert (after.status, after.owner, after.wake_at, after.token) == (RunStatus.SUSPENDED, None, 100, 1)
        assert (after.problem, after.recoveries) == (None, 0)
        assert after.changed > row.changed
        assert (old.claim(), twin.claim(), old.due_count, twin.due_count, new.due_count) == ([], [], 0, 0, 1)
        assert parked(store) == []
        assert [each.id for each in new.claim()] == ["run"]

    def test_a_run_that_all_living_code_has_refused_is_parked_until_other_code_comes(self, store: Store) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        old.refuse(*old.claim())
        assert new.refuse(*new.claim(), now=101) == Refused(())
        assert parked(store) == ["run"]
        assert row_of(store).problem == '{"kind": "divergence", "text": "new"}'
        assert (old.claim(), new.claim(), old.due_count, new.due_count) == ([], [], 0, 0)
        mended = Server(store, "mended")
        assert parked(store) == []
        (row,) = mended.claim()
        assert row.problem is None
        assert parked(store) == []

    def test_a_run_is_parked_as_soon_as_the_last_code_that_may_fit_it_is_gone(self, store: Store) -> None:
        start(store)
        old, new, twin = Server(store, "old"), Server(store, "new"), Server(store, "new")
        old.refuse(*old.claim())
        new.end()
        assert parked(store) == []
        twin.end()
        assert parked(store) == ["run"]
        assert old.claim() == []

    def test_what_waits_for_other_code_waits_as_before_and_is_parked_meanwhile(self, store: Store) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        old.refuse(*old.claim())
        (row,) = new.claim()
        assert suspend(store, fence_of(row), wake_at=900, waits_for=("go",)) is True
        assert parked(store) == []
        new.end()
        assert parked(store) == ["run"]
        signal(store)
        assert (old.claim(), old.due_count) == ([], 0)
        assert [row.id for row in Server(store, "new").claim()] == ["run"]

    def test_a_run_that_compensates_goes_on_compensating(self, store: Store) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        (row,) = old.claim()
        assert one(store, Advance(fence=fence_of(row), status=RunStatus.COMPENSATING, error='{"type": "X"}', now=20))
        old.refuse(row)
        assert row_of(store).status is RunStatus.COMPENSATING
        new.refuse(*new.claim())
        assert row_of(store).status is RunStatus.COMPENSATING
        assert parked(store) == ["run"]
        assert Server(store, "mended").claim()[0].status is RunStatus.COMPENSATING

    @pytest.mark.parametrize("by", ["a claim", "a refusal"])
    def test_codes_that_nobody_has_any_more_are_forgotten_and_may_try_once_more(self, store: Store, by: str) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        old.refuse(*old.claim())
        if by == "a claim":
            old.end()
        (row,) = new.claim()
        old.end()
        if by == "a refusal":
            assert new.refuse(row) == Refused(())
        back = Server(store, "old")
        if by == "a claim":
            assert suspend(store, fence_of(row), wake_at=300) is True
        assert [each.id for each in back.claim()] == ["run"]

    def test_a_code_whose_number_is_part_of_anothers_is_not_taken_for_it(self, store: Store) -> None:
        start(store)
        servers = [Server(store, f"code {number}") for number in range(12)]
        assert [server.code.code for server in servers] == list(range(1, 13))
        servers[11].refuse(*servers[11].claim())
        assert [server.due_count for server in servers] == [1] * 11 + [0]
        for server in servers[10:0:-1]:
            server.refuse(*server.claim())
        assert parked(store) == []
        assert [server.due_count for server in servers] == [1] + [0] * 11

    def test_a_run_that_very_many_living_codes_have_refused_is_parked_until_somebody_resumes_it(
        self, store: Store
    ) -> None:
        run = start(store).run
        codes = tuple(("work", 0, f"code {number}") for number in range(REFUSALS_MAX + 2))
        executor = one(store, RegisterExecutor(pid=1, host="h", lease=1000, codes=codes, now=0))
        served = [ServedCode("work", 0, code.code) for code in store.ask(ListCodes(executor))]
        batch: list[Operation] = []
        for token, code in enumerate(served[:-1], start=1):
            batch.append(ClaimRun(owner=executor, run_id="run", codes=(code,), now=50))
            fence = Fence(run, executor, token)
            batch.append(Refuse(fence=fence, code=code.code, problem=f'{{"text": "{token}"}}', now=60))
        outcomes = store.apply(batch)
        assert outcomes is not None
        assert outcomes[-3] == Refused((served[-2].code, served[-1].code))
        assert outcomes[-1] == Refused(())
        assert parked(store) == ["run"]
        row = row_of(store)
        assert (row.status, row.owner, row.wake_at) == (RunStatus.SUSPENDED, None, None)
        assert row.problem == f'{{"text": "{REFUSALS_MAX + 1}"}}'
        assert one(store, ClaimDue(owner=executor, codes=(served[-1],), now=1000, limit=9)) == ()
        one(store, ResumeRun(run_id="run", now=1000))
        assert parked(store) == []
        assert len(one(store, ClaimDue(owner=executor, codes=(served[0],), now=1000, limit=9))) == 1

    def test_refusing_is_for_the_owner_alone(self, store: Store) -> None:
        start(store)
        server, other = Server(store, "old"), Server(store, "new")
        (row,) = server.claim()
        for fence in (stale(fence_of(row)), Fence(row.run, other.executor, row.token)):
            assert isinstance(one(store, Refuse(fence=fence, code=1, problem="{}", now=9)), OwnershipLost)
        assert row_of(store) == row
        finish(store, fence_of(row))
        assert isinstance(server.refuse(row), OwnershipLost)
        assert parked(store) == []

    def test_a_persons_word_is_one_more_try_for_each_code(self, store: Store) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        operations: Iterator[Operation] = itertools.cycle(
            [ResumeRun(run_id="run", now=300), RequestCancel(run_id="run", reason="null", now=300)]
        )
        for _ in range(4):
            for server in (old, new):
                (row,) = server.claim()
                # With a history, so that a cancel cannot end it at once.
                one(store, Advance(fence=fence_of(row), published=(("k", "1"),), now=20))
                server.refuse(row)
            assert parked(store) == ["run"]
            one(store, next(operations))
            after = row_of(store)
            if after.status.is_final:  # cancelled, for it has done nothing
                assert after.problem is None
                return
            assert (after.wake_at, after.problem, old.due_count, new.due_count) == (300, None, 1, 1)

    def test_resuming_what_is_refused_and_not_parked_is_no_error(self, store: Store) -> None:
        start(store)
        old, new = Server(store, "old"), Server(store, "new")
        old.refuse(*old.claim())
        assert isinstance(one(store, ResumeRun(run_id="run", now=300)), RunRow)
        assert (old.due_count, new.due_count) == (1, 1)
        new.claim()
        assert isinstance(one(store, ResumeRun(run_id="run", now=300)), RunConflict)

    def test_a_parked_run_that_is_abandoned_or_begins_anew_is_so_no_more(self, store: Store) -> None:
        start(store, "gone")
        start(store, "anew")
        server, other = Server(store, "old"), Server(store, "new")
        rows = server.claim()
        for row in rows:
            server.refuse(row)
        for row in other.claim():
            if row.id == "anew":
                assert one(store, ContinueAsNew(fence=fence_of(row), args="[2]", now=60)) is True
            else:
                other.refuse(row)
        assert parked(store) == ["gone"]
        one(store, abandon_operation("gone"))
        assert parked(store) == []
        assert [row.id for row in server.claim()] == ["anew"]

    def test_what_is_damaged_is_set_aside_for_good(self, store: Store) -> None:
        start(store)
        server = Server(store, "old")
        (row,) = server.claim()
        assert one(store, ParkDamaged(fence=fence_of(row), problem='{"kind": "damaged"}')) is True
        after = row_of(store)
        assert (after.status, after.wake_at, after.owner) == (RunStatus.SUSPENDED, None, None)
        assert after.problem == '{"kind": "damaged"}'
        assert (parked(store), Server(store, "new").claim()) == (["run"], [])
        claim = ClaimRun(owner=server.executor, run_id="run", codes=server.codes, now=300)
        assert isinstance(one(store, claim), RunConflict)
        assert row_of(store) == after
        claimed = one(store, attrs.evolve(claim, is_asked_for=True))
        assert (claimed.owner, claimed.problem) == (server.executor, None)

    # ---- versions ------------------------------------------------------------------------------------------------

    def test_a_run_goes_only_to_code_of_its_version(self, store: Store) -> None:
        start(store, "first", version=1)
        start(store, "second", version=2)
        first, second = Server(store, "one", version=1), Server(store, "two", version=2)
        assert (first.due_count, second.due_count) == (1, 1)
        assert [(row.id, row.version) for row in second.claim()] == [("second", 2)]
        assert [(row.id, row.version) for row in first.claim()] == [("first", 1)]

    def test_a_run_of_no_version_yet_gets_the_newest_of_whoever_claims_it(self, store: Store) -> None:
        start(store)
        assert row_of(store).version == NO_VERSION
        server = Server(store, "one", version=1)
        codes = (*server.codes, ServedCode("work", 3, 77), ServedCode("work", 2, 78))
        (row,) = one(store, ClaimDue(owner=server.executor, codes=codes, now=99, limit=9))
        assert row.version == row_of(store).version == 3
        server.end()
        assert Server(store, "one", version=1).claim() == []
        assert [row.version for row in Server(store, "three", version=3).claim()] == [3]

    def test_code_of_another_version_makes_a_refused_run_no_less_parked(self, store: Store) -> None:
        start(store, version=1)
        first, second = Server(store, "one", version=1), Server(store, "two", version=2)
        assert first.refuse(*first.claim()) == Refused(())
        assert (parked(store), second.claim()) == (["run"], [])

    def test_a_claim_by_id_asks_for_the_code_too(self, store: Store) -> None:
        start(store, version=1)
        first, second = Server(store, "one", version=1), Server(store, "two", version=2)
        first.refuse(*first.claim())

        def claim(server: Server, *, is_asked_for: bool = False) -> Any:
            codes = server.codes
            claim = ClaimRun(owner=server.executor, run_id="run", codes=codes, is_asked_for=is_asked_for, now=9)
            return one(store, claim)

        for server in (first, second):
            assert isinstance(claim(server), RunConflict)
        assert isinstance(claim(second, is_asked_for=True), RunConflict)
        assert claim(first, is_asked_for=True).owner == first.executor

    # ---- their places in line ------------------------------------------------------------------------------------

    def test_runs_that_were_refused_get_half_of_a_claim_while_others_are_due(self, store: Store) -> None:
        for number in range(12):
            start(store, f"old {number:02}", due_at=number)
        old = Server(store, "old")
        for row in old.claim(limit=99):
            old.refuse(row)
        for number in range(12):
            start(store, f"new {number:02}", due_at=20 + number)
        mended = Server(store, "mended")
        assert mended.due_count == 24
        claimed = [row.id for row in mended.claim(limit=6)]
        assert claimed == ["old 00", "old 01", "old 02", "new 00", "new 01", "new 02"]
        # The one that is due first, where there is one place: the old ones are since they were refused.
        assert [row.id for row in mended.claim(limit=1)] == ["new 03"]
        start(store, "newest", due_at=150)
        for number in range(4, 12):
            assert [row.id for row in mended.claim(limit=1)] == [f"new {number:02}"]
        assert [row.id for row in mended.claim(limit=1)] == ["old 03"]
        assert [row.id for row in mended.claim(limit=99)] == [
            *(f"old {number:02}" for number in range(4, 12)),
            "newest",
        ]

    def test_they_get_all_of_it_while_no_others_are(self, store: Store) -> None:
        for number in range(4):
            start(store, f"run {number}")
        old, new = Server(store, "old"), Server(store, "new")
        for row in old.claim():
            old.refuse(row)
        assert len(new.claim(limit=3)) == 3
        assert len(new.claim(limit=3)) == 1

    @pytest.mark.parametrize("order", list(itertools.permutations(["refuse", "register", "reap"])))
    def test_no_wake_up_is_lost_in_whatever_order_a_refusal_and_executors_come(
        self, store: Store, order: tuple[str, ...]
    ) -> None:
        start(store)
        old, gone = Server(store, "old"), Server(store, "gone")
        (row,) = old.claim()
        servers = []
        for what in order:
            match what:
                case "refuse":
                    old.refuse(row)
                case "register":
                    servers.append(Server(store, "new"))
                case "reap":
                    gone.end()
        assert (parked(store), old.due_count, servers[0].due_count) == ([], 0, 1)

    def test_random_executors_find_each_run_that_fits_them_and_try_it_once(self, store: Store) -> None:
        dice = random.Random(5)
        names = ["a", "b", "c", "d"]
        fits = {f"run {number}": {name for name in names if dice.random() < 0.3} for number in range(25)}
        for run_id in fits:
            start(store, run_id)
        living: list[tuple[str, Server]] = []
        tried: set[tuple[str, int]] = set()
        lives = itertools.count()
        life_of: dict[str, int] = {}
        ended = set[str]()
        for _ in range(300):
            if living and dice.random() < 0.15:
                living.pop(dice.randrange(len(living)))[1].end()
            if len(living) < 3:
                name = dice.choice(names)
                if name not in [each for each, _ in living]:
                    life_of[name] = next(lives)
                living.append((name, Server(store, name)))
            name, server = dice.choice(living)
            for row in server.claim(limit=dice.randrange(1, 4)):
                assert (row.id, life_of[name]) not in tried, "tried twice in one life of the code"
                tried.add((row.id, life_of[name]))
                if name in fits[row.id]:
                    finish(store, fence_of(row))
                    ended.add(row.id)
                else:
                    server.refuse(row)
        while sum(self._go_on(store, name, server, fits) for name, server in living):
            pass
        alive = {name for name, _ in living}
        for run_id, codes in fits.items():
            row = row_of(store, run_id)
            assert row.status.is_final or not (codes & alive), f"{run_id} fits {codes} of {alive}, and waits"
            assert (row.problem is not None) is not row.status.is_final

    @staticmethod
    def _go_on(store: Store, name: str, server: Server, fits: dict[str, set[str]]) -> int:
        found = server.claim()
        for row in found:
            if name in fits[row.id]:
                finish(store, fence_of(row))
            else:
                server.refuse(row)
        return len(found)

    def test_an_executor_without_codes_makes_no_run_less_parked(self, store: Store) -> None:
        start(store)
        old = Server(store, "old")
        old.refuse(*old.claim())
        register(store)
        assert parked(store) == ["run"]
