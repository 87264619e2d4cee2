"""Who handles SIGTERM and SIGINT while an engine serves, and after that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

from durable_trio import Engine, open_engine
from durable_trio.engine import os_signals
from tests.engine.harness import PATIENCE_SECONDS

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Started:
    """The ``task_status`` of an engine in whose ``serve`` something happens once it stands."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = happens

    def started(self, value: object = None) -> None:
        self._happens()


@pytest.fixture
def own() -> Iterator[Callable[..., None]]:
    """Handlers of the program's own, which are not to be called."""
    called: list[int] = []

    def handler(os_signal: int, frame: object) -> None:
        called.append(os_signal)

    before = {each: signal.signal(each, handler) for each in SIGNALS}
    yield handler
    for each, was in before.items():
        signal.signal(each, was)
    assert called == []


def handlers() -> list[Any]:
    return [signal.getsignal(each) for each in SIGNALS]


@pytest.mark.parametrize("os_signal", SIGNALS)
def test_the_first_signal_leaves_all_to_the_kernel_until_the_engine_has_drained(
    own: Callable[..., None], os_signal: signal.Signals
) -> None:
    """Then the program has its own handlers again."""
    seen: list[Any] = []

    def happens() -> None:
        signal.raise_signal(os_signal)
        seen.extend(handlers())

    trio.run(partial(Engine(":memory:").serve, task_status=Started(happens)))
    assert seen == [signal.SIG_DFL] * 2
    assert handlers() == [own] * 2


def test_a_server_that_no_signal_has_reached_gives_back_the_handlers_too(own: Callable[..., None]) -> None:
    async def main() -> None:
        with trio.move_on_after(PATIENCE_SECONDS) as scope:
            await Engine(":memory:").serve(signals=True, task_status=Started(scope.cancel))

    trio.run(main)
    assert handlers() == [own] * 2


def test_signals_that_both_come_while_python_is_away_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os_signals, "end_by", ended.append)

    def happens() -> None:
        handler: Any = signal.getsignal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        handler(signal.SIGTERM, None)  # as Python calls it that had noted this one before

    trio.run(partial(Engine(":memory:").serve, task_status=Started(happens)))
    assert ended == [signal.SIGTERM]


def test_the_first_process_of_a_container_ends_itself_for_the_kernel_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def happens() -> None:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.undo()
        seen.extend(handlers())

    trio.run(partial(Engine(":memory:").serve, task_status=Started(happens)))
    assert seen == [os_signals.end_by] * 2


def test_after_ctrl_c_a_program_has_its_handler_again_once_its_engine_has_drained(file_path: str) -> None:
    async def main() -> None:
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # it comes of what is in the block
            async with open_engine(file_path):
                signal.raise_signal(signal.SIGINT)
                await trio.sleep_forever()
        assert signal.getsignal(signal.SIGINT) is before

    trio.run(main)


def test_an_engine_in_a_thread_leaves_all_signals_alone(file_path: str) -> None:
    before, seen = handlers(), list[Any]()

    async def main() -> None:
        def happens() -> None:
            seen.extend(handlers())
            scope.cancel()

        with trio.move_on_after(PATIENCE_SECONDS) as scope:
            await Engine(file_path).serve(task_status=Started(happens))
        with pytest.raises(KeyboardInterrupt):
            async with open_engine(file_path):
                raise KeyboardInterrupt

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()
    assert seen == handlers() == before
