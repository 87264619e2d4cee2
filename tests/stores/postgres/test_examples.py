"""The examples with their runs on a server: the same lines, through a kill, and nothing is left to do the next time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.kit import EXAMPLES, Example
from tests.kit.postgres import drop_schema, new_schema_url


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that is not there; the tables of the examples are in it."""
    new = new_schema_url()
    yield new
    drop_schema(new)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_goes_on_at_a_server(name: str, url: str, tmp_path: Path) -> None:
    example = Example(name, tmp_path, "--db", url)
    example.kill_at("")  # what it says first
    lines = example.run()
    again = example.run()
    assert again[-1] == lines[-1]
    assert not any(path.name.startswith("app.db") for path in example.folder.iterdir())
