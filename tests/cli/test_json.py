"""What ``--json`` prints keeps to the published schemas; times are ISO in UTC."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from durable_trio import Context, RunStatus, open_engine, workflow
from durable_trio.cli.commands.prune import _FINAL
from durable_trio.cli.options import _STATUSES
from durable_trio.cli.program import COMMANDS
from durable_trio.views.schemas import SCHEMAS
from tests.cli.desk import call

jsonschema = pytest.importorskip("jsonschema")

RUNS = ("order-7", "order-8", "order-9", "order-10", "payroll-12", "branches-1", "pending-1", "slow-1", "stuck-1")


def validate(document: Any, command: str) -> None:
    """Fail unless a document is what the program itself says that it is, and has no field beside."""
    schema = call("schema", command).json
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in schema["$defs"].values():
        part["additionalProperties"] = False
    jsonschema.validate(document, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("run_id", RUNS)
def test_show_keeps_to_its_schema_in_every_status(db: str, run_id: str) -> None:
    document = call("--db", db, "show", run_id, "--json").json
    validate(document, "show")
    assert document["run"]["id"] == run_id


def test_list_watch_prune_and_check_keep_to_theirs(db: str) -> None:
    validate(call("--db", db, "list", "--json").json, "list")
    validate(call("--db", db, "list", "--json", "--limit", "1").json, "list")
    for line in call("--db", db, "watch", "order-8", "--json").out.splitlines():
        validate(json.loads(line), "watch")
    validate(call("--db", db, "check", "--json").json, "check")
    validate(call("--db", db, "prune", "--before", "7d", "--json").json, "prune")


def test_a_document_that_lacks_something_is_noticed(db: str) -> None:
    document = call("--db", db, "show", "order-7", "--json").json
    del document["run"]["status"]
    with pytest.raises(jsonschema.ValidationError):
        validate(document, "show")


def test_every_command_that_prints_json_has_a_schema() -> None:
    with_json = {name for name in COMMANDS if "\n  --json " in call(name, "--help").out}
    assert with_json == set(SCHEMAS)


def test_show_has_waits_children_errors_and_owner(db: str) -> None:
    slow = call("--db", db, "show", "slow-1", "--json").json
    assert [wait["kind"] for wait in slow["waits"]] == ["intent"]
    assert isinstance(slow["run"]["owner"], int)
    assert call("--db", db, "show", "branches-1", "--json").json["children"] == ["branches-1-child"]
    error = call("--db", db, "show", "order-8", "--json").json["run"]["error"]
    assert (error["type"], error["message"].splitlines()[0]) == ("builtins.RuntimeError", "out of stock")
    assert "Traceback" in error["traceback"]


def test_times_are_utc_with_microseconds(db: str) -> None:
    text = call("--db", db, "show", "order-7", "--json", env={"TZ": "Asia/Tokyo"}).json["run"]["created_at"]
    assert text.endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(text)
    assert 0 <= age.total_seconds() < 3600


def test_values_that_json_has_not_stay_json(file_path: str) -> None:
    @workflow
    async def odd(ctx: Context, number: float, large: int) -> dict[str, Any]:
        return {"nan": float("nan"), "large": large, "$key": 1}

    async def prepare() -> None:
        async with open_engine(file_path, workflows=[odd]) as engine:
            await engine.run(odd, float("-inf"), 2**80, id="odd")

    trio.run(prepare)
    run = call("--db", file_path, "show", "odd", "--json").json["run"]
    assert run["args"] == [{"$float": "-inf"}, 2**80]
    assert run["result"] == {"nan": {"$float": "nan"}, "large": 2**80, "$key": 1}
    assert "nan" in call("--db", file_path, "show", "odd").out


def test_the_statuses_that_options_take_are_those_there_are() -> None:
    assert tuple(RunStatus) == _STATUSES
    assert tuple(status for status in RunStatus if status.is_final) == _FINAL
