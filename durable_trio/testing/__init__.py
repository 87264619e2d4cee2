"""What users test their workflows with: virtual time, simulated crashes, and the contract that every store keeps.

The names come when they are asked for: pytest imports ``pytest_plugin`` from here whenever it starts.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_trio.testing.clock import VirtualClock as VirtualClock
    from durable_trio.testing.crash import CrashingStore as CrashingStore
    from durable_trio.testing.crash import SimulatedCrash as SimulatedCrash
    from durable_trio.testing.engines import DurableEngine as DurableEngine
else:  # not for type checkers: they would believe in every name
    _MODULES = {
        "VirtualClock": "clock",
        "CrashingStore": "crash",
        "SimulatedCrash": "crash",
        "DurableEngine": "engines",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _MODULES:
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["CrashingStore", "DurableEngine", "SimulatedCrash", "VirtualClock"]
