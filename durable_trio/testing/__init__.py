"""What users test their workflows with: virtual time, simulated crashes, and the contract that every store keeps."""

from durable_trio.testing.clock import VirtualClock
from durable_trio.testing.crash import CrashingStore, SimulatedCrash

__all__ = ["CrashingStore", "SimulatedCrash", "VirtualClock"]
