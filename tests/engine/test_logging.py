"""A user's log filter or handler that raises costs the line, and nothing else."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from durable_trio import Context, Observer, RunFailed, workflow
from durable_trio.engine.runs.actor import RunActor
from durable_trio.logger import Logger
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")

RAISED: list[type[BaseException]] = [KeyError, SystemExit]
NAMES = ("runs", "processes", "store", "run", "observers", "serve")
ROOT = Path(__file__).resolve().parent.parent.parent


class Faulty(logging.Handler):
    """As a handler and as a filter it raises, as one does that expects fields of the application's own."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind = kind
        self.met: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.met.append(record.getMessage())
        raise self.kind("request_id")

    def handle(self, record: logging.LogRecord) -> bool:
        return self.filter(record)


@contextmanager
def faulty(kind: type[BaseException], *, as_handler: bool) -> Iterator[Faulty]:
    """Have a faulty filter, or handler, on all loggers of the library inside the block."""
    found = Faulty(kind)
    loggers = [
        logging.getLogger(f"durable_trio{name}")
        for name in (".runs", ".processes", ".store", ".run", ".observers", ".serve")
    ]
    for logger in loggers:
        logger.addHandler(found) if as_handler else logger.addFilter(found)
        logger.setLevel(logging.DEBUG)
    try:
        yield found
    finally:
        for logger in loggers:
            logger.removeHandler(found)
            logger.removeFilter(found)
            logger.setLevel(logging.NOTSET)


@workflow
async def steps(ctx: Context) -> str:
    ctx.log.info("before %d", 1)
    await ctx.step("s", trio.lowlevel.checkpoint)
    ctx.log.error("after", extra={"mine": 1})
    return await ctx.wait_signal("go", str)


class Rude(Observer):
    def step_ended(self, event: object) -> None:
        raise ValueError("rude")


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("as_handler", [False, True])
async def test_a_body_an_observer_and_the_parking_of_a_run_lose_a_line_and_no_more(
    kind: type[BaseException], as_handler: bool, file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a fault")

    with faulty(kind, as_handler=as_handler) as found:
        async with serving(file_path, steps, observers=[Rude()]) as engine:
            await engine.start(steps, id="run")
            await wait_passivated(engine)
            with monkeypatch.context() as patch:
                patch.setattr(RunActor, "_execute_body", fails)
                await engine.start(steps, id="parked")
                await wait_parked(engine.get("parked"))
            await engine.resume("parked")
        async with serving(file_path, steps) as engine:
            for run_id in ("run", "parked"):
                await engine.get(run_id).signal("go", "on")
                with trio.fail_after(PATIENCE_SECONDS):
                    assert await engine.get(run_id).result() == "on"
    assert {"before 1", "after"} <= set(found.met)
    assert any("observer" in text for text in found.met)
    assert any("is parked" in text for text in found.met)


async def test_so_does_a_run_of_which_something_is_said_at_rest() -> None:
    @workflow
    async def waits(ctx: Context) -> None:
        await trio.sleep(0.05)
        raise ValueError("over")

    with faulty(KeyError, as_handler=False) as found:
        async with serving(":memory:", waits) as engine:
            with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunFailed, match="over"):
                await engine.run(waits)
    assert any("not durable" in text for text in found.met)


def test_a_line_has_the_place_that_it_comes_from_and_what_was_added_to_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Logger("durable_trio.runs", {"run_id": "r"}).info("said %s", "so", extra={"mine": 1})
        Logger("durable_trio.runs").warning("said", extra={"mine": 2})
    first, second = caplog.records
    assert first.funcName == second.funcName == "test_a_line_has_the_place_that_it_comes_from_and_what_was_added_to_it"
    assert (first.getMessage(), vars(first)["run_id"], vars(first)["mine"]) == ("said so", "r", 1)
    assert (second.levelname, vars(second)["mine"]) == ("WARNING", 2)


def test_people_are_told_that_a_line_is_lost_as_logging_tells_them(capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(KeyError, as_handler=False):
        Logger("durable_trio.runs").error("lost")
    assert "a line of the logger 'durable_trio.runs' is lost" in capsys.readouterr().err


def test_the_library_logs_in_no_other_way() -> None:
    """Whoever has a logger of ``logging`` itself only sets it up."""
    allowed = {"logger.py", "serving/logs.py", "cli/commands/serve.py", "cli/many.py", "rehearsal/__main__.py"}
    package = ROOT / "durable_trio"
    users = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "getLogger"
    }
    assert users == allowed
