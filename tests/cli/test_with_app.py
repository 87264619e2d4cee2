"""``start`` and ``signal`` with ``--app``: what the code says of a workflow is checked and given, as in a program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.desk import Said, call

APP = "tests.cli.typed_shop:engine"


class Shell:
    """Commands on one database, with the application or without."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def with_app(self, command: str, *args: str, app: str = APP, **env: str) -> Said:
        return call(command, "--app", app, *args, env={"TYPED_SHOP_DB": self.path, **env})

    def plain(self, command: str, *args: str) -> Said:
        return call(command, "--db", self.path, *args)

    def run(self, run_id: str) -> Any:
        return self.plain("show", run_id, "--json").json


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "typed.db")


def refused(said: Said) -> str:
    """Return the one line that a refused command has said; the import may have said its own."""
    assert (said.code, said.out) == (1, ""), said
    return said.err.splitlines()[-1]


def test_a_run_that_is_started_with_its_app_has_the_workflows_tags_defaults_and_time_to_live(shell: Shell) -> None:
    said = shell.with_app("start", "order", '{"item": "chair"}', "--id", "a", "--tag", "region=us")
    assert (said.code, said.out) == (0, "a\n")  # not what the module prints
    run = shell.run("a")["run"]
    assert run["tags"] == {"team": "sales", "region": "us"}
    assert run["args"] == [{"item": "chair", "count": 1}, "2026-01-01"]
    assert run["ttl_at"] is not None


def test_arguments_are_checked_by_their_types(shell: Shell) -> None:
    assert "parameter 'cart'" in refused(shell.with_app("start", "order", '{"item": 7}'))
    assert "lacks the field 'item'" in refused(shell.with_app("start", "order", '{"itm": "x"}'))
    assert "parameter 'day'" in refused(shell.with_app("start", "order", '{"item": "x"}', '"tomorrow"'))
    assert "'cart' is missing" in refused(shell.with_app("start", "order"))
    assert shell.with_app("start", "order", '{"item": "x"}', '"2026-02-03"').code == 0


def test_a_workflow_that_the_app_has_not_is_refused_with_the_nearest_name(shell: Shell) -> None:
    assert refused(shell.with_app("start", "ordr", "{}")).endswith(
        "'tests.cli.typed_shop:engine' has no workflow 'ordr'; did you mean order?"
    )
    assert not Path(shell.path).exists()


def test_the_same_start_with_and_without_the_app_is_one_run(shell: Shell) -> None:
    arguments = ["order", '{"item": "chair", "count": 1}', '"2026-01-01"', "--id", "a"]
    assert shell.plain("start", *arguments).code == 0
    assert shell.with_app("start", *arguments).code == 0
    assert shell.with_app("start", "order", '{"item": "chair"}', "--id", "a").code == 0
    assert "other arguments" in refused(shell.with_app("start", "order", '{"item": "stool"}', "--id", "a"))


def test_a_signal_is_checked_by_the_type_that_the_workflow_names(shell: Shell) -> None:
    shell.with_app("start", "order", '{"item": "chair"}', "--id", "a")
    assert "an integer was expected" in refused(shell.with_app("signal", "a", "paid", '{"amount": "x"}'))
    assert "did you mean 'paid'?" in refused(shell.with_app("signal", "a", "payd", '{"amount": 3}'))
    assert "'stop'" in refused(shell.with_app("signal", "a", "stop", "1"))
    assert shell.run("a")["unread"] == []
    assert shell.with_app("signal", "a", "paid", '{"amount": 3}').code == 0
    assert [entry["payload"] for entry in shell.run("a")["unread"]] == [{"amount": 3}]


def test_a_signal_to_a_run_whose_workflow_names_none_is_sent(shell: Shell) -> None:
    shell.with_app("start", "loose", "--id", "b")
    said = shell.with_app("signal", "b", "whatever", "[1]")
    assert (said.code, said.err.splitlines()[-1]) == (0, "sent 'whatever' to 'b'")


def test_a_signal_that_the_app_cannot_check_is_sent_and_that_is_said(shell: Shell) -> None:
    shell.plain("start", "foreign", "--id", "c")
    said = shell.with_app("signal", "c", "paid", "1")
    assert said.code == 0
    assert said.err.splitlines()[-1].endswith(
        "does not know the run's workflow 'foreign': name and payload were not checked"
    )


def test_an_app_takes_the_place_of_the_database(shell: Shell, tmp_path: Path) -> None:
    both = shell.with_app("start", "order", '{"item": "x"}', "--db", shell.path)
    assert (both.code, "not both" in both.err) == (2, True)
    before = call("--db", shell.path, "signal", "--app", APP, "a", "stop")
    assert (before.code, "not both" in before.err) == (2, True)
    other = str(tmp_path / "other.db")  # of the environment, as `serve` has it
    assert shell.with_app("start", "order", '{"item": "x"}', "--id", "a", DURABLE_TRIO_DB=other).code == 0
    assert shell.run("a")["run"]["workflow"] == "order"
    assert not Path(other).exists()


def test_a_database_is_made_by_start_alone(shell: Shell) -> None:
    assert "there is no database" in refused(shell.with_app("signal", "a", "stop"))
    assert not Path(shell.path).exists()
    said = shell.with_app("start", "order", '{"item": "x"}')
    assert f"created the database {shell.path!r}" in said.err


@pytest.mark.parametrize(
    ("app", "line"),
    [
        ("tests.cli.typed_shop:in_memory", "keeps its runs in memory"),
        ("tests.cli.typed_shop:engin", "did you mean tests.cli.typed_shop:engine?"),
        ("tests.cli.typed_shop:order", "must be an Engine"),
        ("tests.cli.typed_shp:engine", "there is no module"),
    ],
)
def test_an_app_that_is_none_is_refused_in_one_line(shell: Shell, app: str, line: str) -> None:
    assert line in refused(shell.with_app("start", "order", "{}", app=app))


def test_an_app_may_be_a_file(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shop_in_a_file.py"
    file.write_text("from tests.cli.typed_shop import engine\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert shell.with_app("start", "order", '{"item": "x"}', app=f"{file}:engine").code == 0
    missing = shell.with_app("start", "order", "{}", app=f"{tmp_path}/none.py:engine")
    assert (missing.code, "there is no file" in missing.err) == (2, True)
