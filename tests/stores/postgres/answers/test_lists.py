"""Lists of runs and counts: what they give is what a look at every run gives, whichever index they are read from."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from durable_trio.records import RunStatus
from durable_trio.stores.code_questions import CountParked
from durable_trio.stores.news_questions import ListChanges
from durable_trio.stores.overdue_questions import ListOverdue
from durable_trio.stores.postgres.answers import lists, news
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.url import parse_url
from durable_trio.stores.questions import CountByWorkflow, CountRuns, ListFailures, ListRuns, Order, RunFilter
from durable_trio.stores.unfinished_questions import ListUnfinished
from tests.stores.postgres.answers.looking import rows_looked_at
from tests.stores.postgres.kit import Rows, connect

_STATUSES = [status.value for status in RunStatus]
# Of what some code has refused is parked what is of a workflow of which no other one lives.
_LIVING = {"w0": 1}


@attrs.define
class _Run:
    """A run as it is stored."""

    run: int
    workflow: str
    status: str
    created_at: int
    changed: int
    finished_at: int | None
    queue: str | None
    parent_id: str | None
    wake_at: int | None
    owner: int | None
    refused: str
    problem: str | None
    hidden_at: int | None
    tags: dict[str, str]
    is_due: bool
    is_retrying: bool

    @property
    def is_parked(self) -> bool:
        if self.finished_at is not None:
            return False
        living = _LIVING.get(self.workflow)
        is_untried = living is not None and f",{living}," not in self.refused
        return self.problem is not None or (self.refused != "" and self.owner is None and not is_untried)


def _some_run(dice: random.Random, number: int) -> _Run:
    status = dice.choice(_STATUSES)
    is_final, owner = RunStatus(status).is_final, dice.choice((None, None, 1))
    return _Run(
        run=number,
        workflow=f"w{dice.randrange(3)}",
        status=status,
        created_at=dice.randrange(40),
        changed=dice.randrange(30),
        finished_at=dice.randrange(50) if is_final else None,
        queue=dice.choice((None, "q", "r")),
        parent_id=dice.choice((None, "a", "b")),
        wake_at=None if is_final or owner else dice.choice((None, dice.randrange(60))),
        owner=None if is_final else owner,
        refused="" if is_final else dice.choice(("", "", ",1,", ",1,2,", ",2,")),
        problem=None if is_final else dice.choice((None,) * 20 + ("{}",)),
        hidden_at=dice.choice((None,) * 30 + (1,)),
        tags={key: dice.choice("01") for key in "xy" if dice.random() < 0.6},
        is_due=dice.random() < 0.5,
        is_retrying=dice.random() < 0.2,
    )


@pytest.fixture(scope="module")
def runs() -> list[_Run]:
    """Some runs that differ in all that a filter looks at."""
    dice = random.Random(1)
    return [_some_run(dice, number) for number in range(1, 251)]


@pytest.fixture
def zoo(url: str, store: PostgresStore, runs: list[_Run]) -> PostgresStore:
    """A store with these runs."""
    columns = [field.name for field in attrs.fields(_Run) if field.name not in ("run", "is_retrying")]
    given = [{**attrs.asdict(each), "id": f"run-{each.run}", "tags": json.dumps(each.tags)} for each in runs]
    with connect(url) as connection:
        connection.execute(
            f"INSERT INTO runs (id, {', '.join(columns)}, version, seed, args_digest, args, priority, token) "
            f"SELECT id, {', '.join(columns)}, 1, '', '', '[]', run %% 3, run %% 2 FROM json_populate_recordset("
            "NULL::runs, %s) ORDER BY run",
            [json.dumps(given)],
        )
        connection.execute(
            "INSERT INTO waits SELECT run::bigint, gen_random_uuid(), 0, 7, 1, 1, 'retry', '', 'x', NULL, NULL "
            "FROM json_array_elements_text(%s) AS run, generate_series(1, 2)",
            [json.dumps([each.run for each in runs if each.is_retrying])],
        )
        connection.execute(
            "INSERT INTO codes (workflow, version, fingerprint, first_seen_at) "
            "VALUES ('w0', 1, 'a', 1), ('w1', 1, 'b', 1)"
        )
        connection.execute("INSERT INTO executor_codes (executor, code) VALUES (1, 1)")
    return store


def _matches(each: _Run, which: RunFilter) -> bool:
    return (
        each.hidden_at is None
        and which.run_id in (None, f"run-{each.run}")
        and (which.statuses is None or RunStatus(each.status) in which.statuses)
        and which.workflow in (None, each.workflow)
        and all(each.tags.get(key) == value for key, value in which.tags)
        and which.queue in (None, each.queue)
        and which.parent_id in (None, each.parent_id)
        and (which.created_after is None or each.created_at > which.created_after)
        and (which.created_before is None or each.created_at < which.created_before)
        and (not which.is_parked or each.is_parked)
        and (not which.is_retrying or (each.finished_at is None and each.is_retrying))
        and (which.overdue_at is None or _is_overdue(each, which.overdue_at))
    )


def _is_overdue(each: _Run, at: int) -> bool:
    return each.wake_at is not None and each.wake_at <= at and not each.is_parked


def _some_filter(dice: random.Random) -> RunFilter:
    def perhaps(*values: Any) -> Any:
        return dice.choice((None, None, None, *values))

    return RunFilter(
        run_id=dice.choice((None,) * 20 + ("run-5",)),
        workflow=perhaps("w0", "w1", "none"),
        statuses=perhaps((RunStatus.FAILED,), (RunStatus.PENDING, RunStatus.RUNNING), (), tuple(RunStatus)),
        tags=dice.choice(((), (), (("x", "1"),), (("x", "0"), ("y", "1")))),
        queue=perhaps("q"),
        parent_id=perhaps("a"),
        created_after=perhaps(10, 20),
        created_before=perhaps(30),
        is_parked=dice.random() < 0.2,
        is_retrying=dice.random() < 0.2,
        overdue_at=perhaps(30),
    )


_PLACE: dict[Order, Callable[[_Run], int | None]] = {
    Order.NEWEST: lambda each: each.created_at,
    Order.OLDEST: lambda each: each.created_at,
    Order.CHANGED: lambda each: each.changed,
    Order.ENDED: lambda each: each.finished_at,
}


def _expected(runs: list[_Run], question: ListRuns) -> list[int]:
    found = [(place, each.run) for each in runs if (place := _PLACE[question.order](each)) is not None]
    matching = {each.run for each in runs if _matches(each, question.which)}
    is_last_first = question.order is not Order.OLDEST
    keys = sorted((key for key in found if key[1] in matching), reverse=is_last_first)
    before = question.before
    if before is not None:
        keys = [key for key in keys if (key < before if is_last_first else key > before)]
    return [run for _, run in keys[: question.limit]]


@pytest.mark.parametrize("few", [1, 20, 20_000])
def test_every_filter_in_every_order_gives_what_matches(
    zoo: PostgresStore, runs: list[_Run], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Whether runs are gathered by a part of a filter, or read in order."""
    monkeypatch.setattr(lists, "_RARE_RUNS", min(few, 2000))
    monkeypatch.setattr(lists, "COMPARED_RUNS", few)
    monkeypatch.setattr(news, "COMPARED_RUNS", few)
    dice = random.Random(few)
    for turn in range(80):
        which, order = _some_filter(dice), dice.choice(list(Order))
        before = dice.choice((None, (dice.randrange(45), dice.randrange(250))))
        question = ListRuns(which, order=order, limit=dice.choice((1, 3, 1000)), before=before)
        assert [row.run for row in zoo.ask(question)] == _expected(runs, question), question
        if turn % 8 == 0:
            assert _changed(zoo, which, question.limit) == [each.run for each in runs if _matches(each, which)], which


