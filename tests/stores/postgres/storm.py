"""Executors at work on a server that goes now and then, and what must be so at the end.

Each *hand* is an open store behind a proxy of its own, in a thread: it starts runs, claims them, writes checkpoints,
has functions called in transactions, sends signals, reads them, lets go and ends. It keeps what was acknowledged to it.
Meanwhile connections are cut, before a COMMIT and behind it, backends are ended, the server crashes, commits hang, and
hands vanish without a word. At the end the database is compared with what was acknowledged.

A hand for whom a commit is on the disk once it is acknowledged (``full``) has lost nothing; the others are told what
they have lost (``store_rewound``).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import psycopg
from private_postgres import Server

from durable_trio.errors import OwnershipLost, RunFinished, RunNotFound, StoreAway
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import RunRow
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    Finish,
    ReapExecutor,
    RegisterExecutor,
    Release,
    RenewLease,
    SendSignal,
    Started,
)
from durable_trio.stores.cursors import Cursor, CursorLost
from durable_trio.stores.news_questions import FindCursor, ListNews
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListExecutors, LoadRun
from durable_trio.testing.store_contract.kit import codes_of, fence_of, start_operation, step
from tests.kit.proxy import Proxy
from tests.stores.postgres.weather import Happening, Weather, ask

__all__ = ["COUNTED", "Storm"]

#: What must have been seen, or the storm shows nothing.
COUNTED = (
    *("found committed", "sent again", "waited for the old backend", "CursorLost", "store_rewound", "reaped"),
    *(each.value for each in Happening if each is not Happening.FAIL_OVER),
)

_SECONDS_MAX = 120.0  # for all of that to have been seen
_RUNS_OPEN_MAX = 4
_STEPS_OF_A_RUN = 6
_SCHEMA = "storm"
_FAR = 2**61
_CHECK_INDEXES = """
    SELECT bt_index_check(indexrelid::regclass, heapallindexed => true) FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE amname = 'btree' AND relnamespace = current_schema()::regnamespace AND relpersistence = 'p'
