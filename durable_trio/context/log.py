"""``ctx.log``: a logger that is silent while the run repeats itself."""

from __future__ import annotations

from durable_trio.calls.body import Body
from durable_trio.logger import RUN_LOGGER_NAME, Logger


class RunLogger(Logger):
    """A logger that names the run and is silent while the run replays what it has logged before."""

    def __init__(self, body: Body) -> None:
        super().__init__(RUN_LOGGER_NAME, {"run_id": body.run_id})
        self._body = body

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        return not self._body.state.is_repeating and super().isEnabledFor(level)
