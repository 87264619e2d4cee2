"""What the platform around a program does for it, and tells it: being woken up, being put to sleep, having windows.

The names come when they are asked for: each platform needs only its own. ``tk`` and ``qt`` have a ``host`` each.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_trio.platforms.cron import CronWakeUp as CronWakeUp
    from durable_trio.platforms.desktop import DesktopCall as DesktopCall
    from durable_trio.platforms.desktop import DesktopEngine as DesktopEngine
    from durable_trio.platforms.launchd import LaunchdWakeUp as LaunchdWakeUp
    from durable_trio.platforms.life_cycle import LifeCycle as LifeCycle
    from durable_trio.platforms.systemd import SystemdWakeUp as SystemdWakeUp
    from durable_trio.platforms.until_idle import Served as Served
    from durable_trio.platforms.until_idle import WhyEnded as WhyEnded
    from durable_trio.platforms.until_idle import serve_until_idle as serve_until_idle
    from durable_trio.platforms.wake_ups import NoWakeUp as NoWakeUp
    from durable_trio.platforms.wake_ups import Program as Program
    from durable_trio.platforms.wake_ups import WakeUp as WakeUp
    from durable_trio.platforms.wake_ups import WakeUpFailed as WakeUpFailed
else:  # not for type checkers: they would believe in every name
    _MODULES = {
        "CronWakeUp": "cron",
        "DesktopCall": "desktop",
        "DesktopEngine": "desktop",
        "LaunchdWakeUp": "launchd",
        "LifeCycle": "life_cycle",
        "NoWakeUp": "wake_ups",
        "Program": "wake_ups",
        "Served": "until_idle",
        "SystemdWakeUp": "systemd",
        "WakeUp": "wake_ups",
        "WakeUpFailed": "wake_ups",
        "WhyEnded": "until_idle",
        "serve_until_idle": "until_idle",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _MODULES:
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CronWakeUp",
    "DesktopCall",
    "DesktopEngine",
    "LaunchdWakeUp",
    "LifeCycle",
    "NoWakeUp",
    "Program",
    "Served",
    "SystemdWakeUp",
    "WakeUp",
    "WakeUpFailed",
    "WhyEnded",
    "serve_until_idle",
]
