"""When a failed attempt is tried again."""

from __future__ import annotations

from durable_trio.looks import is_a, leaves
from durable_trio.policies import Retry


def delay_after(policy: Retry, attempt: int, error: Exception, *, chance: float) -> float | None:
    """Return the seconds to wait after the failure of ``attempt`` (1-based), or ``None`` to give up.

    ``chance`` in [0, 1) chooses how much of the jitter is taken off. The delay is never above ``max_delay``.
    """
    if attempt >= policy.max_attempts:
        return None
    if not _is_among(error, policy.on) or _is_among(error, policy.give_up_on):
        return None
    if not policy.initial_delay:
        return 0.0  # whatever it is multiplied by
    try:
        delay = policy.initial_delay * policy.multiplier ** (attempt - 1)
    except OverflowError:
        delay = policy.max_delay
    return min(delay, policy.max_delay) * (1.0 - policy.jitter * chance)


def _is_among(error: Exception, classes: tuple[type[Exception], ...]) -> bool:
    """Whether an error is of one of the classes; a group is also if all that it holds are."""
    return is_a(error, classes) or all(is_a(leaf, classes) for leaf in leaves(error))
