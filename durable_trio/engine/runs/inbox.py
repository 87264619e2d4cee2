"""What services tell a resident run, and the task that takes it.

That task begins with the first notice: nearly always nothing is ever said to a run while it is in memory.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
import trio

from durable_trio.limits import INBOX_CAPACITY
from durable_trio.stores.questions import MailboxLook
from durable_trio.turns.port import Port
from durable_trio.turns.turns import Turns

__all__ = ["Inbox", "Notice"]


class Notice(enum.Enum):
    """What services tell a run. Level-triggered: the run looks for itself.

    Only of its mailbox it may be given the look itself (``MailboxLook``): what was put into it, and between which ids.
    """

    MAILBOX = "mailbox"  # there may be unread entries in its mailbox
    WAKE = "wake"  # something is due
    DRAIN = "drain"  # leave as soon as no step function runs


class Addressee(Protocol):
    """The run whose inbox it is."""

    turns: Turns

    def start_beside(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Start a task of the run's that is none of the body's."""

    async def read_mailbox(self) -> MailboxLook:
        """Look at the mailbox."""

    def take_look(self, look: MailboxLook) -> None:
        """Take what was found there."""

    def failed(self, error: BaseException) -> None:
        """Something of ours has failed in this run."""


@attrs.define(eq=False)
class Inbox:
    """The notices to one run, and looks at its mailbox, that it has not taken yet."""

    _addressee: Addressee
    _port: Port
    _told: set[Notice] = attrs.Factory(set)
    _handed: list[MailboxLook] = attrs.Factory(list)
    _has_begun: bool = False
    _has_listener: bool = False
    _waiting: trio.lowlevel.Task | None = None  # the listener, while it has nothing to do

    def begin(self) -> None:
        """The run has begun: it takes notices until it leaves."""
        self._has_begun = True
        if self._told or self._handed:
            self._start()

    def post(self, notice: Notice | MailboxLook) -> None:
        """Have the run take a notice, with all others that wait; once it has begun, if it has not."""
        if self._port.is_cut:
            return  # the store knows what is to be done
        if isinstance(notice, Notice):
            self._told.add(notice)
        elif len(self._handed) < INBOX_CAPACITY:
            self._handed.append(notice)
        else:
            self._told.add(Notice.MAILBOX)
        if self._waiting is not None:
            task, self._waiting = self._waiting, None
            trio.lowlevel.reschedule(task)
        elif self._has_begun and not self._has_listener:
            self._start()

    def failed(self, error: BaseException) -> None:
        """Posting has failed: that is the run's affair."""
        self._addressee.failed(error)

    def _start(self) -> None:
        self._has_listener = True
        self._addressee.start_beside(self._listen)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def _listen(self) -> None:
        addressee, turns = self._addressee, self._addressee.turns
        while True:
            while self._told or self._handed:  # one look serves all that wait
                told, self._told = self._told, set()
                handed, self._handed = self._handed, []
                if Notice.DRAIN in told:
                    turns.hold()
                if handed or Notice.MAILBOX in told:
                    look = None if Notice.MAILBOX in told else turns.mailbox.joined(handed)
                    addressee.take_look(look or await addressee.read_mailbox())
                turns.pump()
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop)

    def _stop(self, _: Any) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED
