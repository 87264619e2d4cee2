#!/usr/bin/env python3
"""Work on a PostgreSQL server for long while all that can fail does, and check that nothing is lost or done twice.

    python scripts/soak_postgres.py                     20 minutes
    python scripts/soak_postgres.py --minutes 1 --seed 7

In turns: a campaign, in which processes that serve are killed at random instants, on a pair of servers of which the
second must answer and takes over now and then; and a storm of stores on one server, some of which vanish. All the time
links are cut, slow, or lose the answer to a commit, backends are ended and killed, commits hang, servers crash. After
each the checker compares the database with what was acknowledged, looks through every index (``amcheck``), and finds
out what was left over. Prints what was seen, and how to repeat what failed; exit code 1 if something was, or if a kind
was not seen.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "scripts")]

from private_postgres import Server  # noqa: E402

from tests.crash.driver import Campaign, Kill  # noqa: E402
from tests.crash.zygote import Zygote  # noqa: E402
from tests.kit.proxy import Proxy  # noqa: E402
from tests.stores.postgres.storm import COUNTED, Storm  # noqa: E402
from tests.stores.postgres.weather import Happening, Weather, ask  # noqa: E402

_KILLS = 8  # of a campaign
_STORM_SECONDS = 20.0
_SETTINGS = {"shared_buffers": "64MB", "deadlock_timeout": "200ms", "wal_retrieve_retry_interval": "20ms"}
_OF_TWENTY = {
    Happening.REPLY_LOST: 5,
    Happening.REQUEST_LOST: 4,
    Happening.SLOW: 2,
    Happening.BACKENDS_ENDED: 3,
    Happening.BACKEND_KILLED: 1,
    Happening.COMMITS_HANG: 2,
    Happening.SERVER_CRASHES: 2,
    Happening.FAIL_OVER: 1,
}
# What a campaign's checker counts that must have been there, or nothing was shown.
_WORKED = ("kills", "transactions", "signals consumed", "compensations", "timers", "children", "recovery interrupted")


class Pair:
    """Two servers, the way to the one that leads, and what happens to them while a campaign lets it."""

    def __init__(self, seed: int) -> None:
        leader = Server(settings=_SETTINGS)
        standby = Server(of=leader, settings=_SETTINGS)
        self._proxy = Proxy(leader.port)
        self._url = self._proxy.url(leader.url)
        self._random = random.Random(seed)
        self.weather = Weather(leader, [self._proxy], seed=seed, standby=standby)
        self._blows = threading.Event()
        self._happening = threading.Lock()
        self._next: list[Happening] = []

    def new_url(self, name: str) -> str:
        """Return the URL of a new database."""
        ask(self.weather.server, f"CREATE DATABASE {name} ENCODING UTF8 TEMPLATE template0")
        base = self._url.rpartition("/")[0]
        return f"{base}/{name}"

    @contextmanager
    def blowing(self) -> Iterator[None]:
        """Let things happen for as long as a block takes; after it all is well again."""
        self._blows.set()
        try:
            yield
        finally:
            self._blows.clear()
            with self._happening:
                pass

    def disturb_until_over(self, work: threading.Thread) -> None:
        """Have one thing happen after the other. By the main thread: servers that are made end with theirs."""
        while work.is_alive():
            time.sleep(self._random.uniform(0.02, 0.4))
            with self._happening:
                if self._blows.is_set():
                    self._happen()

    def _happen(self) -> None:
        if not self._next:
            self._next = [kind for kind, count in _OF_TWENTY.items() for _ in range(count)]
            self._random.shuffle(self._next)
        self.weather.happen(self._next.pop(), self._proxy)

    def close(self) -> None:
        """Stop the servers."""
        self._proxy.close()
        self.weather.close()


def main() -> int:
    """Do what the options ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0, metavar="M", help="how long at least (20)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of what is left to chance (1)")
    options = parser.parse_args()
    began = time.monotonic()
    counted: Counter[str] = Counter()
    failures: list[str] = []
    seed = options.seed
    zygote = Zygote()
    pair = Pair(seed)
    try:
        while True:
            for round_of in (_campaign, _storm):
                found = round_of(seed, zygote, pair, counted)
                failures += found
                minutes = (time.monotonic() - began) / 60
                kind = round_of.__name__.strip("_")
                print(f"{minutes:5.1f} min  {kind:8}  seed {seed}  {'FAILED' if found else 'ok'}", flush=True)
                for line in found[:20]:
                    print(f"           {line}", flush=True)
            seed += 1
            if time.monotonic() - began > options.minutes * 60:
                break
    finally:
        zygote.close()
        pair.close()
    counted += pair.weather.counted
    print("\nseen:")
    for name, count in sorted(counted.items()):
        print(f"  {count:8} {name}")
    missing = [name for name in (*COUNTED, *_WORKED, Happening.FAIL_OVER.value) if not counted[name]]
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, {seed - options.seed} rounds, {len(failures)} violations")
    if missing:
        print(f"not seen: {', '.join(missing)}")
    return 1 if failures or missing else 0


def _campaign(seed: int, zygote: Zygote, pair: Pair, counted: Counter[str]) -> list[str]:
    chance = random.Random(seed)
    kills = [Kill(after_seconds=chance.uniform(0.5, 4.0)) for _ in range(_KILLS)]
    url = pair.new_url(f"soak_{seed}")
    directory = Path(tempfile.mkdtemp(prefix="soak_postgres-"))
    campaign = Campaign(zygote, directory, seed=seed, has_client=True, durability="full", url=url, during=pair.blowing)
    work = threading.Thread(target=campaign.run, args=(kills,))
    work.start()
    pair.disturb_until_over(work)
    work.join()
    counted.update(campaign.result.counters)
    if campaign.result.violations:
        return [*campaign.result.violations, f"files: {directory}"]
    campaign.clear()
    return []


def _storm(seed: int, zygote: Zygote, pair: Pair, counted: Counter[str]) -> list[str]:
    try:
        counted.update(Storm(seed=seed, seconds=_STORM_SECONDS).run())
    except AssertionError as error:
        return [str(error), f"repeat: python scripts/postgres_crashes.py --seconds {_STORM_SECONDS:g} --seed {seed}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
