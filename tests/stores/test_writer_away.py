"""What the writer does with a store that cannot be reached: the same batch again, all else in its order behind it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio

from durable_trio.errors import StoreAway
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.writer import Writer
from tests.engine.harness import PATIENCE_SECONDS, wait_until
from tests.stores.scripted import Outcomes, ScriptedStore, caller, echo, nobody, owner, running, writer_of


@attrs.define
class Network:
    """Whether the store is reached, and whether what is sent while it is not is committed all the same."""

    is_cut: bool = False
    loses_replies: bool = False
    committed: list[str] = attrs.Factory(list)
    _in_doubt: list[Any] | None = None
    _has_arrived: bool = False

    def apply(self, batch: Sequence[Any]) -> list[Any]:
        if self._in_doubt is not None:
            assert [*map(id, batch)] == [*map(id, self._in_doubt)], "another batch before the same again"
        if self.is_cut:
            if self.loses_replies and not self._has_arrived:
                self._has_arrived = True
                self.committed += echo(batch)
            self._in_doubt = list(batch)
            raise StoreAway("no route to the database")
        if not self._has_arrived:
            self.committed += echo(batch)
        self._in_doubt, self._has_arrived = None, False
        return echo(batch)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture(params=[True, False], ids=["thread", "loop"])
def store(request: pytest.FixtureRequest, network: Network) -> ScriptedStore:
    return ScriptedStore(network.apply, may_block=request.param)


@pytest.mark.parametrize("loses_replies", [False, True])
async def test_the_same_batch_is_applied_until_the_store_is_back_and_all_else_keeps_its_order(
    store: ScriptedStore, network: Network, loses_replies: bool
) -> None:
    outcomes = Outcomes()
    network.loses_replies = loses_replies
    async with running(store) as writer:
        network.is_cut = True
        outcomes.submit(writer, owner(1), caller("a"))
        await wait_until(lambda: writer.is_away)
        for number in range(2, 6):
            outcomes.submit(writer, owner(number), caller(f"b{number}"), owner(1))
        await wait_until(lambda: len(store.batches) > 3)
        assert outcomes.found == []
        network.is_cut = False
        await outcomes.wait(14)
        await writer.wait_until_reached()
    expected = ["1", "a", *(name for number in range(2, 6) for name in (str(number), f"b{number}", "1"))]
    assert outcomes.names == network.committed == expected


async def test_callers_are_told_after_a_while_whether_it_was_perhaps_done_and_owners_wait_on(
    store: ScriptedStore, network: Network
) -> None:
    outcomes = Outcomes()
    writer = Writer(store, failed=nobody, still_away=nobody, committed_untold=nobody, away_seconds_max=0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        network.is_cut = network.loses_replies = True
        outcomes.submit(writer, owner(1), caller("sent"))
        await wait_until(lambda: writer.is_away)
        outcomes.submit(writer, owner(2), caller("not sent"))
        await outcomes.wait(2)
        errors = dict(outcomes.found)
        assert errors.keys() == {"sent", "not sent"}
        assert all(isinstance(error, StoreAway) for error in errors.values())
        assert (errors["sent"].in_doubt, errors["not sent"].in_doubt) == (True, False)
        outcomes.submit(writer, caller("later"))
        await outcomes.wait(3)
        network.is_cut = False
        await outcomes.wait(5)
        nursery.cancel_scope.cancel()
    assert outcomes.found[3:] == [("1", "1"), ("2", "2")]
    assert network.committed == ["1", "sent", "2"]


async def test_whoever_keeps_runs_is_told_each_time_the_store_was_tried_in_vain(network: Network) -> None:
    store, told = ScriptedStore(network.apply), []
    writer = Writer(store, failed=nobody, still_away=lambda: told.append(len(store.batches)), committed_untold=nobody)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        network.is_cut = True
        Outcomes().submit(writer, owner(1))
        await wait_until(lambda: len(told) == 4)
        nursery.cancel_scope.cancel()
    assert told[:4] == [1, 2, 3, 4]


async def test_a_question_is_asked_again_for_a_while(network: Network) -> None:
    class Asked(ScriptedStore):
        asked_count = 0

        def ask(self, question: Any) -> Any:
            self.asked_count += 1
            if self.asked_count < 4 or network.is_cut:
                raise StoreAway("no route to the database")
            return "answer"

    store = Asked()
    async with running(store) as writer:
        answer: Any = await writer.ask(FindCursor())
        assert answer == "answer"
        assert store.asked_count == 4
    network.is_cut = True
    writer = Writer(store, failed=nobody, still_away=nobody, committed_untold=nobody, away_seconds_max=0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        with pytest.raises(StoreAway, match="no route"):
            await writer.ask(FindCursor())
        with trio.move_on_after(0.1) as scope:
            await writer.ask_patiently(FindCursor())
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_a_writer_ends_while_the_store_is_away_and_says_what_it_leaves(
    store: ScriptedStore, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = Outcomes()
    with caplog.at_level(logging.INFO, logger="durable_trio.store"), trio.fail_after(PATIENCE_SECONDS):
        async with running(store) as writer:
            network.is_cut = True
            outcomes.submit(writer, owner(1), caller("sent"))
            await wait_until(lambda: writer.is_away)
            outcomes.submit(writer, owner(2), caller("not sent"))
    told = dict(outcomes.found)
    assert isinstance(told["sent"], StoreAway)
    assert told["sent"].in_doubt
    assert isinstance(told["not sent"], StoreAway)
    assert not told["not sent"].in_doubt
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "writes_lost"]
    assert record.runs == 2  # type: ignore[attr-defined]


async def test_an_outage_is_told_once_when_it_begins_and_once_when_it_is_over_also_if_nothing_was_kept(
    store: ScriptedStore, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = Outcomes()
    with caplog.at_level(logging.INFO, logger="durable_trio.store"):
        async with running(store) as writer:
            network.is_cut = True
            outcomes.submit(writer, caller("a"))
            await wait_until(lambda: len(store.batches) > 4)
            network.is_cut = False
            await outcomes.wait(1)
    assert [getattr(record, "event", "") for record in caplog.records] == ["writes_kept", "writes_stored"]


async def test_a_writer_that_was_away_can_be_used_again_after_it_has_ended(
    store: ScriptedStore, network: Network
) -> None:
    writer, outcomes = writer_of(store), Outcomes()
    for is_cut in (True, False):
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            network.is_cut = is_cut
            outcomes.submit(writer, caller(is_cut))
            await (wait_until(lambda: writer.is_away) if is_cut else outcomes.wait(2))
            nursery.cancel_scope.cancel()
        network._in_doubt = None  # the store was opened anew
    assert outcomes.found[1] == ("False", "False")
    assert not writer.is_away


async def test_who_is_cancelled_is_told_at_the_next_try_and_keeps_nobody_waiting(
    store: ScriptedStore, network: Network
) -> None:
    told: dict[str, object] = {}

    async def call(writer: Writer, name: str) -> None:
        try:
            told[name] = await writer.write(caller(name))
        except (StoreAway, trio.Cancelled) as error:
            told[name] = error
            raise

    async with running(store) as writer:
        network.is_cut = network.loses_replies = True
        with trio.fail_after(PATIENCE_SECONDS), pytest.RaisesGroup(StoreAway):
            async with trio.open_nursery() as callers:
                callers.start_soon(call, writer, "sent")
                await wait_until(lambda: writer.is_away)
                callers.start_soon(call, writer, "not sent")
                await wait_until(lambda: len(writer.kept._submitted.all()) == 1)
                began_at = trio.current_time()
                callers.cancel_scope.cancel()
        assert trio.current_time() - began_at < writer.kept._away_seconds_max
        assert isinstance(told["sent"], StoreAway)
        assert told["sent"].in_doubt
        assert isinstance(told["not sent"], trio.Cancelled)
        network.is_cut = False
        await writer.wait_until_reached()
        assert await writer.write(caller("later")) == "later"
    assert network.committed == ["sent", "later"]
