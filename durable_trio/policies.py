"""Policies that a user hands in: values that check themselves at construction and compute nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Self

import attrs

from durable_trio.clock import seconds_of
from durable_trio.looks import exact_number, is_async, short

__all__ = ["Retry"]


def _exception_classes(value: object, what: str) -> tuple[type[Exception], ...]:
    classes = (value,) if isinstance(value, type) else tuple(value)  # type: ignore[arg-type]
    for item in classes:
        if not (isinstance(item, type) and issubclass(item, Exception)):
            raise TypeError(f"{what} must be subclasses of Exception, not {item!r}")
    return classes


def _delay(value: float | timedelta) -> float:
    return seconds_of(value, what="a delay")


@attrs.frozen(kw_only=True)
class Retry:
    """How often and when a failed attempt is tried again. Made by ``none``, ``fixed`` or ``exponential``.

    ``max_attempts`` counts the first try. ``initial_delay`` and ``max_delay`` are seconds. ``jitter`` (0 to 1) takes
    up to that part off each delay, so a delay never goes above its cap. Only exceptions in ``on`` that are not in
    ``give_up_on`` are tried again. A group, as a step with a nursery raises it, is in one of them also if all that it
    holds are. ``when``, a plain function, is asked last: it gets the error, and says whether another attempt is worth
    it. It is called once a failure, on the event loop, and not at replay; one that raises says no, in a note.

    An error that has a ``retry_after`` (seconds as a number, or a ``timedelta``; of a group the longest) is tried again
    no earlier than that, also above ``max_delay``.
    """

    max_attempts: int = attrs.field(default=1, converter=exact_number)
    initial_delay: float = attrs.field(default=0.0, converter=_delay)
    multiplier: float = attrs.field(default=1.0, converter=exact_number)
    max_delay: float = attrs.field(default=math.inf, converter=_delay)
    jitter: float = attrs.field(default=0.0, converter=exact_number)
    on: tuple[type[Exception], ...] = (Exception,)
    give_up_on: tuple[type[Exception], ...] = ()
    when: Callable[[Exception], object] | None = None

    def __attrs_post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int):
            raise TypeError(f"max_attempts must be an int, not {self.max_attempts!r}")
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; it counts the first try, so give at least 1")
        if not 1 <= self.multiplier < math.inf:
            raise ValueError(f"multiplier is {self.multiplier}; delays must not shrink, so give a number of at least 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}; give a part between 0 and 1")
        if self.when is not None and (not callable(self.when) or is_async(self.when)):
            raise TypeError(f"when must be a plain function of the error, not {short(self.when)}")

    @classmethod
    def none(
        cls,
        *,
        on: type[Exception] | tuple[type[Exception], ...] = (Exception,),
        give_up_on: type[Exception] | tuple[type[Exception], ...] = (),
        when: Callable[[Exception], object] | None = None,
    ) -> Self:
        """Try once, whatever the error."""
        return cls(on=_exception_classes(on, "on"), give_up_on=_exception_classes(give_up_on, "give_up_on"), when=when)

    @classmethod
    def fixed(
        cls,
        max_attempts: int,
        delay: float | timedelta,
        *,
        on: type[Exception] | tuple[type[Exception], ...] = (Exception,),
        give_up_on: type[Exception] | tuple[type[Exception], ...] = (),
        when: Callable[[Exception], object] | None = None,
    ) -> Self:
        """Try up to ``max_attempts`` times, ``delay`` seconds apart."""
        seconds = seconds_of(delay, what="delay")
        return cls(
            max_attempts=max_attempts,
            initial_delay=seconds,
            max_delay=seconds,
            on=_exception_classes(on, "on"),
            give_up_on=_exception_classes(give_up_on, "give_up_on"),
            when=when,
        )

    @classmethod
    def exponential(
        cls,
        max_attempts: int,
        initial_delay: float | timedelta = 1,
        multiplier: float = 2,
        max_delay: float | timedelta = 300,
        jitter: float = 0.0,
        *,
        on: type[Exception] | tuple[type[Exception], ...] = (Exception,),
        give_up_on: type[Exception] | tuple[type[Exception], ...] = (),
        when: Callable[[Exception], object] | None = None,
    ) -> Self:
        """Try up to ``max_attempts`` times; each delay is ``multiplier`` times the one before, up to ``max_delay``."""
        return cls(
            max_attempts=max_attempts,
            initial_delay=seconds_of(initial_delay, what="initial_delay"),
            multiplier=multiplier,
            max_delay=seconds_of(max_delay, what="max_delay"),
            jitter=jitter,
            on=_exception_classes(on, "on"),
            give_up_on=_exception_classes(give_up_on, "give_up_on"),
            when=when,
        )
