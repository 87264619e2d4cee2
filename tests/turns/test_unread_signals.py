"""A mailbox costs a run what it takes of it: what is unread besides is neither loaded, nor walked through, nor lost."""

from __future__ import annotations

import random

import pytest
from trio.testing import wait_all_tasks_blocked

from durable_trio.limits import SIGNALS_IN_MEMORY_MAX
from durable_trio.rows import MailboxEntry
from durable_trio.stores.questions import Loaded, MailboxLook, NamedSignals
from durable_trio.turns.mailbox import UnreadSignals
from tests.turns.kit import NamedCall, Rig, entry, look


def rig_with(entries: list[MailboxEntry], *, left_out: tuple[int, int] | None) -> Rig:
    """Turns of a run with which only a part of its mailbox was loaded."""
    rig = Rig()
    rig.turns.mailbox.load(Loaded((), (), tuple(entries), {}, left_out=left_out))
    return rig


async def test_signals_that_were_left_out_are_asked_for_by_name_once_a_call_waits_for_them() -> None:
    rig = rig_with([entry(1, "signal", "noise")], left_out=(1, 900))
    calls = [NamedCall("x", waits_for="go"), NamedCall("y", waits_for="go")]

    async def body() -> None:
        for call in calls:
            await rig.perform(call)

    async with rig.body(body):
        assert rig.resident.told.count("look") == 1
        assert rig.turns.mailbox.question() == (900, {"go": 1})
        found = NamedSignals(1, (entry(400, "signal", "go"), entry(700, "signal", "go")), True)
        rig.turns.message(MailboxLook(900, (), True, {"go": found}))
        assert rig.outlet.commit().taken == ((400, 1),)
        await wait_all_tasks_blocked()
        assert rig.outlet.commit().taken == ((700, 2),)
        await wait_all_tasks_blocked()
        assert rig.resident.told.count("look") == 1
    assert rig.log == ["x", "y"]


async def test_of_two_waits_the_older_signal_is_taken_also_if_it_must_be_asked_for() -> None:
    rig = rig_with([entry(1, "signal", "noise"), entry(2, "signal", "late")], left_out=(2, 900))
    late, early = NamedCall("late", waits_for="go"), NamedCall("early", waits_for="late")

    async def body() -> None:
        await rig.perform(early)
        await rig.perform(late)

    async with rig.body(body):
        assert rig.outlet.commit().taken == ((2, 1),)
        await wait_all_tasks_blocked()
        assert rig.turns.mailbox.question() == (900, {"go": 2})
        rig.turns.message(look([entry(901, "signal", "go")], after=900))  # it came before the answer
        assert rig.outlet.waiting == []
        found = NamedSignals(2, (entry(40, "signal", "go"),), True)
        rig.turns.message(MailboxLook(900, (), True, {"go": found}))  # older than what came, so it does not say all
        assert rig.outlet.commit().taken == ((40, 2),)
        await wait_all_tasks_blocked()
    assert rig.log == ["early", "late"]


async def test_a_cancel_is_seen_behind_any_number_of_signals() -> None:
    rig = rig_with([entry(1, "signal", "noise"), entry(500, "cancel", "cancel")], left_out=(1, 900))
    async with rig.body(lambda: rig.perform(NamedCall("x", waits_for="go"))):
        assert rig.outlet.commit().taken == ((500, 1),)


@pytest.mark.parametrize("seed", range(30))
def test_every_signal_is_given_once_and_in_order_however_looks_interleave(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_trio.turns.mailbox.SIGNALS_IN_MEMORY_MAX", 4)
    generator = random.Random(seed)
    names = ["a", "b", "c"]
    store: list[MailboxEntry] = []

    def arrive() -> None:
        store.append(entry(len(store) + 1, "signal", generator.choice(names)))

    for _ in range(generator.randrange(12)):
        arrive()
    page = 3
    loaded = store[:page]
    kept = UnreadSignals()
    kept.load(loaded, more_after=loaded[-1].id if len(store) > page else None)
    position = store[-1].id if store else 0
    taken: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(300):
        if generator.random() < 0.4 and len(store) < 60:
            arrive()
        if generator.random() < 0.5:
            for new in store[position:][:2]:
                kept.add(new)
                position = new.id
        name = generator.choice(names)
        first = next(iter(kept.by_name.get(name, ())), None)
        if first is not None:
            kept.remove(first)
            taken[name].append(first.id)
        elif (after := kept.more_after(name)) is not None:
            found = [item for item in store if item.name == name and item.id > after]
            is_newest = position == len(store)
            kept.found(name, found[:2], is_all=len(found) <= 2 and is_newest)
    for name in names:
        wanted = [item.id for item in store if item.name == name]
        assert taken[name] == wanted[: len(taken[name])]
    assert sum(map(len, taken.values())) == len(store)


def test_few_signals_are_in_memory() -> None:
    kept = UnreadSignals()
    kept.load([entry(n, "signal", "noise") for n in range(1, 5000)], more_after=None)
    assert len(kept.by_name["noise"]) == SIGNALS_IN_MEMORY_MAX
    assert kept.more_after("noise") == SIGNALS_IN_MEMORY_MAX
