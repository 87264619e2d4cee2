"""The contract of what ``check`` asks: which runs do not go on as they should."""

from __future__ import annotations

import json

import attrs

from durable_trio.errors import DurableError
from durable_trio.records import RunStatus
from durable_trio.stores.contract import ReapExecutor, Store
from durable_trio.stores.examination_questions import Examination, Examine
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    fence_of,
    finish,
    in_status,
    one,
    owned,
    park,
    register,
    start,
)


def examined(store: Store, *, due_before: int = 1000) -> Examination:
    """Return what there is to be said against a store."""
    return store.ask(Examine(due_before=due_before, set_aside="was set aside"))


def error(message: str, kind: type[Exception] = DurableError) -> str:
    """Return a failure as it is stored."""
    return json.dumps({"type": f"{kind.__module__}.{kind.__name__}", "message": message})


class ExaminationContract(ContractKit):
    """What there is to be said against a store."""

    def test_a_store_in_which_all_is_well_is_found_so(self, store: Store) -> None:
        nothing = Examination(owned_counts={}, overdue_counts={}, not_undone=(), set_aside=(), expired=())
        assert not examined(store).damage
        assert attrs.evolve(examined(store), damage=()) == nothing
        for status in RunStatus:
            if status.is_final:
                in_status(store, status, status.value)
        start(store, "later", due_at=1001)
        assert attrs.evolve(examined(store), damage=()) == nothing

    def test_runs_are_counted_by_who_owns_them(self, store: Store) -> None:
        first, second = register(store), register(store)
        for number, owner in enumerate((first, second, second)):
            start(store, f"run-{number}", owner=owner)
        assert dict(examined(store).owned_counts) == {first: 1, second: 2}
        one(store, ReapExecutor(executor=second, now=90))
        assert dict(examined(store).owned_counts) == {first: 1}

    def test_overdue_is_what_was_due_and_nobody_has_and_is_not_parked(self, store: Store) -> None:
        start(store, "due", due_at=1000, version=3)
        start(store, "due too", due_at=7, version=3)
        start(store, "other", due_at=7, workflow="other", version=1)
        start(store, "not due", due_at=1001, version=3)
        owned(store, "owned")
        _, fence = owned(store, "parked")
        park(store, fence)
        assert dict(examined(store).overdue_counts) == {("work", 3): 2, ("other", 1): 1}

    def test_steps_that_are_not_undone_are_told_of_the_last_runs_first(self, store: Store) -> None:
        for number in range(3):
            _, fence = owned(store, f"run-{number}")
            errors = "[]" if number == 1 else '["not undone"]'
            finish(store, fence, RunStatus.FAILED, error=error("no"), compensation_errors=errors, now=50 + number)
        assert examined(store).not_undone == ("run-2", "run-0")

    def test_those_that_were_set_aside_are_known_by_their_error(self, store: Store) -> None:
        texts = {
            "aside": error("run 'aside' was set aside: again"),
            "of another type": error("it was set aside", ValueError),
            "of another text": error("it was put aside"),
            "aside later": error("run 'aside later' was set aside: again"),
        }
        executor = register(store)
        for number, (run_id, text) in enumerate(texts.items()):
            fence = fence_of(start(store, run_id, owner=executor))
            finish(store, fence, RunStatus.FAILED, error=text, now=50 + number)
        assert examined(store).set_aside == ("aside later", "aside")

    def test_expired_is_what_goes_on_though_its_time_is_over(self, store: Store) -> None:
        _, fence = owned(store, "ended", ttl_at=900)
        finish(store, fence)
        owned(store, "late", ttl_at=1000)
        owned(store, "later", ttl_at=900)
        owned(store, "in time", ttl_at=1001)
        owned(store, "for ever")
        assert examined(store).expired == ("later", "late")
