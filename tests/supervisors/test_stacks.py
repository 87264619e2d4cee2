"""The stacks that a hanging process has written are told from its other lines."""

from __future__ import annotations

import pytest

from supervisors.stacks import main_first, stack_in, without_stack

_STACK = """Thread 0x00007f0000000001 (most recent call first):
  File "/lib/threading.py", line 331 in wait
  ...

Current thread 0x00007f0000000002 [python] (most recent call first):
  File "/app.py", line 7 in block
  File "/app.py", line 9 in main
"""


@pytest.mark.parametrize("before", ["", "one\ntwo\n", '{"event":"a"}\n'])
@pytest.mark.parametrize("after", ["", "three\n", '{"event":"b"}\n'])
def test_a_stack_is_found_among_other_lines_and_they_are_left(before: str, after: str) -> None:
    assert stack_in(before + _STACK + after) == _STACK.rstrip("\n")
    assert without_stack(before + _STACK + after) == before + after


@pytest.mark.parametrize("said", ["", "one\n", "one\n\n  two", '  File "x"\n'])
def test_where_there_is_no_stack_all_lines_are_left(said: str) -> None:
    assert stack_in(said) == ""
    assert without_stack(said) == said


def test_the_stack_of_the_main_thread_can_come_first() -> None:
    first, second = main_first(stack_in(_STACK)).split("\n\n")
    assert first.startswith("Current thread 0x00007f0000000002")
    assert first.endswith("in main")
    assert second.startswith("Thread 0x00007f0000000001")
    assert main_first("") == ""