"""


class Gone(Exception):
    """This hand vanishes now."""


@attrs.define(eq=False)
class Held:
    """A run that a hand owns, as it knows it."""

    row: RunRow
    next_seq: int
    steps: int = 0


class Hand:
    """One open store, and who works with it."""

    def __init__(self, storm: Storm, number: int, seed: int, *, durability: str) -> None:
        self.storm, self.number = storm, number
        self.durability = durability
        self.proxy = Proxy(storm.server.port)
        self.is_to_vanish = False
        self._random = random.Random(seed)
        self._held: dict[str, Held] = {}
        self._sent: Counter[str] = Counter()
        self._made = 0
        self._cursor: Cursor | None = None
        #: What was acknowledged: steps, and starts, with the number of losses that this hand had been told of by then.
        self.steps: list[tuple[str, str]] = []
        self.starts: list[str] = []
        self.executor = 0
        self.store = PostgresStore(self.proxy.url(storm.url), durability=durability)

    def work(self) -> None:
        """Work until the storm is over, or this hand is to vanish."""
        try:
            self._patiently(self.store.open)
            self._register()
            while not self.storm.is_over:
                doing = self._random.choice((self._start, self._claim, *[self._go_on] * 6, self._signal, self._look))
                doing()
            for held in list(self._held.values()):
                self._release(held)
            self._patiently(self.store.close)
            self.storm.note(self)
        except Gone:
            self.storm.vanished.add(self.executor)
            self.storm.note(self)
        except BaseException as error:
            self.storm.failures.append(f"hand {self.number}: {error!r}")
            raise

    # ---- what it does --------------------------------------------------------------------------------------------

    def _apply(self, *batch: Any) -> list[Any]:
        """Apply a batch, the same again while the store is away, as the engine does; note what was lost."""
        outcomes: list[Any] = self._patiently(lambda: self.store.apply(batch))
        return outcomes

    def _patiently(self, work: Callable[[], Any]) -> Any:
        until = time.monotonic() + 60
        while True:
            if self.is_to_vanish:
                raise Gone
            try:
                return work()
            except StoreAway as error:
                if time.monotonic() > until:
                    raise TimeoutError("the server does not come back") from error
                time.sleep(0.01)

    def _register(self) -> None:
        self._held.clear()
        (self.executor,) = self._apply(RegisterExecutor(pid=self.number, host="here", lease=10**7, now=0))

    def _start(self) -> None:
        if len(self._held) >= _RUNS_OPEN_MAX:
            return None
        self._made += 1
        name = f"{self.number}-{self._made}"
        owner = self.executor if self._random.random() < 0.5 else None
        (started,) = self._apply(start_operation(name, owner=owner))
        if not isinstance(started, Started):
            return self._lost(started)
        assert started.created, f"{name} was started twice"
        self.starts.append(name)
        if started.row.owner == self.executor:
            self._held[name] = Held(started.row, 0)
        return None

    def _claim(self) -> None:
        (claimed,) = self._apply(ClaimDue(owner=self.executor, codes=codes_of("work"), now=_FAR, limit=2))
        if isinstance(claimed, Exception):
            return self._lost(claimed)
        for row in claimed:
            loaded = self._patiently(partial(self.store.ask, LoadRun(row.run)))
            done = [each for each in loaded.history if each.kind is StepKind.STEP]
            next_seq = 1 + max((each.seq for each in loaded.history), default=-1)
            self._held[row.id] = Held(row, next_seq, len(done))
        return None

    def _go_on(self) -> None:
        if not self._held:
            return self._claim()
        held = self._random.choice(list(self._held.values()))
        if held.steps >= _STEPS_OF_A_RUN:
            return self._finish(held)
        dice = self._random.random()
        if dice < 0.2:
            return self._pay(held)
        if dice < 0.4:
            return self._read_mail(held)
        if dice < 0.45:
            return self._release(held)
        row = step(held.next_seq, f"step-{held.steps}")
        outcome, *_ = self._apply(
            Advance(fence=fence_of(held.row), rows=(row,), now=_FAR), RenewLease(executor=self.executor)
        )
        return self._stepped(held, outcome, row.key.name)

    def _stepped(self, held: Held, outcome: Any, name: str) -> None:
        if outcome is not True:
            return self._lost(outcome)
        held.next_seq += 1
        held.steps += 1
        self.steps.append((held.row.id, name))
        return None

    def _pay(self, held: Held) -> None:
        name, seq = f"step-{held.steps}", held.next_seq

        def pay(connection: psycopg.Connection[Any]) -> Advance:
            connection.execute("INSERT INTO public.account VALUES (%s, %s)", [held.row.id, name])
            return Advance(fence=fence_of(held.row), rows=(step(seq, name),), now=_FAR)

        try:
            outcome = self._patiently(lambda: self.store.transact(fence_of(held.row), pay, seconds_max=30))
        except OwnershipLost as error:
            outcome = error
        self._stepped(held, outcome, name)

    def _read_mail(self, held: Held) -> None:
        unread = self._patiently(lambda: self.store.ask(LoadRun(held.row.run))).unread
        signals = [each for each in unread if each.kind == "signal"]
        if not signals:
            return
        entry = signals[0]
        row = step(held.next_seq, f"mail-{entry.id}", kind=StepKind.SIGNAL, result=entry.payload)
        (outcome,) = self._apply(Advance(fence=fence_of(held.row), rows=(row,), taken=((entry.id, row.seq),), now=_FAR))
        if outcome is not True:
            self._lost(outcome)
        else:
            held.next_seq += 1

    def _release(self, held: Held) -> None:
        (outcome,) = self._apply(Release(fence=fence_of(held.row), status=RunStatus.RUNNING, wake_at=1))
        if outcome is not True:
            self._lost(outcome)
        else:
            del self._held[held.row.id]

    def _finish(self, held: Held) -> None:
        (outcome,) = self._apply(Finish(fence=fence_of(held.row), status=RunStatus.COMPLETED, result="1", now=_FAR))
        if outcome is not True:
            self._lost(outcome)
        else:
            del self._held[held.row.id]

    def _signal(self) -> None:
        """Send the next number to some run; whoever sends several sends them in their order."""
        if not self.starts:
            return
        to = self._random.choice(self.starts[-3:])
        number = self._sent[to] + 1
        (outcome,) = self._apply(
            SendSignal(
                run_id=to,
                name="go",
                payload=f"[{self.number}, {number}]",
                signal_id=f"{self.number}-{number}",
                now=10,
            )
        )
        if isinstance(outcome, (RunFinished, RunNotFound)):
            return
        assert not isinstance(outcome, Exception), outcome
        self._sent[to] = number

    def _look(self) -> None:
        """Ask what is new, and look for those who are dead."""
        try:
            if self._cursor is None:
                self._cursor = self._patiently(lambda: self.store.ask(FindCursor()))
            news = ListNews(after=self._cursor, limit=100)
            page = self._patiently(lambda: self.store.ask(news))
            self._cursor = page.cursor
        except CursorLost:
            self._cursor = None
            self.storm.counted["CursorLost"] += 1
        for executor in self._patiently(lambda: self.store.ask(ListExecutors())):
            if executor.id in self.storm.vanished and executor.is_locked is not True:
                (count,) = self._apply(ReapExecutor(executor=executor.id, now=10))
                self.storm.counted["reaped"] += count is not None

    def _lost(self, outcome: Any) -> None:
        """The executor was declared dead: begin anew, as an engine does."""
        assert isinstance(outcome, OwnershipLost), outcome
        self.storm.counted["ownership lost"] += 1
        self._register()


class _Told(logging.Handler):
    def __init__(self, storm: Storm) -> None:
        super().__init__()
        self._storm = storm

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", "") == "store_rewound":
            self._storm.counted["store_rewound"] += 1


#: Of twenty things that happen; ``None``: a hand vanishes.
_OF_TWENTY: dict[Happening | None, int] = {
    Happening.REPLY_LOST: 6,
    Happening.REQUEST_LOST: 3,
    Happening.SLOW: 1,
    Happening.BACKENDS_ENDED: 3,
    Happening.BACKEND_KILLED: 1,
    Happening.COMMITS_HANG: 3,
    Happening.SERVER_CRASHES: 1,
    None: 2,
}


class Storm:
    """Some hands, and a server that is not left alone.

    Args:
        seconds: how long at least; it goes on until all of ``COUNTED`` was seen.
        hands: how many; the last one writes with ``durability="normal"``.
    """

    def __init__(self, *, seed: int, seconds: float, hands: int = 4) -> None:
        self.seed, self.seconds = seed, seconds
        self._random = random.Random(seed)
        self._hand_count = hands
        self.server = Server(
            settings={"shared_buffers": "64MB", "deadlock_timeout": "200ms", "wal_writer_delay": "10s"}
        )
        self.url = f"{self.server.url}?schema={_SCHEMA}"
        self.is_over = False
        self.failures: list[str] = []
        self.counted: Counter[str] = Counter()
        self.vanished: set[int] = set()
        self._hands: list[Hand] = []
        self._ended: list[Hand] = []
        self._next: list[Happening | None] = []
        self._weather = Weather(self.server, seed=seed)

    def run(self) -> Counter[str]:
        """Have it blow, and check; return what was counted.

        Raises:
            AssertionError: something was lost, done twice, or left over.
        """
        logger = logging.getLogger("durable_trio.store")
        told = _Told(self)
        logger.addHandler(told)
        self._began = time.monotonic()
        try:
            with psycopg.connect(self.server.url, autocommit=True) as connection:
                connection.execute("CREATE TABLE public.account (run text, name text)")
                first = PostgresStore(self.url)
                first.open()
                first.close()
                # After the crash of a server that has not yet stored where they are, it may not start: it finds files
                # of unlogged tables where it wants to make them.
                connection.execute("CHECKPOINT")
            threads = [self._begin("full" if number < self._hand_count else "normal") for number in self._numbers()]
            watcher = threading.Thread(target=self._watch, daemon=True)
            watcher.start()
            while not self._has_blown_enough() and not self.failures:
                time.sleep(self._random.uniform(0.02, 0.2))
                self._disturb(threads)
            self.is_over = True
            for thread in threads:
                thread.join(90)
                assert not thread.is_alive(), "a hand does not come to an end"
            watcher.join(30)
            assert not self.failures, self.failures
            with psycopg.connect(self.server.url, autocommit=True) as connection:
                connection.execute(f"SET search_path = {_SCHEMA}, public")
                self._check(connection)
            return self.counted
        finally:
            self.is_over = True
            logger.removeHandler(told)
            for hand in self._hands:
                hand.proxy.close()
                hand.store.close()
            self.server.close()

    def _has_blown_enough(self) -> bool:
        seconds = time.monotonic() - self._began
        if seconds > _SECONDS_MAX:
            return True
        self._count()
        return seconds > self.seconds and all(self.counted[each] for each in COUNTED)

    def _count(self) -> None:
        ledgers = [hand.store._ledger for hand in self._hands if hasattr(hand.store, "_ledger")]
        self.counted |= self._weather.counted
        self.counted["found committed"] = sum(each.found_count for each in ledgers)
        self.counted["sent again"] = sum(each.resent_count - each.found_count for each in ledgers)

    def note(self, hand: Hand) -> None:
        """A hand has ended, in its thread."""
        self._ended.append(hand)

    def _numbers(self) -> Iterator[int]:
        yield from range(1, self._hand_count + 1)

    def _begin(self, durability: str) -> threading.Thread:
        number = len(self._hands) + 1
        hand = Hand(self, number, self.seed * 1000 + number, durability=durability)
        self._hands.append(hand)
        thread = threading.Thread(target=hand.work, daemon=True, name=f"hand {number}")
        thread.start()
        return thread

    # ---- the weather ---------------------------------------------------------------------------------------------

    def _disturb(self, threads: list[threading.Thread]) -> None:
        living = [hand for hand in self._hands if hand not in self._ended and not hand.is_to_vanish]
        hand = self._random.choice(living)
        if not self._next:
            self._next = [kind for kind, count in _OF_TWENTY.items() for _ in range(count)]
            self._random.shuffle(self._next)
        kind = self._next.pop()
        if kind is not None:
            self._weather.happen(kind, hand.proxy, spared=[each.proxy for each in living if each.durability == "full"])
        elif hand.durability == "full" and len(self._hands) < 3 * self._hand_count:
            hand.is_to_vanish = True
            hand.proxy.close()
            threads.append(self._begin("full"))

    def _watch(self) -> None:
        """Count who waits for an old backend to say what became of a number."""
        seen: set[tuple[Any, ...]] = set()
        while not self.is_over:
            with suppress(psycopg.Error):
                found = ask(
                    self.server,
                    "SELECT pid, xact_start FROM pg_stat_activity "
                    "WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO commits%'",
                )
                seen.update(found)
                self.counted["waited for the old backend"] = len(seen)
            time.sleep(0.02)

    # ---- what must be so -----------------------------------------------------------------------------------------

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        def rows(text: str) -> list[tuple[Any, ...]]:
            return connection.execute(text.encode()).fetchall()

        self._count()
        self.counted["steps"] = sum(len(hand.steps) for hand in self._hands)
        self._check_acknowledged(rows)
        # Each step once: a key of a run is there once by itself; a payment is a row of the history, and the other way.
        account = rows("SELECT run, name FROM account")
        assert len(account) == len(set(account)), "a payment was committed twice"
        history = set(rows("SELECT id, name FROM history JOIN runs USING (run)"))
        assert set(account) <= history, "a payment has no checkpoint"
        for run, count, last in rows(
            "SELECT run, count(*), max(seq) FROM history GROUP BY run HAVING count(*) <> max(seq) + 1"
        ):
            raise AssertionError(f"run {run} has {count} rows and the last is {last}: there is a gap, or one is double")
        # Mailboxes: each signal once, those of one sender in their order, and read in that order.
        last_of: dict[tuple[Any, ...], list[int]] = {}
        for run, payload, seq in rows("SELECT run, payload, seq FROM mailbox WHERE kind = 'signal' ORDER BY run, id"):
            sender, number = map(int, payload[1:-1].split(","))
            assert (last_of.setdefault((run, sender), [0])[0]) < number, f"run {run}: {payload} comes too late"
            last_of[run, sender][0] = number
            if seq is not None:
                assert last_of.setdefault((run,), [-1])[0] < seq, f"run {run}: mail was read out of order"
                last_of[run,][0] = seq
        # Nothing is left of those who have gone.
        assert rows("SELECT * FROM guards") == []
        self._check_nobody_is_left(rows)
        connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        rows(_CHECK_INDEXES)

    def _check_acknowledged(self, rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
        runs = {run_id for (run_id,) in rows("SELECT id FROM runs")}
        history = set(rows("SELECT id, name FROM history JOIN runs USING (run)"))
        commits = set(rows("SELECT instance, batch FROM commits"))
        for hand in self._hands:
            ledger = getattr(hand.store, "_ledger", None)
            if ledger is None or hand.durability != "full":
                continue
            lost = [name for name in hand.starts if name not in runs]
            assert not lost, f"starts that were acknowledged are not there: {lost}"
            steps = [each for each in hand.steps if each not in history]
            assert not steps, f"steps that were acknowledged are not there: {steps}"
            gaps = [number for number in ledger._acknowledged if (ledger.instance, number) not in commits]
            assert not gaps, f"hand {hand.number}: numbers that were acknowledged are not there: {gaps}"

    def _check_nobody_is_left(self, rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
        until = time.monotonic() + 20
        query = """
            SELECT count(*) FROM pg_stat_activity LEFT JOIN pg_locks USING (pid)
            WHERE application_name = 'durable_trio' AND pid <> pg_backend_pid()
        """
        while rows(query) != [(0,)]:
            assert time.monotonic() < until, "connections or locks are left over"
            time.sleep(0.05)
