"""Which campaigns there are: each follows from a seed, and is small enough to be repeated by one command."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from durable_trio.testing.probes import PROBES
from tests.crash.driver import Campaign, Kill, Result
from tests.crash.zygote import Zygote

# Kills of one file: few enough to be repeated in seconds, enough to meet what earlier ones have left.
_PROBES_PER_CHAIN: Final = 7
_KILLS_PER_CHAIN: Final = 10
# Commits that a worker makes but once in its life.
_ONCE: Final = frozenset({"register", "reap", "prune"})


@attrs.frozen(kw_only=True)
class Plan:
    """A campaign to be: its kills, and the circumstances."""

    name: str
    seed: int
    kills: tuple[Kill, ...]
    has_client: bool
    durability: str
    command: str  # repeats it

    def run(
        self,
        zygote: Zygote,
        directory: Path,
        reference: dict[str, Any] | None,
        *,
        url: str | None = None,
        hosts: Sequence[str] = ("trio",),
    ) -> Result:
        """Run it in an empty directory; what it leaves there tells the story if something was found.

        ``url``: of a schema that is new, in place of a file. ``hosts``: where its engines run, in turns.
        """
        campaign = Campaign(
            zygote,
            directory,
            seed=self.seed,
            has_client=self.has_client,
            durability=self.durability,
            reference=reference,
            url=url,
            hosts=hosts,
        )
        result = campaign.run(self.kills)
        if not result.violations:
            campaign.clear()
        return result


def probe_plan(seed: int, probes: Sequence[str], *, count: int = 1) -> Plan:
    """Return a campaign that dies at each of the probes, one after the other."""
    chance = random.Random(f"{seed} {probes}")
    # Somebody must have died before anybody can be declared dead.
    first = (Kill(probe="after:start"),) if probes[0].endswith((":reap", ":tell-death")) else ()
    return Plan(
        name="probes " + " ".join(probes),
        seed=seed,
        kills=first
        + tuple(
            Kill(probe=probe, count=1 if probe.partition(":")[2] in _ONCE else count, torn=chance.random() < 0.5)
            for probe in probes
        ),
        has_client=chance.random() < 0.4,
        durability=chance.choice(["full", "normal"]),
        command=" ".join(
            [
                "python scripts/crash_injection.py",
                f"--seed {seed}",
                f"--count {count}",
                *(f"--probe {p}" for p in probes),
            ]
        ),
    )


def random_plan(seed: int, kill_count: int = _KILLS_PER_CHAIN) -> Plan:
    """Return a campaign of kills at random instants of a worker's life."""
    chance = random.Random(seed)
    kills = tuple(
        Kill(
            after_seconds=chance.uniform(0.02, 0.4),
            torn=chance.random() < 0.5,
            pause_seconds=chance.choice([0.0, 0.0, 0.0, 0.15]),
        )
        for _ in range(kill_count)
    )
    return Plan(
        name=f"{kill_count} random kills",
        seed=seed,
        kills=kills,
        has_client=chance.random() < 0.6,
        durability=chance.choice(["full", "normal"]),
        command=f"python scripts/crash_injection.py --seed {seed} --kills {kill_count} --kills-per-file {kill_count}",
    )


def all_probes(seed: int) -> list[Plan]:
    """Return campaigns that together die at every probe once."""
    probes = list(PROBES)
    random.Random(seed).shuffle(probes)
    chains = [probes[start : start + _PROBES_PER_CHAIN] for start in range(0, len(probes), _PROBES_PER_CHAIN)]
    return [probe_plan(seed, chain) for chain in chains]


def make_reference(zygote: Zygote, directory: Path, *, url: str | None = None) -> dict[str, Any]:
    """Run every workflow without faults, and return the results."""
    campaign = Campaign(zygote, directory, url=url)
    result = campaign.run(())
    if result.violations:
        raise AssertionError("without any fault: " + "\n".join(result.violations))
    reference = campaign.reference()
    campaign.clear()
    return reference