def _changed(store: PostgresStore, which: RunFilter, limit: int) -> list[int]:
    """Return the runs that match by the changes of all, page by page."""
    place, found = None, list[int]()
    while True:
        page = store.ask(ListChanges(which, after=place, limit=limit))
        found += [change.row.run for change in page.changes]
        if page.is_last:
            return sorted(found)
        place = page.changes[-1].cursor


def test_what_is_overdue_is_found_in_each_place_in_line(zoo: PostgresStore, runs: list[_Run]) -> None:
    dice = random.Random(3)
    for _ in range(40):
        workflow, until = dice.choice((None, "w0", "none")), dice.randrange(60)
        after, limit = (dice.randrange(40), dice.randrange(250)), dice.choice((1, 5, 1000))
        waiting = sorted(
            (each.wake_at, each.run, each)
            for each in runs
            if each.wake_at is not None and workflow in (None, each.workflow)
        )
        expected = [run for at, run, each in waiting if after < (at, run) and at <= until and not each.is_parked]
        found = zoo.ask(ListOverdue(workflow=workflow, after=after, until=until, limit=limit))
        assert [row.run for row in found.rows] == expected[:limit]
        assert found.next_due_at == next((at for at, _, _ in waiting if at > until), None)


def test_counts_are_those_of_all_that_is_shown(zoo: PostgresStore, runs: list[_Run]) -> None:
    shown = [each for each in runs if each.hidden_at is None]
    unfinished = [each for each in shown if each.finished_at is None]
    status = zoo.ask(CountRuns())
    assert status.runs_by_status == Counter(RunStatus(each.status) for each in shown)
    assert status.unfinished_by_workflow == Counter(each.workflow for each in unfinished)
    assert status.unfinished_by_version == Counter((each.workflow, 1) for each in unfinished)
    parked = [each for each in runs if each.is_parked]
    assert status.parked == tuple(f"run-{each.run}" for each in parked)
    assert zoo.ask(CountParked()) == len(parked)
    assert zoo.ask(ListUnfinished()) == tuple(
        each.run for each in sorted(unfinished, key=lambda each: (each.workflow, each.run))
    )
    for since in (None, 20):
        found = zoo.ask(CountByWorkflow(durations_max=3, since=since))
        assert [counts.workflow for counts in found] == ["w0", "w1", "w2"]
        assert zoo.ask(CountByWorkflow(durations_max=3, since=since, after="w0")) == found[1:]
        for counts in found:
            of_it = [each for each in shown if each.workflow == counts.workflow]
            recent = [each for each in of_it if since is None or each.created_at > since]
            assert counts.by_status == Counter(RunStatus(each.status) for each in recent)
            first = min((each.created_at, each.run) for each in of_it if each.finished_at is None)
            assert counts.oldest_unfinished == (f"run-{first[1]}", first[0])
            assert zoo.ask(CountByWorkflow(durations_max=3, since=since, workflow=counts.workflow)) == (counts,)
    ends = sorted(((each.finished_at, each.run) for each in shown if each.status == "failed"), reverse=True)
    failed = zoo.ask(ListFailures(limit=999, since=10))
    assert [each.run_id for each in failed] == [f"run-{run}" for at, run in ends if at is not None and at > 10]


