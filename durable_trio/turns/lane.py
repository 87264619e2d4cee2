"""Keeps the tasks of one body apart: one at a time is in trio's run queue, in an order that the body alone decides.

Trio shuffles the tasks that are runnable at once, and keeps those that wait for an event or sit in a cancelled scope in
sets: two tasks that one outcome wakes would run in another order at replay. So only one task of a body at a time is in
trio's run queue; the next follows when it has made its step.

The only file that touches that queue, because no instrument can hold a task back: a test guards what it assumes.
"""

from __future__ import annotations

from collections import deque
from typing import NoReturn

import attrs
import trio

from durable_trio.errors import Detached


@attrs.define(eq=False)
class Lane:
    """Lets the tasks of one body go one at a time, in an order that the body alone decides.

    Tasks that are woken together (by one step of a task, or by one delivery) go in the order of their ages, behind
    those that were woken before. A task that something else wakes, which no replay repeats, goes behind all.
    """

    going: trio.lowlevel.Task | None = None  # in trio's hands
    woken: list[trio.lowlevel.Task] = attrs.Factory(list)  # since the last look
    waiting: deque[trio.lowlevel.Task] = attrs.Factory(deque)
    is_open: bool = False
    first: trio.lowlevel.Task | None = None  # the body's own task
    is_guest: bool = False  # that is not ours: it was there before, and goes on afterwards
    _ages: dict[trio.lowlevel.Task, int] = attrs.Factory(dict)
    _count: int = 0

    def spawned(self, task: trio.lowlevel.Task) -> None:
        """A task of the body begins."""
        self._count += 1
        self._ages[task] = self._count

    def exited(self, task: trio.lowlevel.Task) -> None:
        """A task of the body has ended."""
        self._ages.pop(task, None)

    def adopt(self, task: trio.lowlevel.Task, *, is_guest: bool) -> None:
        """The calling task becomes the first of the body."""
        self._ages[task] = self._count = 1
        self.first = self.going = task
        self.is_guest = is_guest

    def scheduled(self, task: trio.lowlevel.Task) -> None:
        """Trio has just put a task into its run queue: take it out again if another one goes."""
        if self.is_open:
            return
        if self.going is None:  # nearly always; ``quiet`` does that by itself
            self.going = task
            return
        queue = task._runner.runq
        assert queue[-1] is task
        queue.pop()
        self.woken.append(task)

    def delivered(self) -> None:
        """Something was delivered: of the tasks that it has woken, the oldest goes first."""
        if not self.woken:
            return
        assert self.going is not None
        self.going._runner.runq.remove(self.going)
        self.woken.append(self.going)
        self._next()

    def stepped(self) -> None:
        """The task that goes has made its step."""
        if self.woken or self.waiting:
            self._next()
        else:  # nearly always; ``quiet`` does that by itself
            self.going = None

    def open(self) -> None:
        """Let all tasks go at once, from now on: nobody looks on any more, or the run leaves."""
        self.is_open = True
        for task in (*self.waiting, *self.woken):
            task._runner.runq.append(task)
        self.waiting.clear()
        self.woken.clear()

    async def raise_detached(self) -> NoReturn:
        """Raise ``Detached`` in a durable call of a run that has left; others go first, since a body may catch it."""
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise Detached

    def _next(self) -> None:
        if len(self.woken) > 1:
            self.woken.sort(key=lambda task: self._ages.get(task, 0))
        self.waiting.extend(self.woken)
        self.woken.clear()
        self.going = self.waiting.popleft()
        self.going._runner.runq.append(self.going)
