"""What ``top`` knows and shows at a moment, and what keys do to it. Pure: no terminal, no engine, no clock."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Final

import attrs

from durable_trio.cli.runs_table import status_word
from durable_trio.cli.text import visible
from durable_trio.records import EngineStatus, RunRecord
from durable_trio.views.run import RunView
from supervisors import TreeNode

__all__ = ["Action", "Look", "Pane", "TopState"]

_PAGE_LINES: Final = 10
_FILTER_CHARACTERS_MAX: Final = 60


class Pane(enum.Enum):
    """What the lower part of the screen shows."""

    RUN = "run"
    TREE = "tree"


class Action(enum.Enum):
    """What a key asks for that is not done by the state itself."""

    QUIT = "quit"
    CANCEL = "cancel"
    RESUME = "resume"
    READ = "read"


@attrs.frozen(kw_only=True)
class Look:
    """What was read from the database at one time."""

    at: datetime
    status: EngineStatus
    runs: tuple[RunRecord, ...] = ()
    roots: tuple[TreeNode, ...] = ()
    view: RunView | None = None
    runs_per_second: float = 0.0
    steps_per_second: float = 0.0


@attrs.define(kw_only=True)
class TopState:
    """The state of the screen."""

    look: Look | None = None
    selected_id: str | None = None
    pane: Pane = Pane.RUN
    is_pane_alone: bool = False
    pane_scroll: int = 0
    filter: str = ""
    is_typing: bool = False
    asks_to_cancel: str | None = None  # the run's id
    message: str = ""
    fault: str = ""
    _selected_index: int = 0

    # ---- what is shown -------------------------------------------------------------------------------------------

    def runs(self) -> tuple[RunRecord, ...]:
        """Return the runs of the list: those that the filter lets through."""
        if self.look is None:
            return ()
        words = self.filter.casefold().split()
        return tuple(record for record in self.look.runs if all(_matches(record, word) for word in words))

    def selected(self) -> RunRecord | None:
        """Return the run that is selected."""
        return next((record for record in self.runs() if record.id == self.selected_id), None)

    def take(self, look: Look) -> None:
        """Show what was read last. The selection stays on its run, or else at its place."""
        self.look = look
        self.fault = ""
        self._settle()

    def _settle(self) -> None:
        ids = [record.id for record in self.runs()]
        if self.selected_id in ids:
            self._selected_index = ids.index(self.selected_id)
        elif ids:
            self._selected_index = min(self._selected_index, len(ids) - 1)
            self.selected_id = ids[self._selected_index]
        else:
            self.selected_id = None

    # ---- keys ----------------------------------------------------------------------------------------------------

    def press(self, key: str) -> Action | None:
        """Take a key; return what is to be done beside."""
        self.message = ""
        if self.asks_to_cancel is not None:
            return self._answer(key)
        if self.is_typing:
            return self._type(key)
        if key in ("q", "Q"):
            return Action.QUIT
        if key in _STEPS or key in ("home", "end", "g", "G"):
            return self._move(key)
        if key == "enter":
            self.is_pane_alone = not self.is_pane_alone
            self.pane_scroll = 0
        elif key == "escape":
            return self._back()
        elif key in ("t", "tab"):
            self.pane = Pane.RUN if self.pane is Pane.TREE else Pane.TREE
            self.pane_scroll = 0
        elif key == "/":
            self.is_typing = True
        elif key == "c" and self.selected_id is not None:
            self.asks_to_cancel = self.selected_id
        elif key == "r" and self.selected_id is not None:
            return Action.RESUME
        return None

    def _answer(self, key: str) -> Action | None:
        if key in ("y", "Y"):
            return Action.CANCEL
        self.asks_to_cancel = None
        return None

    def _type(self, key: str) -> Action | None:
        if key == "enter":
            self.is_typing = False
        elif key == "escape":
            self.is_typing, self.filter = False, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and len(self.filter) < _FILTER_CHARACTERS_MAX:
            self.filter += key
        self._settle()
        return Action.READ

    def _back(self) -> Action | None:
        if self.is_pane_alone:
            self.is_pane_alone = False
        elif self.filter:
            self.filter = ""
            self._settle()
        self.pane_scroll = 0
        return Action.READ

    def _move(self, key: str) -> Action | None:
        step = _STEPS.get(key, 0)
        if self.is_pane_alone:
            self.pane_scroll = 0 if key in ("home", "g") else max(0, self.pane_scroll + step)
            if key in ("end", "G"):
                self.pane_scroll = 1_000_000  # what draws keeps it within the lines there are
            return None
        runs = self.runs()
        if not runs:
            return None
        index = self._selected_index + step
        if key in ("home", "g"):
            index = 0
        elif key in ("end", "G"):
            index = len(runs) - 1
        self._selected_index = max(0, min(index, len(runs) - 1))
        self.selected_id = runs[self._selected_index].id
        self.pane_scroll = 0
        return Action.READ


_STEPS: Final = {"up": -1, "k": -1, "down": 1, "j": 1, "page_up": -_PAGE_LINES, "page_down": _PAGE_LINES}


def _matches(record: RunRecord, word: str) -> bool:
    """Whether a word stands in what the list shows of a run: its id, status or workflow."""
    return any(word in text.casefold() for text in (visible(record.id), status_word(record), visible(record.workflow)))
