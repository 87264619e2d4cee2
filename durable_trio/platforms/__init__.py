"""What the platform around a program does for it, and tells it: being woken up, being put to sleep.

The names come when they are asked for: each platform needs only its own.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_trio.platforms.cron import CronWakeUp as CronWakeUp
    from durable_trio.platforms.launchd import LaunchdWakeUp as LaunchdWakeUp
    from durable_trio.platforms.systemd import SystemdWakeUp as SystemdWakeUp
    from durable_trio.platforms.wake_ups import NoWakeUp as NoWakeUp
    from durable_trio.platforms.wake_ups import Program as Program
    from durable_trio.platforms.wake_ups import WakeUp as WakeUp
    from durable_trio.platforms.wake_ups import WakeUpFailed as WakeUpFailed
else:  # not for type checkers: they would believe in every name
    _MODULES = {
        "CronWakeUp": "cron",
        "LaunchdWakeUp": "launchd",
        "NoWakeUp": "wake_ups",
        "Program": "wake_ups",
        "SystemdWakeUp": "systemd",
        "WakeUp": "wake_ups",
        "WakeUpFailed": "wake_ups",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _MODULES:
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CronWakeUp",
    "LaunchdWakeUp",
    "NoWakeUp",
    "Program",
    "SystemdWakeUp",
    "WakeUp",
    "WakeUpFailed",
]
