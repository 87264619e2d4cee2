"""Specifications check themselves, and say what to do."""

from __future__ import annotations

import ast
import math
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

import supervisors
from supervisors import (
    AutoShutdown,
    Backoff,
    Child,
    DynamicSupervisorSpec,
    Intensity,
    Process,
    Restart,
    Strategy,
    SupervisorSpec,
    open_dynamic_supervisor,
    open_supervisor,
)


async def serve() -> None:
    await trio.sleep_forever()


def test_the_defaults() -> None:
    child = Child("a", serve)
    assert (child.restart, child.shutdown, child.args, child.backoff) == (Restart.PERMANENT, 5.0, (), None)
    assert Intensity() == Intensity(3, per=5)


def test_durations_may_be_timedeltas() -> None:
    assert Child("a", serve, shutdown=timedelta(minutes=1)).shutdown == 60.0
    assert Intensity(1, per=timedelta(seconds=2)).per == 2.0
    assert Process("a", ["x"], ready_within=timedelta(seconds=3)).ready_within == 3.0


def test_a_nested_supervisor_has_all_the_time_it_needs_to_stop() -> None:
    assert Child("a", SupervisorSpec()).shutdown == math.inf
    assert Child("a", DynamicSupervisorSpec(), shutdown=3).shutdown == 3.0


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "x" * 257])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        Child(name, serve)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Child("a", serve, shutdown=-1), "zero or more"),
        (lambda: Child("a", serve, shutdown=math.nan), "zero or more"),
        (lambda: Child("a", serve, significant=True), "permanent"),
        (lambda: Child("a", serve, mailbox=-1), "0 or more"),
        (lambda: Child("a", SupervisorSpec(), args=(1,)), "takes no args"),
        (lambda: Child("a", SupervisorSpec(), mailbox=1), "no mailbox"),
        (lambda: Process("a", []), "non-empty"),
        (lambda: Process("a", ["x"], ready_within=0), "more than 0"),
        (lambda: Process("a", ["x"], significant=True), "permanent"),
        (lambda: Intensity(-1), "0 or more"),
        (lambda: Intensity(1, per=0), "more than 0"),
        (lambda: Backoff(factor=0.5), "1 or more"),
        (lambda: Backoff(jitter=1.5), "between 0 and 1"),
        (lambda: Backoff(first=5, longest=1), "not be over"),
        (lambda: SupervisorSpec(children=[Child("a", serve), Child("a", serve)]), "two children are named 'a'"),
        (lambda: SupervisorSpec(children=[Child("a", serve, restart=Restart.TRANSIENT, significant=True)]), "NEVER"),
    ],
)
def test_wrong_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_types_are_refused_with_a_suggestion() -> None:
    wrong: Any = "one_for_al"
    with pytest.raises(TypeError, match=r"did you mean Strategy\.ONE_FOR_ALL"):
        SupervisorSpec(strategy=wrong)
    with pytest.raises(TypeError, match="PERMANENT, TRANSIENT, TEMPORARY"):
        Child("a", serve, restart=wrong)
    with pytest.raises(TypeError, match="seconds or a timedelta"):
        Child("a", serve, shutdown=wrong)
    with pytest.raises(TypeError, match="whole number"):
        Intensity(wrong)
    with pytest.raises(TypeError, match="a name is a str"):
        Child(wrong and b"a", serve)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an async function"):
        Child("a", wrong)
    with pytest.raises(TypeError, match="comma may be missing"):
        Child("a", serve, args=("b"))
    with pytest.raises(TypeError, match="no shell will split"):
        Process("a", "ls -l")
    with pytest.raises(TypeError, match="a Child or a Process"):
        SupervisorSpec(children=[wrong])


def test_a_coroutine_instead_of_a_function_is_refused() -> None:
    coroutine: Any = serve()
    with pytest.raises(TypeError, match="not a coroutine"):
        Child("a", coroutine)


def test_a_specification_and_its_fields_do_not_go_together() -> None:
    with pytest.raises(TypeError, match="not both"):
        open_supervisor(SupervisorSpec(), strategy=Strategy.ONE_FOR_ALL)
    with pytest.raises(TypeError, match="not both"):
        open_dynamic_supervisor(DynamicSupervisorSpec(), max_children=1)


def test_significant_children_go_with_automatic_shutdown() -> None:
    child = Child("a", serve, restart=Restart.TEMPORARY, significant=True)
    assert SupervisorSpec(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, children=[child]).children == (child,)


def test_everything_exported_exists_and_is_sorted() -> None:
    assert supervisors.__all__ == sorted(supervisors.__all__)
    assert all(getattr(supervisors, name).__doc__ for name in supervisors.__all__)


def test_the_package_stands_alone() -> None:
    """It imports trio, attrs and the standard library, and itself by its full name."""
    allowed = {*sys.stdlib_module_names, "trio", "attrs", "supervisors"}
    for file in Path(supervisors.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or "."]
            else:
                continue
            assert {name.split(".")[0] for name in imported} <= allowed, file.name
