"""Turns: one delivery at a time, each when the body is quiet; recorded rows first, in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from durable_trio import Detached, OwnershipLost, RunConflict, StepKind
from tests.turns.kit import NamedCall, Rig, entry, look, row


def together(rig: Rig, *calls: NamedCall) -> Callable[[], Any]:
    """Return a body that awaits some calls at once, each in a task of its own."""

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(rig.perform, call)

    return body


def after_each_other(rig: Rig, *calls: NamedCall) -> Callable[[], Any]:
    async def body() -> None:
        for call in calls:
            await rig.perform(call)

    return body


# ---- live ------------------------------------------------------------------------------------------------------------


async def test_an_outcome_is_given_to_the_body_once_it_is_committed() -> None:
    rig, call = Rig(), NamedCall("a")
    async with rig.body(after_each_other(rig, call)):
        assert (call.log, rig.log, rig.outlet.rows) == (["live"], [], [])
        call.finish()
        await wait_all_tasks_blocked()
        assert (rig.outlet.rows, rig.log) == (["a#0"], [])
        rig.outlet.commit()
        await wait_all_tasks_blocked()
        assert rig.log == ["a"]


async def test_rows_are_delivered_one_at_a_time_in_the_order_of_their_commits() -> None:
    """Each when the body is blocked again: what one outcome sets off is over before the next is given."""
    rig = Rig()
    calls = [NamedCall(name) for name in "abc"]

    async def branch(call: NamedCall) -> None:
        await rig.perform(call)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            rig.log.append(f"{call.key.name}+")

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(branch, call)

    async with rig.body(body):
        for call in (calls[2], calls[0], calls[1]):
            call.finish()
        for _ in range(3):
            rig.outlet.commit()
        await wait_all_tasks_blocked()
    assert rig.log == [*("c", "c+", "c+", "c+"), *("a", "a+", "a+", "a+"), *("b", "b+", "b+", "b+")]


async def test_the_seq_rises_with_each_row_and_goes_on_after_the_history() -> None:
    rig, calls = Rig(history=[row(7, "a")]), [NamedCall("a"), NamedCall("b"), NamedCall("c")]
    async with rig.body(after_each_other(rig, *calls)):
        for call in calls[1:]:
            call.finish()
            rig.outlet.commit()
            await wait_all_tasks_blocked()
    assert [item.seq for operation in rig.outlet.committed for item in operation.rows] == [8, 9]


async def test_a_refused_row_gives_the_run_up() -> None:
    for refusal in (OwnershipLost("gone"), RunConflict("twice")):
        rig, call = Rig(), NamedCall("a")
        async with rig.body(after_each_other(rig, call)):
            call.finish()
            rig.outlet.commit(refusal)
            await wait_all_tasks_blocked()
            assert ("refused", type(refusal)) in rig.resident.told
            assert rig.log == []


# ---- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
async def test_recorded_rows_are_delivered_in_the_recorded_order_whatever_the_scheduler_does(order: str) -> None:
    for _ in range(5):
        rig = Rig(history=[row(seq, name) for seq, name in enumerate(order)])
        async with rig.body(together(rig, *(NamedCall(name) for name in "abc"))):
            pass
        assert rig.log == list(order)


async def test_no_call_begins_before_all_recorded_rows_are_delivered() -> None:
    """A recorded call resumes; one without an outcome begins only behind the barrier."""
    rig = Rig(history=[row(1, "b"), row(2, "c")])
    new, old, last = NamedCall("a"), NamedCall("b"), NamedCall("c")
    begun_with: list[list[str]] = []

    class Begun(NamedCall):
        def go_live(self, now: int) -> None:
            super().go_live(now)
            begun_with.append(list(rig.log))

    new = Begun("a")

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.perform, new)
            await rig.perform(old)
            await rig.perform(last)

    async with rig.body(body):
        assert begun_with == [["b", "c"]]
        assert rig.resident.told[0] == "live"
        assert (old.log, last.log) == ([], [])


async def test_a_call_that_a_recorded_outcome_stops_never_begins() -> None:
    """On replay a failed branch cancels its siblings before any of them starts something new."""
    rig = Rig(history=[row(1, "fails")])
    doomed = NamedCall("doomed")

    async def fails() -> None:
        await rig.perform(NamedCall("fails"))
        raise ValueError("recorded")

    async def body() -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.perform, doomed)
                nursery.start_soon(fails)
        except* ValueError:
            rig.log.append("caught")

    async with rig.body(body):
        pass
    assert rig.log == ["fails", "doomed: Cancelled", "caught"]
    assert doomed.log == ["dropped"]


async def test_a_row_that_nobody_waits_for_is_divergence() -> None:
    rig = Rig(history=[row(1, "left")])
    call = NamedCall("right")
    async with rig.body(after_each_other(rig, call)):
        assert rig.resident.told == [("stuck", "left#0", True)]
        assert call.log == []


async def test_a_row_of_another_kind_is_divergence() -> None:
    rig = Rig(history=[row(1, "a", StepKind.SLEEP)])
    async with rig.body(after_each_other(rig, NamedCall("a"))):
        assert rig.resident.told == [("stuck", "a#0", True)]


async def test_a_body_blocked_in_a_foreign_wait_may_still_come_to_the_row() -> None:
    rig, go = Rig(history=[row(1, "a")]), trio.Event()

    async def body() -> None:
        with trio.CancelScope():
            await trio.to_thread.run_sync(lambda: None)
        await rig.perform(NamedCall("a"))
        go.set()

    async with rig.body(body):
        with trio.fail_after(5):
            await go.wait()
        assert [told for told in rig.resident.told if told[0] == "stuck" and told[2]] == []
        assert rig.log == ["a"]


async def test_the_time_of_the_body_is_that_of_the_last_delivered_row() -> None:
    rig = Rig(history=[row(1, "a", at=50), row(2, "b", at=40)])
    times: list[int] = []

    async def body() -> None:
        for name in "ab":
            await rig.perform(NamedCall(name))
            times.append(rig.turns.state.now)

    async with rig.body(body):
        pass
    assert times == [50, 50]  # it never goes back


# ---- cancellation ----------------------------------------------------------------------------------------------------


async def test_a_cancelled_call_without_outcome_is_dropped_and_raises() -> None:
    rig, call = Rig(), NamedCall("a")
    async with rig.body(after_each_other(rig, call)) as scope:
        scope.cancel()
        await wait_all_tasks_blocked()
        assert (call.log, rig.log) == (["live", "dropped"], ["a: Cancelled"])
        assert rig.turns.lobby.calls == {}


async def test_a_call_whose_outcome_is_on_its_way_gives_it_back_even_in_a_cancelled_scope() -> None:
    rig, call = Rig(), NamedCall("a")
    async with rig.body(after_each_other(rig, call, NamedCall("b"))) as scope:
        call.finish()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert rig.log == []
        rig.outlet.commit()
        await wait_all_tasks_blocked()
        assert rig.log == ["a", "b: Cancelled"]


async def test_a_call_in_a_cancelled_scope_does_not_begin() -> None:
    rig, call = Rig(), NamedCall("a")

    async def body() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.perform(call)

    async with rig.body(body):
        pass
    assert (rig.log, call.log) == (["a: Cancelled"], ["dropped"])


async def test_a_recorded_cancel_is_delivered_at_its_place() -> None:
    history = [row(1, "a"), row(2, "(cancel)", StepKind.CANCEL)]
    rig = Rig(history=history)
    calls = [NamedCall(name) for name in "abc"]
    scopes: list[trio.CancelScope] = []
    rig.resident.on_control = lambda _row: scopes[0].cancel()

    async def body() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await after_each_other(rig, *calls)()

    async with rig.body(body):
        pass
    assert rig.log == ["a", "b: Cancelled"]
    assert rig.resident.told[0] == ("control", StepKind.CANCEL)
    assert calls[1].log == ["dropped"]


async def test_a_cancel_that_waits_in_the_mailbox_comes_before_any_call_begins() -> None:
    rig = Rig(unread=[entry(5, "cancel", "cancel", payload='"why"')])
    call = NamedCall("a")
    async with rig.body(after_each_other(rig, call)):
        assert call.log == []
        (operation, _), *_ = rig.outlet.waiting
        assert operation.taken == ((5, 1),)
        assert (operation.rows[0].kind, operation.rows[0].result) == (StepKind.CANCEL, '"why"')
        rig.outlet.commit()
        assert rig.resident.told[0] == ("control", StepKind.CANCEL)


# ---- signals and timers ----------------------------------------------------------------------------------------------


async def test_a_signal_is_taken_by_the_call_that_waits_for_it_in_order_of_arrival() -> None:
    rig = Rig(unread=[entry(3, "signal", "other"), entry(4, "signal", "go"), entry(5, "signal", "go")])
    calls = [NamedCall("x", waits_for="go"), NamedCall("y", waits_for="go")]
    async with rig.body(after_each_other(rig, *calls)):
        assert rig.outlet.commit().taken == ((4, 1),)
        await wait_all_tasks_blocked()
        assert rig.outlet.commit().taken == ((5, 2),)
        await wait_all_tasks_blocked()
    assert rig.log == ["x", "y"]


async def test_a_signal_is_not_taken_while_something_else_is_on_its_way() -> None:
    """The loser of a select must not eat it: the other outcome may end the wait."""
    rig = Rig(unread=[])
    step, wait = NamedCall("step"), NamedCall("wait", waits_for="go")

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.perform, wait)
            await rig.perform(step)
            nursery.cancel_scope.cancel()

    async with rig.body(body):
        step.finish()
        rig.turns.message(look([entry(4, "signal", "go")]))
        await wait_all_tasks_blocked()
        assert rig.outlet.rows == ["step#0"]
        rig.outlet.commit()
        await wait_all_tasks_blocked()
    assert rig.log == ["step", "wait: Cancelled"]
    assert all(not operation.taken for operation in rig.outlet.committed)


async def test_a_call_that_was_due_when_a_signal_came_in_time_is_due_again_once_the_mailbox_was_read() -> None:
    """And no other time is noted anew, however often the mailbox is read."""
    rig = Rig()
    call, other = NamedCall("x", waits_for="go", due_at=5), NamedCall("y", waits_for="other", due_at=50)
    async with rig.body(together(rig, call, other)):
        for number in range(3):
            rig.turns.message(look([entry(number + 1, "signal", "noise")]))
        assert len(rig.turns.state.agenda.timers) == 2
        rig.now = 5
        rig.turns.pump()
        rig.outlet.commit(outcome=False)
        rig.turns.pump()
        assert call.log == ["live", "fired"]
        assert "look" in rig.resident.told
        rig.turns.message(look([]))
        assert call.log == ["live", "fired", "fired"]
        rig.outlet.commit()
        await wait_all_tasks_blocked()
        rig.now = 50
        rig.turns.pump()
        rig.outlet.commit()
        await wait_all_tasks_blocked()
    assert rig.log == ["x", "y"]


async def test_a_look_at_the_mailbox_that_is_older_than_a_consumption_does_not_bring_it_back() -> None:
    """The mailbox is read while an entry of it is being consumed; it must not be consumed again."""
    unread = [entry(4, "signal", "go"), entry(5, "signal", "go")]
    rig = Rig(unread=unread)
    calls = [NamedCall(name, waits_for="go") for name in "xyz"]
    async with rig.body(after_each_other(rig, *calls)):
        rig.turns.message(look(unread))  # read before the first was committed
        rig.outlet.commit()
        await wait_all_tasks_blocked()
        rig.turns.message(look(unread))  # and even later: a slow look
        rig.outlet.commit()
        await wait_all_tasks_blocked()
        rig.turns.message(look([]))
        rig.turns.message(look([entry(6, "signal", "go")]))
        rig.outlet.commit()
        await wait_all_tasks_blocked()
    assert [operation.taken for operation in rig.outlet.committed] == [((4, 1),), ((5, 2),), ((6, 3),)]
    assert rig.log == ["x", "y", "z"]


async def test_a_cancel_is_consumed_once_however_often_it_is_seen() -> None:
    rig = Rig()
    async with rig.body(after_each_other(rig, NamedCall("a"))):
        for _ in range(3):
            rig.turns.message(look([entry(9, "cancel", "cancel")]))
        assert len(rig.outlet.waiting) == 1
        rig.outlet.commit()
        rig.turns.message(look([entry(9, "cancel", "cancel")]))
        assert rig.outlet.waiting == []


async def test_a_signal_that_came_after_the_wait_was_due_is_not_taken_by_it() -> None:
    rig = Rig(unread=[entry(4, "signal", "go", at=101)])
    rig.now = 200
    call = NamedCall("x", waits_for="go", due_at=100)
    async with rig.body(after_each_other(rig, call)):
        assert call.log == ["live", "fired"]
        assert rig.outlet.commit().taken == ()


async def test_a_signal_that_came_in_time_beats_a_time_that_is_past() -> None:
    rig = Rig(unread=[entry(4, "signal", "go", at=100)])
    rig.now = 200
    call = NamedCall("x", waits_for="go", due_at=100)
    async with rig.body(after_each_other(rig, call)):
        assert call.log == ["live"]
        assert rig.outlet.commit().taken == ((4, 1),)


async def test_a_time_fires_when_it_has_come_and_not_before() -> None:
    rig, call = Rig(), NamedCall("x", due_at=100)
    async with rig.body(after_each_other(rig, call)):
        assert ("idle", 100, (), ()) in rig.resident.told
        for rig.now in (50, 99):
            rig.turns.pump()
            assert call.log == ["live"]
        rig.now = 100
        rig.turns.pump()
        assert call.log == ["live", "fired"]


async def test_a_body_that_only_waits_says_for_what_and_until_when() -> None:
    rig = Rig()
    calls = [NamedCall("x", waits_for="b", due_at=100), NamedCall("y", waits_for="a"), NamedCall("z", due_at=50)]
    async with rig.body(together(rig, *calls)):
        assert ("idle", 50, ("a", "b"), ()) in rig.resident.told


# ---- leaving ---------------------------------------------------------------------------------------------------------


async def test_a_held_run_begins_nothing_and_delivers_nothing_and_says_when_it_is_quiet() -> None:
    rig, calls = Rig(), [NamedCall("a"), NamedCall("b")]
    async with rig.body(after_each_other(rig, *calls)):
        rig.turns.lobby.busy(calls[0])
        rig.turns.hold()
        assert "quiesced" not in rig.resident.told
        calls[0].finish()
        rig.turns.lobby.emerged(calls[0])
        assert "quiesced" not in rig.resident.told  # its outcome is on its way
        rig.outlet.commit()
        await wait_all_tasks_blocked()
        assert "quiesced" in rig.resident.told
        assert (rig.log, calls[1].log) == ([], [])


async def test_detaching_ends_every_wait_and_writes_nothing() -> None:
    rig = Rig()
    calls = [NamedCall("a"), NamedCall("b")]

    async def shielded(call: NamedCall) -> None:
        with trio.CancelScope(shield=True):
            await rig.perform(call)

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(shielded, call)

    async with rig.body(body):
        calls[0].finish()
    assert sorted(rig.log) == ["a: Detached", "b: Detached"]
    rig.outlet.commit()
    assert rig.outlet.waiting == []


async def test_a_call_after_detaching_raises_at_once() -> None:
    rig = Rig()
    rig.port.cut()
    with pytest.raises(Detached):
        await rig.turns.lobby.perform(NamedCall("a"))
    with pytest.raises(Detached):
        await rig.turns.lobby.extend(lambda done: None)


async def test_nothing_is_delivered_while_a_task_waits_inside_its_turn() -> None:
    rig, call = Rig(), NamedCall("a")
    commits: list[Callable[[Any], None]] = []

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.perform, call)
            await trio.testing.wait_all_tasks_blocked()
            rig.log.append(str(await rig.turns.lobby.extend(commits.append)))

    async with rig.body(body):
        call.finish()
        rig.outlet.commit()
        await wait_all_tasks_blocked()
        assert rig.log == []
        commits[0]("extended")
        await wait_all_tasks_blocked()
    assert rig.log == ["extended", "a"]