def test_tags_are_found_whatever_they_hold(rows: Rows, store: PostgresStore) -> None:
    values = ["x" * 10_000, "a\0b", "a\\u0000b", "a\\\0b", "\0", "a", 'ü"\\\n🌍', ""]
    for number, value in enumerate(values):
        rows.add_runs(1, tags=json.dumps({"key": value}, ensure_ascii=number % 2 == 0))
    for number, value in enumerate(values):
        found = store.ask(ListRuns(RunFilter(tags=(("key", value),)), limit=9))
        assert [row.id for row in found] == [f"run-{number}"]
    rows.execute("DELETE FROM runs")
    assert rows.one("SELECT count(*) FROM tags") == 0


def test_what_no_run_can_have_is_found_nowhere(rows: Rows, store: PostgresStore) -> None:
    rows.add_runs(1, queue="run")
    for which in (
        RunFilter(run_id="run-0\0"),
        RunFilter(workflow="work\0"),
        RunFilter(queue="run\0"),
        RunFilter(parent_id="\0"),
    ):
        assert store.ask(ListRuns(which, limit=9)) == ()


def test_the_few_that_match_are_found_without_a_look_at_the_others(many: str) -> None:
    """Wherever they stand: an index of all runs, which has the order, seems as good as any to the server."""
    place = parse_url(many)
    for which in (
        RunFilter(workflow="rare"),
        RunFilter(statuses=(RunStatus.FAILED,)),
        RunFilter(workflow="work", statuses=(RunStatus.FAILED,)),
        RunFilter(queue="rare"),
        RunFilter(parent_id="rare"),
        RunFilter(tags=(("kind", "rare"),)),
    ):
        for order in (Order.NEWEST, Order.OLDEST, Order.ENDED):
            for before in (None, (25, 10**9)):
                question = ListRuns(which, order=order, limit=5, before=before)
                assert rows_looked_at(place, question) < 150, question


@pytest.fixture
def many(url: str, store: PostgresStore, rows: Rows) -> str:
    """The URL of a store with many runs, of which few are unlike the others, at the end where nobody looks first."""
    common = {"status": "completed", "wake_at": None, "is_due": False}
    rows.add_runs(20, **common, workflow="rare", finished_at=10)
    rows.add_runs(20, **common | {"status": "failed"}, finished_at=20)
    rows.add_runs(20, **common, finished_at=30, queue="rare", parent_id="rare", tags='{"kind": "rare"}')
    rows.add_runs(3000, **common, finished_at=40, queue="often", parent_id="often", tags='{"kind": "often"}')
    rows.execute("UPDATE runs SET created_at = run, finished_at = run")
    rows.execute("UPDATE tags SET created_at = run")
    rows.execute("ANALYZE runs, tags")
    return url
