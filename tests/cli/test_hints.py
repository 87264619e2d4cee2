"""What finds nothing, or is written in another way than it is meant, is answered with what to write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from durable_trio import Context, RunFailed, open_engine, workflow
from durable_trio.cli.run_view import ends_with_difference
from durable_trio.engine.workers import __main__ as worker
from durable_trio.serving.logs import LogStyle
from tests.cli.desk import PATIENCE_SECONDS, call
from tests.engine.harness import wait_parked


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("shp#0", "did you mean 'ship#0'?"),
        ("nothing", "its keys are shown by: durable-trio show order-8"),
    ],
)
def test_show_of_a_key_that_there_is_not_is_an_error_with_a_hint(key: str, hint: str, db: str) -> None:
    for words in ([], ["--json"], ["--failed"]):
        said = call("--db", db, "show", "order-8", "--key", key, *words)
        assert (said.code, said.out) == (1, "")
        assert said.error == f"durable-trio: run 'order-8' has no step {key!r}; {hint}"


def test_show_says_when_nothing_has_failed(db: str) -> None:
    said = call("--db", db, "show", "order-9", "--failed")
    assert (said.code, said.error) == (0, "no step of it has failed, or is tried again")
    said = call("--db", db, "show", "order-8", "--failed", "--key", "reserve")
    assert (said.code, said.error) == (0, "nothing of 'reserve' has failed, or is tried again")
    assert call("--db", db, "show", "order-8", "--failed").err == ""
    assert call("--db", db, "show", "order-8", "--key", "ship").err == ""


@pytest.mark.parametrize(
    "words", [["list"], ["stats"], ["errors"], ["resume", "--parked", "--yes"], ["delete", "--yes"]], ids=lambda w: w[0]
)
def test_a_workflow_that_there_is_not_is_answered_with_the_nearest(words: list[str], db: str) -> None:
    said = call("--db", db, *words, "--workflow", "ordr")
    assert said.code == 0
    assert said.error.endswith("; there is no workflow 'ordr': did you mean order?")
    said = call("--db", db, *words, "--workflow", "xyz")
    assert said.error.endswith("; there is no workflow 'xyz': 'durable-trio stats' has the names there are")


def test_a_workflow_that_there_is_gets_no_hint(db: str) -> None:
    said = call("--db", db, "list", "--workflow", "packing", "--status", "failed")
    assert said.error == "no run matches"


def test_serve_says_why_it_takes_no_database_wherever_that_stands() -> None:
    for words in (["--db", "x.db", "serve", "shop:engine"], ["serve", "shop:engine", "--db", "x.db"]):
        said = call(*words)
        assert said.code == 2
        assert "serve takes no --db: the database is the one that the engine was made with" in said.error
    assert "--db" not in call("serve", "--help").out


@pytest.mark.parametrize(("app", "what"), [("shop.py", "a file"), ("a/shop.py", "a file"), ("shop", "a module")])
def test_serve_without_the_name_of_the_engine_says_how_it_is_added(
    app: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    said = call("serve", app)
    assert said.code == 2
    assert f"{app!r} names {what} only; add the name that its engine has there, as {app}:engine" in said.error


@pytest.mark.parametrize("style", [*LogStyle, None])
def test_what_ends_a_worker_is_a_line_as_the_others_of_its_log(
    style: LogStyle | None, capsys: pytest.CaptureFixture[str]
) -> None:
    worker._say_why(style, "StoreRewound: 'app.db' was written over", None)
    line = capsys.readouterr().err
    starts = {LogStyle.FIELDS: "time=", LogStyle.JSON: "{"}
    assert line.startswith(starts.get(style, "StoreRewound: ") if style is not None else "StoreRewound: ")
    assert line.count("\n") == 1


def test_a_signal_of_another_type_is_shown_as_what_has_failed(file_path: str) -> None:
    """It was taken, and is stored so; that it was no use only the failure of the run tells."""

    @workflow
    async def waiting(ctx: Context) -> None:
        await ctx.wait_signal("first", int)
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(branch)

    async def branch(ctx: Context) -> None:
        await ctx.wait_signal("second", int)

    async def fail() -> None:
        async with open_engine(file_path, workflows=[waiting]) as engine:
            run = await engine.start(waiting, id="it")
            await run.signal("first", 1)
            await run.signal("second", "two")
            with pytest.raises(RunFailed):
                await run.result()

    trio.run(fail)
    lines = call("--db", file_path, "show", "it").out.splitlines()
    (first,) = (line for line in lines if line.startswith("first#0"))
    (second,) = (index for index, line in enumerate(lines) if "second#0" in line and "CodecError" not in line)
    assert ("✗" in first, "✗" in lines[second]) == (False, True)
    assert "CodecError: signal" in lines[second + 1]
    statuses = {step["key"]: step["status"] for step in call("--db", file_path, "show", "it", "--json").json["steps"]}
    assert set(statuses.values()) == {"completed"}


def test_a_run_that_was_started_with_wrong_arguments_is_answered_with_how_to_end_it(tmp_path: Path) -> None:
    @workflow
    async def wants_a_number(ctx: Context, number: int) -> int:
        return number

    path = str(tmp_path / "app.db")
    assert call("--db", path, "start", "wants_a_number", '"seven"', "--id", "wrong").code == 0

    async def serve() -> None:
        async with open_engine(path, workflows=[wants_a_number]) as engine, engine.watch(run_id="wrong") as changes:
            async for record in changes:
                if record.problem is not None:
                    return

    trio.run(serve)
    said = call("--db", path, "show", "wrong")
    assert "    if it was started with wrong ones: durable-trio abandon wrong\n" in said.out


@pytest.mark.parametrize(
    ("text", "is_all"),
    [
        ("it differs\nhistory    | code\n> step a#0 | > step b#0", True),
        ("it differs\nhistory    | code\n> step a#0 | > step b#0\n           | > timer c#0\n", True),
        (
            "it differs\nhistory    | code\n> step a#0 | > (the body has ended)\nThe body has raised KeyError: 'x'",
            False,
        ),
        ("it differs\nhistory     | code\n> patch x#0 | > step b#0\nLikely the question has left it", False),
    ],
)
def test_the_old_way_is_advised_where_a_divergence_does_not_say_itself_what_is_to_be_done(
    text: str, is_all: bool
) -> None:
    assert ends_with_difference(text) is is_all


def test_show_advises_no_old_way_for_a_body_that_has_raised(file_path: str) -> None:
    @workflow(name="order")
    async def right(ctx: Context) -> None:
        await ctx.sleep(0)
        await ctx.wait_signal("go")

    @workflow(name="order")
    async def wrong(ctx: Context) -> None:
        raise KeyError("x")

    async def prepare() -> None:
        async with open_engine(file_path, workflows=[right]) as engine:
            run = await engine.start(right, id="r")
            with trio.fail_after(PATIENCE_SECONDS):
                while not await run.steps():  # noqa: ASYNC110  # to wait is no event of the public API
                    await trio.sleep(0.01)
        async with open_engine(file_path, workflows=[wrong]) as engine:
            await engine.send_signal("r", "go")
            await wait_parked(engine.get("r"))

    trio.run(prepare)
    out = call("--db", file_path, "show", "r").out
    assert "The body has raised KeyError" in out
    assert "keep the old way" not in out
    assert "serve mended code; if it stays parked" in out
