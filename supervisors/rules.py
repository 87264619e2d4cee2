"""The decisions of a supervisor, as pure functions: no trio, no clock, no chance (``now``, ``sample`` are arguments).

The rules are those of Erlang/OTP's ``supervisor`` behaviour; ``Backoff``, which OTP does not have, is exponential with
subtractive jitter.
"""

from __future__ import annotations

from collections.abc import Sequence

from supervisors.specs import AutoShutdown, Backoff, Intensity, Restart, Strategy


def is_restarted(restart: Restart, *, is_crash: bool) -> bool:
    """Decide whether a child that ended by itself is started again."""
    if restart is Restart.TRANSIENT:
        return is_crash
    return restart is Restart.PERMANENT


def restart_group(strategy: Strategy, names: Sequence[str], ended: str) -> Sequence[str]:
    """Return the children that are restarted with ``ended``, itself included, in starting order.

    ``names`` are all children in starting order. Those that run are stopped in the reverse of the given order first.
    """
    if strategy is Strategy.ONE_FOR_ONE:
        return (ended,)
    if strategy is Strategy.ONE_FOR_ALL:
        return tuple(names)
    return tuple(names[list(names).index(ended) :])


def count_restart(intensity: Intensity, restarted_at: Sequence[float], now: float) -> tuple[float, ...] | None:
    """Count one more restart at ``now``; give the restarts within the window, or None if it is one too many.

    A restart exactly ``per`` seconds ago is still inside the window.
    """
    recent = (*(at for at in restarted_at if now - at <= intensity.per), now)
    return recent if len(recent) <= intensity.restarts else None


def is_shutdown_due(auto_shutdown: AutoShutdown, *, is_significant: bool, others_alive_count: int) -> bool:
    """Decide whether a child that ended by itself for good ends its supervisor.

    ``others_alive_count``: the other significant children that run or wait for their restart.
    """
    if not is_significant or auto_shutdown is AutoShutdown.NEVER:
        return False
    return auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or others_alive_count == 0


def next_attempt(backoff: Backoff | None, attempt: int, ready_seconds: float) -> int:
    """Number the coming restart of a child: 1 after it was ready long enough, else one more than the last."""
    if backoff is not None and ready_seconds >= backoff.reset_after:
        return 1
    return attempt + 1


def delay_seconds(backoff: Backoff | None, attempt: int, sample: float) -> float:
    """Return the delay before restart number ``attempt`` (1-based); ``sample`` is a random number in [0, 1)."""
    if backoff is None:
        return 0.0
    try:
        delay = min(backoff.longest, backoff.first * backoff.factor ** (attempt - 1))
    except OverflowError:
        delay = backoff.longest if backoff.first > 0 else 0.0
    return delay * (1 - backoff.jitter * sample)
