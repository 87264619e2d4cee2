"""``rehearse``: which runs new code would refuse, in a process of its own that may stand still or die."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import open_engine
from durable_trio.cli import rehearsing
from tests.cli.desk import Said, call
from tests.cli.rehearsed import order, visit
from tests.cli.test_json import validate
from tests.engine.harness import wait_passivated

APP = "tests.cli.rehearsed"
RUNS = 4


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which some runs of each workflow wait."""
    path = tmp_path_factory.mktemp("rehearsed") / "app.db"

    async def fill() -> None:
        async with open_engine(path, workflows=[order, visit]) as engine:
            for number in range(RUNS):
                for each in (order, visit):
                    await engine.start(each, number, id=f"{each.name}-{number}")
            await wait_passivated(engine)

    trio.run(fill)
    return path


@pytest.fixture
def db(filled: Path, tmp_path: Path) -> str:
    """The path of a copy of it."""
    return str(shutil.copyfile(filled, tmp_path / "app.db"))


def rehearsed(name: str, *words: str, **env: str) -> Said:
    return call("rehearse", f"{APP}:{name}", *words, env=env)


def test_the_same_code_goes_on_and_the_file_stays_as_it_is(db: str) -> None:
    before = Path(db).read_bytes()
    said = rehearsed("engine", REHEARSED_DB=db)  # the engine's own
    assert said.code == 0, said
    assert said.out.splitlines()[-1] == "8 unfinished runs: 8 go on"
    assert Path(db).read_bytes() == before


def test_a_workflow_of_which_no_run_is_unfinished_is_told_for_it_may_be_mistyped(db: str) -> None:
    said = rehearsed("engine", "--db", db, "--workflow", "ordre")
    assert (said.code, said.out) == (0, "0 unfinished runs\n")
    assert said.error == "no unfinished run is of workflow 'ordre': nothing was rehearsed"


def test_what_diverges_is_shown_with_its_difference_and_what_was_so_before_is_no_news(db: str, tmp_path: Path) -> None:
    said = rehearsed("changed", "--db", db)
    assert said.code == 1
    assert "diverges  1 run of order: recorded is step charge, the code waits in step charge card" in said.out
    assert "> step charge#0 | > step charge card#0\n    keep the old way for such runs: ctx.patched(ID)\n" in said.out
    assert said.out.splitlines()[-1] == "8 unfinished runs: 7 go on, 1 diverges"

    some = ("--db", db, "--workflow", "order", "--sample", "3", "--json")
    found = rehearsed("changed", *some)
    assert found.code == 1
    validate(found.json, "rehearse")
    assert (found.json["count"], found.json["counts"]["diverges"]) == (3, 1)
    earlier = tmp_path / "before.json"
    earlier.write_text(found.out)
    again = rehearsed(
        "changed", "--db", db, "--workflow", "order", "--sample", "3", "--json", "--baseline", str(earlier)
    )
    assert (again.code, again.json["is_clean"], again.json["groups"][0]["count_before"]) == (0, True, 1)
    earlier.write_text(found.out.replace('"version": 0', '"version": 2'))  # it was another one that was wrong then
    assert rehearsed("changed", *some, "--baseline", str(earlier)).code == 1


def test_who_keeps_the_loop_for_himself_stalls_and_who_ends_the_process_raises(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who were in hand beside them are done again, and go on."""
    said = rehearsed("bad", "--db", db, "--patience", "1s", "--json")
    assert said.code == 1
    groups = {group["verdict"]: group for group in said.json["groups"] if group["verdict"] != "goes_on"}
    assert {verdict: group["run_ids"] for verdict, group in groups.items()} == {
        "stalls": ["visit-1"],
        "raises": ["visit-2"],
    }
    assert "rehearsed.py" in groups["stalls"]["cause"]
    assert "time.sleep(3600)" in groups["stalls"]["example"]
    assert groups["raises"]["cause"] == "the process exited with 7"
    assert said.json["counts"]["goes_on"] == 6


def test_what_cannot_be_rehearsed_is_said_in_one_line(db: str, tmp_path: Path) -> None:
    assert refused(rehearsed("engin", "--db", db)).endswith("did you mean tests.cli.rehearsed:engine?")
    assert "no file; name one by --db" in refused(rehearsed("in_memory"))
    assert "there is no database" in refused(rehearsed("engine", "--db", str(tmp_path / "none.db")))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"runs": []}))
    assert "nothing that rehearse --json has printed" in refused(
        rehearsed("engine", "--db", db, "--baseline", str(other))
    )
    assert rehearsed("engine", "--db", db, "--sample", "0").code == 2


def refused(said: Said) -> str:
    assert (said.code, said.out) == (1, ""), said
    return said.err.splitlines()[-1]


def test_ctrl_c_ends_it_and_the_process_that_it_has_started(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    start = rehearsing._Child.start

    def interrupted(self: rehearsing._Rehearsing, *_: object) -> None:
        raise KeyboardInterrupt

    def noted(self: rehearsing._Child) -> None:
        start(self)
        started.append(self._process)

    monkeypatch.setattr(rehearsing._Child, "start", noted)
    monkeypatch.setattr(rehearsing._Rehearsing, "_rehearse", interrupted)
    said = rehearsed("engine", "--db", db)
    assert said.code == 130
    assert "rehearsed 0 of 0 runs; nothing was changed" in said.err
    assert [process.poll() is not None for process in started] == [True]
