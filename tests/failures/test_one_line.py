"""A stored failure in one line for the log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from durable_trio.failures import tell_of


def failure(name: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"type": f"builtins.{name}", "message": message, "traceback": "", "recipe": "failed", **more}


def group(*errors: dict[str, Any]) -> dict[str, Any]:
    return failure("ExceptionGroup", "several", errors=list(errors))


BANK, HOTEL = failure("ConnectionError", "bank"), failure("LookupError", "hotel")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (BANK, "ConnectionError: bank"),
        (group(BANK), "ConnectionError: bank (in an ExceptionGroup)"),
        (
            group(group(BANK), group(BANK, group(HOTEL))),
            "ConnectionError: bank + LookupError: hotel (in an ExceptionGroup)",
        ),
        (group(BANK, BANK, BANK, BANK), "ConnectionError: bank (in an ExceptionGroup)"),
        (
            group(*(failure("ValueError", str(number)) for number in range(5))),
            "ValueError: 0 + ValueError: 1 + ValueError: 2 + 2 more (in an ExceptionGroup)",
        ),
    ],
)
def test_of_a_group_it_is_what_is_in_it_each_once_however_deep(record: dict[str, Any], told: str) -> None:
    assert tell_of(json.dumps(record)).cause == told
