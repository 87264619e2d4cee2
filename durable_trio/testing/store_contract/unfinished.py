"""The contract of what a rehearsal asks: which runs have not ended, and all that there is of some of them."""

from __future__ import annotations

from durable_trio.records import RunStatus
from durable_trio.stores.contract import Store
from durable_trio.stores.questions import LoadRun
from durable_trio.stores.unfinished_questions import ListUnfinished, LoadUnfinished
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    add,
    finish,
    in_status,
    owned,
    park,
    signal,
    start,
    step,
)

_UNFINISHED = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.SUSPENDED, RunStatus.COMPENSATING)


class UnfinishedContract(ContractKit):
    """Runs that have not ended."""

    def test_they_are_listed_by_workflow_whatever_their_status(self, store: Store) -> None:
        late = start(store, "late", workflow="z", created_at=2).run
        runs = [in_status(store, status, status.value)[0].run for status in _UNFINISHED]
        for status in RunStatus:
            if status.is_final:
                in_status(store, status, status.value)
        _, fence = owned(store, "parked")
        park(store, fence)
        assert store.ask(ListUnfinished()) == (*runs, fence.run, late)
        assert store.ask(ListUnfinished(workflow="z")) == (late,)
        assert store.ask(ListUnfinished(workflow="none")) == ()
        assert store.ask(ListUnfinished(workflow="z", created_before=2)) == ()
        assert store.ask(ListUnfinished(workflow="z", created_before=3)) == (late,)

    def test_a_sample_has_its_share_of_each_workflow_and_last_row(self, store: Store) -> None:
        places: dict[int, str] = {}
        for number in range(12):
            row, fence = owned(store, f"run-{number}")
            name = "rare" if number == 11 else "often"
            add(store, fence, step(1, "first"), step(2, name))
            places[row.run] = name
        places[start(store, "other", workflow="other").run] = "other"
        chosen = store.ask(ListUnfinished(sample=5))
        assert sorted(places[run] for run in chosen) == ["often", "often", "often", "other", "rare"]
        assert sorted(store.ask(ListUnfinished(sample=100))) == sorted(places)

    def test_what_there_is_of_them_is_what_an_executor_would_load(self, store: Store) -> None:
        row, fence = owned(store, "run")
        add(store, fence, step(1))
        signal(store)
        ended, fence = owned(store, "ended")
        finish(store, fence)
        page = store.ask(LoadUnfinished([row.run, ended.run, 4711]))
        assert page.taken == 3
        assert [found.row.id for found in page.runs] == ["run"]
        assert page.runs[0].loaded == store.ask(LoadRun(row.run))
        assert not page.runs[0].cancels_children
        assert store.ask(LoadUnfinished([])).taken == 0
