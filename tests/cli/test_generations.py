"""``show`` of a run that has ended histories to begin anew, and of one that is a fork."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from durable_trio import Context, open_engine, workflow
from tests.cli.desk import call
from tests.cli.test_json import validate


async def look(day: int) -> dict[str, int]:
    return {"day": day}


@workflow
async def daily(ctx: Context, day: int, until: int) -> int:
    await ctx.step(f"look {day}", look, day)
    if day < until:
        await ctx.continue_as_new(day + 1, until)
    return day


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a run in its generation 5, of which two earlier ones are kept, and a fork of it."""
    path = str(tmp_path_factory.mktemp("generations") / "app.db")

    async def fill() -> None:
        async with open_engine(Path(path), workflows=[daily], generations_kept=2) as engine:
            await engine.run(daily, 0, 5, id="run")
            fork = await engine.fork("run", before="look 5#0", id="fork")
            await fork.result()
            await engine.run(daily, 5, 5, id="single")

    trio.run(fill)
    return path


def test_show_tells_which_are_kept_and_shows_them(kept: str) -> None:
    present = call("--db", kept, "show", "run").out
    assert "  generation 5 (continued as new); kept are 3 to 4: --generation N\n" in present
    assert "  workflow   daily(5, 5)\n" in present
    earlier = call("--db", kept, "show", "run", "--generation", "4", "--results").out
    assert earlier.startswith("run  generation 4\n")
    assert "  workflow   daily(4, 5)\n" in earlier
    assert "  generation 4 of 5, ended to continue as new\n" in earlier
    assert ", took " in earlier
    assert "look 4" in earlier
    assert '= {"day": 4}' in earlier
    assert "  result" not in earlier
    assert call("--db", kept, "show", "run", "--generation", "5").out == present


def test_one_that_is_not_kept_is_an_error_that_says_which_are(kept: str) -> None:
    said = call("--db", kept, "show", "run", "--generation", "2")
    assert (said.code, said.out) == (1, "")
    assert said.error.endswith("generation 2 of run 'run' is not kept; 2 earlier ones are, from 3 to 4")
    assert "5 has not begun" in call("--db", kept, "show", "single", "--generation", "5").error
    assert call("--db", kept, "show", "run", "--generation", "-1").code == 2
    assert "there is no run 'nobody'" in call("--db", kept, "show", "nobody", "--generation", "1").error


def test_as_json_the_run_stays_what_it_is_and_the_steps_are_of_that_generation(kept: str) -> None:
    document = call("--db", kept, "show", "run", "--generation", "3", "--json").json
    validate(document, "show")
    assert (document["generation"], document["run"]["generation"], document["run"]["args"]) == (3, 5, [5, 5])
    assert [step["key"] for step in document["steps"]] == ["look 3#0"]
    assert [(each["generation"], each["args"], each["left_out"]) for each in document["generations"]] == [
        (4, [4, 5], 0),
        (3, [3, 5], 0),
    ]
    present = call("--db", kept, "show", "run", "--json").json
    validate(present, "show")
    assert (present["generation"], len(present["generations"])) == (None, 2)
    assert [step["key"] for step in present["steps"]] == ["look 5#0"]


def test_show_tells_of_which_run_one_is_a_fork(kept: str) -> None:
    out = call("--db", kept, "show", "fork").out
    assert "  fork       of run, before look 5#0\n" in out
    assert "  generation 5 (continued as new)\n" in out
    document = call("--db", kept, "show", "fork", "--json").json
    assert (document["run"]["forked_from"], document["run"]["forked_before"]) == ("run", "look 5#0")
    said = call("--db", kept, "show", "fork", "--generation", "4").error
    assert said.endswith("is not kept; no earlier one is; those before the fork are of run 'run'")
    assert call("--db", kept, "show", "run", "--json").json["run"]["forked_from"] is None
