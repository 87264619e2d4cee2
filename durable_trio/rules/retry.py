"""When a failed attempt is tried again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final, cast

from durable_trio.looks import exact_number, is_a, leaves, look, said
from durable_trio.policies import Retry

# Thirty years; what asks for more, or for no number, has made a mistake.
_SECONDS_MAX: Final = 10**9


def delay_after(policy: Retry, attempt: int, error: Exception, *, chance: float) -> float | None:
    """Return the seconds to wait after the failure of ``attempt`` (1-based), or ``None`` to give up.

    ``chance`` in [0, 1) chooses how much of the jitter is taken off. The delay is never above ``max_delay``, unless the
    error itself asks for more.
    """
    if attempt >= policy.max_attempts:
        return None
    if not _is_among(error, policy.on) or _is_among(error, policy.give_up_on):
        return None
    if policy.when is not None and not _wants(policy.when, error):
        return None
    return max(_delay_of(policy, attempt) * (1.0 - policy.jitter * chance), _retry_after(error))


def _delay_of(policy: Retry, attempt: int) -> float:
    if not policy.initial_delay:
        return 0.0  # whatever it is multiplied by
    try:
        delay = policy.initial_delay * policy.multiplier ** (attempt - 1)
    except OverflowError:
        delay = policy.max_delay
    return min(delay, policy.max_delay)


def _wants(when: Callable[[Exception], object], error: Exception) -> bool:
    """Return what the user's predicate says; one that fails says no, and the error tells of it."""

    def failed(reason: BaseException) -> bool:
        note = f"it was not tried again, because Retry(when=…) has raised {said(reason)}"
        look(BaseException.add_note, error, note, instead=lambda _: None)
        return False

    return look(lambda: bool(when(error)), instead=failed)


def _retry_after(error: Exception) -> float:
    """Return the seconds that an error itself asks for, the most of a group; 0 if it does not say."""
    return max((_seconds_asked_for(each) for each in (error, *leaves(error))), default=0.0)


def _seconds_asked_for(error: BaseException) -> float:
    asked = look(getattr, error, "retry_after", None, instead=lambda _: None)
    if is_a(asked, timedelta):
        asked = look(timedelta.total_seconds, cast(timedelta, asked), instead=lambda _: None)
    seconds = look(exact_number, asked, instead=lambda _: None)
    if type(seconds) is int and abs(seconds) <= _SECONDS_MAX:
        seconds = float(seconds)
    return seconds if type(seconds) is float and 0 < seconds <= _SECONDS_MAX else 0.0


def _is_among(error: Exception, classes: tuple[type[Exception], ...]) -> bool:
    """Whether an error is of one of the classes; a group is also if all that it holds are."""
    return is_a(error, classes) or all(is_a(leaf, classes) for leaf in leaves(error))
